// The operations of ops.h over any lanes. Included by one isa_*.cpp per instruction set, which must include
// nothing that leaves functions with its instructions in other files.
#pragma once
#include "ops.h"

#define INLINE [[gnu::always_inline]] inline

namespace gamegen {

template <class L> struct Impl {
    using F = typename L::F;
    using I = typename L::I;
    using B = typename L::B;
    static constexpr float LOWEST = -__builtin_inff();

    // The last n % 16 numbers, zeros behind them.
    static F load_part(const float* p, size_t n, float fill = 0) {
        float v[16];
        for (size_t i = 0; i < 16; ++i) v[i] = i < n ? p[i] : fill;
        return L::load(v);
    }
    static void store_part(float* p, F x, size_t n) {
        float v[16];
        L::store(v, x);
        for (size_t i = 0; i < n; ++i) p[i] = v[i];
    }
    // Apply fn to all of x (n), sixteen at a time: out may be x.
    template <class Fn> static void map(const float* x, size_t n, float* out, Fn fn) {
        size_t i = 0;
        for (; i + 16 <= n; i += 16) L::store(out + i, fn(L::load(x + i), i));
        if (i < n) store_part(out + i, fn(load_part(x + i, n - i), i), n - i);
    }

    // --- exp: 2 ulp for -87 <= x <= 88, 0 below ---

    INLINE static F exp(F x) {
        x = L::max(L::min(x, L::set1(88.0f)), L::set1(-87.3f));
        const F n = L::round(L::mul(x, L::set1(1.44269504f)));
        F r = L::fma(n, L::set1(-0.693359375f), x);
        r = L::fma(n, L::set1(2.12194440e-4f), r);
        F p = L::set1(1.9875691500e-4f);
        for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
            p = L::fma(p, r, L::set1(c));
        p = L::fma(L::mul(p, r), r, L::add(r, L::set1(1.0f)));
        return L::mul(p, L::pow2(n));
    }
    // exp(x) for x <= 0, exactly 0 for -inf.
    INLINE static F exp_or_zero(F x) {
        // 1 well above -87, 0 below.
        const F keep = L::round(L::min(L::max(L::add(x, L::set1(87.0f)), L::zero()), L::set1(1.0f)));
        return L::mul(exp(x), keep);
    }

    // --- Matrix products ---

    // A row whose largest number is not above this counts as zero: 127 / largest must stay finite.
    static constexpr float FAINT = 1e-30f;

    // One row as bytes: round(x * 127 / largest) + 128. Returns the scale that gives x back.
    static float quantise(const float* x, size_t k, uint8_t* bytes) {
        F top = L::zero();
        size_t i = 0;
        for (; i + 16 <= k; i += 16) top = L::max(top, L::abs(L::load(x + i)));
        if (i < k) top = L::max(top, L::abs(load_part(x + i, k - i)));
        const float largest = L::largest(top);
        const F by = L::set1(largest > FAINT ? 127.0f / largest : 0.0f);
        int8_t part[16];
        auto* signed_bytes = reinterpret_cast<int8_t*>(bytes);
        for (i = 0; i + 16 <= k; i += 16) L::store_s8(signed_bytes + i, L::round(L::mul(L::load(x + i), by)));
        if (i < k) {
            L::store_s8(part, L::round(L::mul(load_part(x + i, k - i), by)));
            for (size_t j = 0; i + j < round_up(k, 4); ++j) signed_bytes[i + j] = part[j];
        }
        for (size_t j = 0; j < round_up(k, 4); ++j) bytes[j] ^= 0x80;
        return largest / 127.0f;
    }

    template <int R> static void block_i8(const Linear& m, size_t b, const uint8_t* bytes, const float* scales, float* out) {
        const size_t quads = (m.k + 3) / 4, stride = quads * 4;
        const int8_t* w = m.w8.data() + b * quads * BLOCK * 4;
        I acc[R][4];
#pragma GCC unroll 8
        for (auto& row : acc)
#pragma GCC unroll 8
            for (auto& a : row) a = L::izero();
        for (size_t q = 0; q < quads; ++q, w += BLOCK * 4) {
            const B w0 = L::bload(w), w1 = L::bload(w + 64), w2 = L::bload(w + 128), w3 = L::bload(w + 192);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                int32_t four;
                __builtin_memcpy(&four, bytes + r * stride + 4 * q, 4);
                const B x = L::bset1(four);
                acc[r][0] = L::dp4(acc[r][0], x, w0);
                acc[r][1] = L::dp4(acc[r][1], x, w1);
                acc[r][2] = L::dp4(acc[r][2], x, w2);
                acc[r][3] = L::dp4(acc[r][3], x, w3);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < 4; ++j) {
                const size_t at = b * BLOCK + 16 * j;
                const F sum = L::to_float(L::isub(acc[r][j], L::iload(m.offset.data() + at)));
                const F scale = L::mul(L::load(m.scale.data() + at), L::set1(scales[r]));
                L::store(out + r * m.width() + at, L::fma(sum, scale, L::load(m.bias.data() + at)));
            }
    }

    // One row as signed bytes, groups of 32 and behind each -8 times its sum, 36 bytes together. Returns the scale.
    static float quantise_groups(const float* x, size_t k, uint8_t* bytes) {
        const size_t groups = round_up(k, GROUP4) / GROUP4;
        uint8_t padded[GROUP4 + 4];
        const float scale = quantise(x, k, bytes);
        for (size_t g = groups; g-- > 0;) {  // from the last, so that nothing is overwritten unread
            int32_t sum = 0;
            for (size_t i = 0; i < GROUP4; ++i) {
                padded[i] = GROUP4 * g + i < k ? bytes[GROUP4 * g + i] ^ 0x80 : 0;
                sum -= 8 * static_cast<int8_t>(padded[i]);
            }
            __builtin_memcpy(padded + GROUP4, &sum, 4);
            __builtin_memcpy(bytes + (GROUP4 + 4) * g, padded, GROUP4 + 4);
        }
        return scale;
    }

    // Nibbles are the unsigned factor as they are; that they stand for nibble - 8 is where each group's sum begins.
    template <int R> static void strip_i4(const Linear& m, size_t s, const uint8_t* bytes, const float* scales, float* out) {
        const size_t groups = round_up(m.k, GROUP4) / GROUP4, stride = groups * (GROUP4 + 4);
        const uint8_t* w = m.w4.data() + s * groups * RECORD4;
        F sum[R][2];
#pragma GCC unroll 8
        for (auto& row : sum)
#pragma GCC unroll 8
            for (auto& f : row) f = L::zero();
        for (size_t g = 0; g < groups; ++g, w += RECORD4) {
            I acc[R][2];
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                int32_t start;
                __builtin_memcpy(&start, bytes + r * stride + (GROUP4 + 4) * g + GROUP4, 4);
                acc[r][0] = acc[r][1] = L::iset1(start);
            }
#pragma GCC unroll 4
            for (int p = 0; p < 4; ++p) {
                const B b0 = L::bload(w + 128 * p), b1 = L::bload(w + 128 * p + 64);
                const B low0 = L::low_nibbles(b0), low1 = L::low_nibbles(b1), high0 = L::high_nibbles(b0),
                        high1 = L::high_nibbles(b1);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    const uint8_t* x = bytes + r * stride + (GROUP4 + 4) * g + 4 * p;
                    int32_t first, second;
                    __builtin_memcpy(&first, x, 4);
                    __builtin_memcpy(&second, x + GROUP4 / 2, 4);
                    acc[r][0] = L::dp4(acc[r][0], low0, L::bset1(first));
                    acc[r][1] = L::dp4(acc[r][1], low1, L::bset1(first));
                    acc[r][0] = L::dp4(acc[r][0], high0, L::bset1(second));
                    acc[r][1] = L::dp4(acc[r][1], high1, L::bset1(second));
                }
            }
            const auto* halves = reinterpret_cast<const uint16_t*>(w + STRIP * GROUP4 / 2);
            const F scale0 = L::load_half(halves), scale1 = L::load_half(halves + 16);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                sum[r][0] = L::fma(L::to_float(acc[r][0]), scale0, sum[r][0]);
                sum[r][1] = L::fma(L::to_float(acc[r][1]), scale1, sum[r][1]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < 2; ++j) {
                const size_t at = s * STRIP + 16 * j;
                L::store(out + r * m.width() + at, L::fma(sum[r][j], L::set1(scales[r]), L::load(m.bias.data() + at)));
            }
    }

