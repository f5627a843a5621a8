// Attention of one query group over a ring of keys and values, and over the step being decoded.
#pragma once
#include "ops_elements.h"
#include "ops_linear.h"

namespace gamegen {

template <class L> struct Attention : Basic<L> {
    using F = typename L::F;
    using I = typename L::I;
    using B = typename L::B;
    using Basic<L>::LOWEST;
    using Basic<L>::FAINT;

    static float dot(const float* a, const float* b) {  // 64 values
        F sum = L::mul(L::load(a), L::load(b));
        for (size_t i = 16; i < HEAD; i += 16) sum = L::fma(L::load(a + i), L::load(b + i), sum);
        return L::sum(sum);
    }

    // Into the second cache, for the next head: a ring fits none, and memory would be waited for.
    INLINE static void fetch(const uint8_t* line) { __builtin_prefetch(line, 0, 2); }

    // A query as signed bytes, for integer dot products with nibbles.
    struct ByteQuery {
        int32_t quads[16];  // dimensions 4 i .. 4 i + 3
        float scale, sum;
    };
    static ByteQuery byte_query(const float* query) {
        ByteQuery r;
        uint8_t bytes[HEAD];
        r.scale = Products<L>::quantise(query, HEAD, bytes);
        for (auto& b : bytes) b ^= 0x80;
        __builtin_memcpy(r.quads, bytes, HEAD);
        F sum = L::load(query);
        for (size_t i = 16; i < HEAD; i += 16) sum = L::add(sum, L::load(query + i));
        r.sum = L::sum(sum);
        return r;
    }

    template <int G>
    [[gnu::noinline]] static void scores_i4(const ByteQuery* q, const Seen& s, float* logits, size_t stride) {
        constexpr int V = L::score_vectors;  // of sixteen places, which share what is broadcast
        for (size_t at = 0; at < s.places; at += 16 * V) {
            const uint8_t* k = s.cache.k + at * (HEAD / 2);
            I acc[G][V];
#pragma GCC unroll 8
            for (auto& row : acc)
#pragma GCC unroll 2
                for (auto& a : row) a = L::izero();
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                B low[V], high[V];
#pragma GCC unroll 2
                for (int v = 0; v < V; ++v) {
                    const B both = L::bload(k + 512 * v + 64 * i);
                    low[v] = L::low_nibbles(both), high[v] = L::high_nibbles(both);
                    if (s.next.k) fetch(s.next.k + (at + 16 * static_cast<size_t>(v)) * (HEAD / 2) + 64 * i);
                }
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) {
                    B first = L::bset1(q[g].quads[i]), second = L::bset1(q[g].quads[8 + i]);
                    L::pin(first), L::pin(second);
#pragma GCC unroll 2
                    for (int v = 0; v < V; ++v) acc[g][v] = L::dp4(L::dp4(acc[g][v], low[v], first), high[v], second);
                }
            }
#pragma GCC unroll 2
            for (size_t v = 0; v < V; ++v) {
                const size_t from = at + 16 * v;
                const F scale = L::load_half(s.cache.k_scale + from), minimum = L::load_half(s.cache.k_minimum + from);
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) {
                    const F raw = L::mul(L::to_float(acc[g][v]), L::set1(q[g].scale));
                    L::store(logits + g * stride + from, L::fma(raw, scale, L::mul(L::set1(q[g].sum), minimum)));
                }
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
            for (size_t at = ring + s.n_staged; at < stride; ++at) row[at] = LOWEST;
        }
        for (size_t i = 0, at = s.hidden_from; i < s.hidden; ++i, at = at + 1 < s.window ? at + 1 : 0)
            for (size_t g = 0; at < s.places && g < heads; ++g) logits[g * stride + at] = LOWEST;
        for (size_t i = 0; i < s.n_staged; ++i)
            for (size_t g = 0; g < heads; ++g)
                logits[g * stride + ring + i] = dot(query + g * HEAD, s.staged + i * s.staged_stride);
    }

    // Values in integers: weights of 64 tokens become bytes of one scale.
    template <int G>
    [[gnu::noinline]] static void mix_i4(const float* weights, const Seen& s, float* out, size_t stride) {
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
            const F scales[4] = {L::load_half(s.cache.v_scale + at), L::load_half(s.cache.v_scale + at + 16),
                                 L::load_half(s.cache.v_scale + at + 32), L::load_half(s.cache.v_scale + at + 48)};
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
                F scaled[4], top = L::zero();
#pragma GCC unroll 8
                for (int i = 0; i < 4; ++i) {
                    const F w = L::load(weights + g * stride + at + 16 * i);
                    offset[g] = L::fma(w, L::load_half(s.cache.v_minimum + at + 16 * i), offset[g]);
                    scaled[i] = L::mul(w, scales[i]);
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
                if (s.next.k) {
                    const uint8_t* values = s.next.v + (at + four) * (HEAD / 2);
                    fetch(values), fetch(values + 64);
                    if (four < 32) fetch(reinterpret_cast<const uint8_t*>(s.next.k_scale + 4 * at) + 16 * four);
                }
                const B n[4] = {L::low_nibbles(first), L::low_nibbles(second), L::high_nibbles(first), L::high_nibbles(second)};
#pragma GCC unroll 8
                for (int g = 0; g < G; ++g) {
                    int32_t w;
                    __builtin_memcpy(&w, bytes[g] + four, 4);
#pragma GCC unroll 8
                    for (int i = 0; i < 4; ++i) {
                        acc[g][i] = L::dp4(acc[g][i], n[i], L::bset1(w));
                        L::pin(acc[g][i]);  // GCC would keep a second copy of the sums in memory
                    }
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

    // out (64) += weights (n) of values (n, 64), `stride` floats apart.
    static void add_staged(float* out, const float* values, size_t stride, const float* weights, size_t n) {
        F sum[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; ++i) sum[i] = L::load(out + 16 * i);
        for (size_t t = 0; t < n; ++t, values += stride)
#pragma GCC unroll 4
            for (size_t i = 0; i < 4; ++i) sum[i] = L::fma(L::load(values + 16 * i), L::set1(weights[t]), sum[i]);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; ++i) L::store(out + 16 * i, sum[i]);
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
            total[g] = Elements<L>::exponentials(row, stride, Elements<L>::maximum(row, stride));
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
            add_staged(out + g * HEAD, s.staged + HEAD, s.staged_stride, logits + g * stride + ring, s.n_staged);
            Elements<L>::scale(out + g * HEAD, HEAD, 1.0f / total[g]);
        }
    }
};

}  // namespace gamegen