    template <int R> static void block_f32(const Linear& m, size_t b, const float* x, size_t stride, float* out) {
        const float* w = m.w.data() + b * m.k * BLOCK;
        F acc[R][4];
#pragma GCC unroll 8
        for (auto& row : acc)
#pragma GCC unroll 8
            for (auto& a : row) a = L::zero();
        for (size_t i = 0; i < m.k; ++i, w += BLOCK) {
            const F w0 = L::load(w), w1 = L::load(w + 16), w2 = L::load(w + 32), w3 = L::load(w + 48);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const F a = L::set1(x[r * stride + i]);
                acc[r][0] = L::fma(a, w0, acc[r][0]);
                acc[r][1] = L::fma(a, w1, acc[r][1]);
                acc[r][2] = L::fma(a, w2, acc[r][2]);
                acc[r][3] = L::fma(a, w3, acc[r][3]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < 4; ++j) {
                const size_t at = b * BLOCK + 16 * j;
                L::store(out + r * m.width() + at, L::add(acc[r][j], L::load(m.bias.data() + at)));
            }
    }

    // fn<R>() for R = rows, at most the R given.
    template <int R, class Fn> static void with_rows(size_t rows, Fn fn) {
        if constexpr (R > 1) {
            if (rows < static_cast<size_t>(R)) return with_rows<R - 1>(rows, fn);
        }
        fn.template operator()<R>();
    }

    static void linear(const Linear& m, const float* x, size_t rows, size_t x_stride, float* out, uint8_t* bytes) {
        const bool int4 = !m.w4.empty(), int8 = !m.w8.empty();
        const size_t stride = int4 ? scratch_bytes(m.k) : round_up(m.k, 4);
        float scales[256];
        for (size_t first = 0; first < rows; first += 240) {
            const size_t some = rows - first < 240 ? rows - first : 240;
            for (size_t r = 0; (int4 || int8) && r < some; ++r) {
                const float* row = x + (first + r) * x_stride;
                scales[r] = int4 ? quantise_groups(row, m.k, bytes + r * stride) : quantise(row, m.k, bytes + r * stride);
            }
            for (size_t s = 0; int4 && s < 2 * m.blocks; ++s)
                for (size_t r = 0; r < some; r += L::int8_tile)
                    with_rows<L::int8_tile>(some - r, [&]<int R>() {
                        strip_i4<R>(m, s, bytes + r * stride, scales + r, out + (first + r) * m.width());
                    });
            for (size_t b = 0; !int4 && b < m.blocks; ++b)
                if (int8)
                    for (size_t r = 0; r < some; r += L::int8_tile)
                        with_rows<L::int8_tile>(some - r, [&]<int R>() {
                            block_i8<R>(m, b, bytes + r * stride, scales + r, out + (first + r) * m.width());
                        });
                else
                    for (size_t r = 0; r < some; r += L::tile)
                        with_rows<L::tile>(some - r, [&]<int R>() {
                            block_f32<R>(m, b, x + (first + r) * x_stride, x_stride, out + (first + r) * m.width());
                        });
        }
    }

    // --- Element by element ---

    static void rms_norm(const float* x, const float* gain, size_t n, float* out) {
        F squares = L::zero();
        size_t i = 0;
        for (; i + 16 <= n; i += 16) squares = L::fma(L::load(x + i), L::load(x + i), squares);
        if (i < n) squares = L::fma(load_part(x + i, n - i), load_part(x + i, n - i), squares);
        const float mean = L::sum(squares) / static_cast<float>(n) + 1.1920929e-7f;
        const F by = L::set1(1.0f / __builtin_sqrtf(mean));
        map(x, n, out, [&](F v, size_t at) {
            return L::mul(L::mul(v, by), n - at < 16 ? load_part(gain + at, n - at) : L::load(gain + at));
        });
    }
    INLINE static F silu_of(F x) { return L::div(x, L::add(L::set1(1.0f), exp(L::sub(L::zero(), x)))); }
    static void silu_times(const float* gate, const float* up, size_t n, float* out) {
        map(gate, n, out, [&](F v, size_t at) {
            return L::mul(silu_of(v), n - at < 16 ? load_part(up + at, n - at) : L::load(up + at));
        });
    }
    static void silu(float* x, size_t n) { map(x, n, x, [](F v, size_t) { return silu_of(v); }); }
    static void round_half(float* x, size_t n) {
        for (size_t i = 0; i < n; i += 16) L::store(x + i, L::round_half(L::load(x + i)));
    }
    static void scale(float* x, size_t n, float by) { map(x, n, x, [=](F v, size_t) { return L::mul(v, L::set1(by)); }); }

    // Sums and differences of lanes h apart: lane i is x[i] + x[i + h], lane i + h is x[i] - x[i + h].
    template <int h> INLINE static F butterfly(F x) {
        float signs[16];
        for (int i = 0; i < 16; ++i) signs[i] = i & h ? -1.0f : 1.0f;
        return L::add(L::template swap<h>(x), L::mul(x, L::load(signs)));
    }
    INLINE static F hadamard16(F x) { return butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(x)))); }
    static void hadamard(float* x) {
        const F a = hadamard16(L::load(x)), b = hadamard16(L::load(x + 16)), c = hadamard16(L::load(x + 32)),
                d = hadamard16(L::load(x + 48)), eighth = L::set1(0.125f);
        const F s = L::add(a, b), t = L::sub(a, b), u = L::add(c, d), v = L::sub(c, d);
        L::store(x, L::mul(L::add(s, u), eighth));
        L::store(x + 16, L::mul(L::add(t, v), eighth));
        L::store(x + 32, L::mul(L::sub(s, u), eighth));
        L::store(x + 48, L::mul(L::sub(t, v), eighth));
    }

    static float maximum(const float* x, size_t n) {
        F top = L::set1(LOWEST);
        size_t i = 0;
        for (; i + 16 <= n; i += 16) top = L::max(top, L::load(x + i));
        if (i < n) top = L::max(top, load_part(x + i, n - i, LOWEST));
        return L::largest(top);
    }
    static float exponentials(float* x, size_t n, float maximum) {
        F sum = L::zero();
        const F top = L::set1(maximum);
        size_t i = 0;
        for (; i + 16 <= n; i += 16) {
            const F e = exp_or_zero(L::sub(L::load(x + i), top));
            L::store(x + i, e);
            sum = L::add(sum, e);
        }
        if (i < n) {
            const F e = exp_or_zero(L::sub(load_part(x + i, n - i, LOWEST), top));
            store_part(x + i, e, n - i);
            sum = L::add(sum, e);
        }
        return L::sum(sum);
    }

    // --- Attention ---

    static float dot(const float* a, const float* b) {  // 64 values
        F sum = L::mul(L::load(a), L::load(b));
        for (size_t i = 16; i < HEAD; i += 16) sum = L::fma(L::load(a + i), L::load(b + i), sum);
        return L::sum(sum);
    }

    // A query as signed bytes, for integer dot products with nibbles.
    struct ByteQuery {
        int32_t quads[16];  // dimensions 4 i .. 4 i + 3
        float scale, sum;
    };
    static ByteQuery byte_query(const float* query) {
        ByteQuery r;
        uint8_t bytes[HEAD];
        r.scale = quantise(query, HEAD, bytes);
        for (auto& b : bytes) b ^= 0x80;
        __builtin_memcpy(r.quads, bytes, HEAD);
        F sum = L::load(query);
        for (size_t i = 16; i < HEAD; i += 16) sum = L::add(sum, L::load(query + i));
        r.sum = L::sum(sum);
        return r;
    }

    template <int G> static void scores_i4(const ByteQuery* q, const Seen& s, float* logits, size_t stride) {
        for (size_t at = 0; at < s.places; at += 16) {
            const uint8_t* k = s.cache.k + at * (HEAD / 2);
            I acc[G];
#pragma GCC unroll 8
            for (auto& a : acc) a = L::izero();
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                const B both = L::bload(k + 64 * i), low = L::low_nibbles(both), high = L::high_nibbles(both);
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) {
                    acc[g] = L::dp4(acc[g], low, L::bset1(q[g].quads[i]));
                    acc[g] = L::dp4(acc[g], high, L::bset1(q[g].quads[8 + i]));
                }
            }
            const F scale = L::load_half(s.cache.k_scale + at), minimum = L::load_half(s.cache.k_minimum + at);
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
                const F raw = L::mul(L::to_float(acc[g]), L::set1(q[g].scale));
                L::store(logits + g * stride + at, L::fma(raw, scale, L::mul(L::set1(q[g].sum), minimum)));
            }
        }
    }

    static void scores_f4(const float* q, const Seen& s, float* logits) {
        F sum = L::load(q);
        for (size_t i = 16; i < HEAD; i += 16) sum = L::add(sum, L::load(q + i));
        const F total = L::set1(L::sum(sum));
        for (size_t at = 0; at < s.places; at += 16) {
            const uint8_t* k = s.cache.k + at * (HEAD / 2);
            F acc = L::zero();
            for (int i = 0; i < 8; ++i) {
                const B both = L::bload(k + 64 * i);
                for (int j = 0; j < 4; ++j) {
                    acc = L::fma(L::to_float(L::nibble(both, 8 * j)), L::set1(q[4 * i + j]), acc);
                    acc = L::fma(L::to_float(L::nibble(both, 8 * j + 4)), L::set1(q[32 + 4 * i + j]), acc);
                }
            }
            const F scale = L::load_half(s.cache.k_scale + at), minimum = L::load_half(s.cache.k_minimum + at);
            L::store(logits + at, L::fma(acc, scale, L::mul(total, minimum)));
        }
    }

    static void load_half_head(const uint8_t* base, size_t place, float* out) {
        const auto* h = reinterpret_cast<const uint16_t*>(base) + place * HEAD;
        for (size_t i = 0; i < HEAD; i += 16) L::store(out + i, L::load_half(h + i));
    }

    static void scores(const float* query, size_t heads, const Seen& s, float* logits) {
        const size_t stride = s.width(), ring = round_up(s.places, BLOCK);
        if (s.half) {
            float key[HEAD];
            for (size_t at = 0; at < s.places; ++at) {
                load_half_head(s.cache.k, at, key);
                for (size_t g = 0; g < heads; ++g) logits[g * stride + at] = dot(query + g * HEAD, key);
            }
        } else if (s.exact) {
            for (size_t g = 0; g < heads; ++g) scores_f4(query + g * HEAD, s, logits + g * stride);
        } else {
            ByteQuery bytes[MAX_GROUP];
            for (size_t g = 0; g < heads; ++g) bytes[g] = byte_query(query + g * HEAD);
            for (size_t g = 0; g < heads; g += 4)
                with_rows<4>(heads - g, [&]<int G>() { scores_i4<G>(bytes + g, s, logits + g * stride, stride); });
        }
        for (size_t g = 0; g < heads; ++g) {
            float* row = logits + g * stride;
            for (size_t at = s.places; at < ring; ++at) row[at] = LOWEST;
            for (size_t i = 0; i < s.hidden; ++i) {
                const size_t at = (s.hidden_from + i) % s.window;
                if (at < s.places) row[at] = LOWEST;
            }
            for (size_t i = 0; i < s.n_staged; ++i) row[ring + i] = dot(query + g * HEAD, s.staged + i * s.staged_stride);
            for (size_t at = ring + s.n_staged; at < stride; ++at) row[at] = LOWEST;
        }
    }

    // Values in integers: weights of 64 tokens become bytes of one scale.
    template <int G> static void mix_i4(const float* weights, const Seen& s, float* out, size_t stride) {
        F sum[G][4], offset[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
            for (auto& f : sum[g]) f = L::zero();
            offset[g] = L::zero();
        }
        for (size_t at = 0; at < s.places; at += BLOCK) {
            int8_t bytes[G][BLOCK];
            float largest[G];
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
                F scaled[4], top = L::zero();
#pragma GCC unroll 8
                for (int i = 0; i < 4; ++i) {
                    const F w = L::load(weights + g * stride + at + 16 * i);
                    offset[g] = L::fma(w, L::load_half(s.cache.v_minimum + at + 16 * i), offset[g]);
                    scaled[i] = L::mul(w, L::load_half(s.cache.v_scale + at + 16 * i));
                    top = L::max(top, scaled[i]);
                }
                largest[g] = L::largest(top);
                const F by = L::set1(largest[g] > FAINT ? 127.0f / largest[g] : 0.0f);
#pragma GCC unroll 8
                for (int i = 0; i < 4; ++i) L::store_s8(bytes[g] + 16 * i, L::round(L::mul(scaled[i], by)));
            }
            I acc[G][4];
#pragma GCC unroll 8
            for (auto& row : acc)
#pragma GCC unroll 8
                for (auto& a : row) a = L::izero();
            for (size_t four = 0; four < BLOCK; four += 4) {
                const uint8_t* v = s.cache.v + (at + four) * (HEAD / 2);
                const B first = L::bload(v), second = L::bload(v + 64);
                const B n[4] = {L::low_nibbles(first), L::low_nibbles(second), L::high_nibbles(first), L::high_nibbles(second)};
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) {
                    int32_t w;
                    __builtin_memcpy(&w, bytes[g] + four, 4);
#pragma GCC unroll 8
                    for (int i = 0; i < 4; ++i) acc[g][i] = L::dp4(acc[g][i], n[i], L::bset1(w));
                }
            }
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
                for (int i = 0; i < 4; ++i)
                    sum[g][i] = L::fma(L::to_float(acc[g][i]), L::set1(largest[g] / 127.0f), sum[g][i]);
        }
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const F whole = L::set1(L::sum(offset[g]));
#pragma GCC unroll 8
            for (int i = 0; i < 4; ++i) L::store(out + g * HEAD + 16 * i, L::add(sum[g][i], whole));
        }
    }

    static void mix_f4(const float* weights, const Seen& s, float* out) {
        F sum[4] = {L::zero(), L::zero(), L::zero(), L::zero()}, offset = L::zero();
        for (size_t at = 0; at < s.places; at += 16) {
            const F w = L::load(weights + at);
            offset = L::fma(w, L::load_half(s.cache.v_minimum + at), offset);
            float scaled[16];
            L::store(scaled, L::mul(w, L::load_half(s.cache.v_scale + at)));
            for (size_t i = 0; i < 16; ++i) {
                const uint8_t* v = s.cache.v + (at + i / 4 * 4) * (HEAD / 2);
                const int shift = static_cast<int>(i % 4) * 8;
                const B first = L::bload(v), second = L::bload(v + 64);
                const F by = L::set1(scaled[i]);
                sum[0] = L::fma(L::to_float(L::nibble(first, shift)), by, sum[0]);
                sum[1] = L::fma(L::to_float(L::nibble(second, shift)), by, sum[1]);
                sum[2] = L::fma(L::to_float(L::nibble(first, shift + 4)), by, sum[2]);
                sum[3] = L::fma(L::to_float(L::nibble(second, shift + 4)), by, sum[3]);
            }
        }
        const F whole = L::set1(L::sum(offset));
        for (int i = 0; i < 4; ++i) L::store(out + 16 * i, L::add(sum[i], whole));
    }

    static void add_weighted(float* out, const float* values, float weight) {
        for (size_t i = 0; i < HEAD; i += 16)
            L::store(out + i, L::fma(L::load(values + i), L::set1(weight), L::load(out + i)));
    }

    static void mix(float* logits, size_t heads, const Seen& s, float* out) {
        const size_t stride = s.width(), ring = round_up(s.places, BLOCK);
        float total[MAX_GROUP];
        for (size_t g = 0; g < heads; ++g) {
            float* row = logits + g * stride;
            total[g] = exponentials(row, stride, maximum(row, stride));
        }
        if (s.half) {
            float value[HEAD];
            for (size_t i = 0; i < heads * HEAD; ++i) out[i] = 0;
            for (size_t at = 0; at < s.places; ++at) {
                load_half_head(s.cache.v, at, value);
                for (size_t g = 0; g < heads; ++g) add_weighted(out + g * HEAD, value, logits[g * stride + at]);
            }
        } else if (s.exact) {
            for (size_t g = 0; g < heads; ++g) mix_f4(logits + g * stride, s, out + g * HEAD);
        } else {
            for (size_t g = 0; g < heads; g += 4)
                with_rows<4>(heads - g, [&]<int G>() { mix_i4<G>(logits + g * stride, s, out + g * HEAD, stride); });
        }
        for (size_t g = 0; g < heads; ++g) {
            for (size_t i = 0; i < s.n_staged; ++i)
                add_weighted(out + g * HEAD, s.staged + i * s.staged_stride + HEAD, logits[g * stride + ring + i]);
            scale(out + g * HEAD, HEAD, 1.0f / total[g]);
        }
    }

    // --- Ballistic attention ---

    // softmax over the cells of one axis (32 lanes, the first n of use) of how near they are to `place`
    static void near(float place, float precision, size_t n, F* out) {
        const F period = L::set1(static_cast<float>(n)), inverse = L::set1(1.0f / static_cast<float>(n));
        float cells[16], sums = 0;
        for (size_t half = 0; half < 2; ++half) {
            for (size_t i = 0; i < 16; ++i) cells[i] = static_cast<float>(16 * half + i);
            const F apart = L::sub(L::load(cells), L::set1(place));
            const F d = L::fma(L::round(L::mul(apart, inverse)), L::sub(L::zero(), period), apart);
            float e[16];
            L::store(e, exp(L::mul(L::mul(d, d), L::set1(-0.5f * precision))));
            for (size_t i = 0; i < 16; ++i) {
                if (16 * half + i >= n) e[i] = 0;
                sums += e[i];
            }
            out[half] = L::load(e);
        }
        const F by = L::set1(sums > 0 ? 1.0f / sums : 0.0f);
        for (size_t half = 0; half < 2; ++half) out[half] = L::mul(out[half], by);
    }

    static void ballistic(const PathsView& p, float* logits) {
        const size_t m = p.map_cells;
        F led[32][2];
        for (size_t r = 0; r < m; ++r) led[r][0] = led[r][1] = L::zero();
        for (size_t h = 0; h < p.n_heads; ++h) {
            const float* aim = p.aim + 4 * h;
            for (size_t k = 0; k < p.n_paths; ++k) {
                const float weight = p.weight[h * p.n_paths + k];
                if (weight == 0) continue;
                F row[2], col[2];
                near(p.place[2 * k] + aim[0], aim[2], m, row);
                near(p.place[2 * k + 1] + aim[1], aim[2], m, col);
                float by[32];
                for (size_t half = 0; half < 2; ++half) L::store(by + 16 * half, L::mul(row[half], L::set1(weight * aim[3])));
                for (size_t r = 0; r < m; ++r) {
                    const F w = L::set1(by[r]);
                    led[r][0] = L::fma(w, col[0], led[r][0]);
                    led[r][1] = L::fma(w, col[1], led[r][1]);
                }
            }
        }
        for (size_t r = 0; r < m; ++r) {
            float v[32];
            L::store(v, led[r][0]);
            L::store(v + 16, led[r][1]);
            for (size_t c = 0; c < m; ++c) logits[r * m + c] += v[c];
        }
    }

    static constexpr Ops table() {
        return {L::name, linear, rms_norm, silu_times, silu, hadamard, round_half, scores, mix,
                maximum, exponentials, scale, ballistic};
    }
};

}  // namespace gamegen
