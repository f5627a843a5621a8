// Products of rows with packed matrices.
#pragma once
#include "ops_basic.h"

namespace gamegen {

template <class L> struct Products : Basic<L> {
    using F = typename L::F;
    using I = typename L::I;
    using B = typename L::B;
    using Basic<L>::load_part;
    using Basic<L>::FAINT;
    using Basic<L>::CHUNK;

    // One row as bytes: round(x * 127 / largest) + 128. Returns the scale that gives x back.
    static float quantise(const float* x, size_t k, uint8_t* bytes) {
        F top = L::zero();
        size_t i = 0;
        for (; i + 16 <= k; i += 16) top = L::max(top, L::abs(L::load(x + i)));
        if (i < k) top = L::max(top, L::abs(load_part(x + i, k - i)));
        const float largest = L::largest(top);
        const F by = L::set1(largest > FAINT ? 127.0f / largest : 0.0f);
        for (i = 0; i + 16 <= k; i += 16) L::store_biased(bytes + i, L::round(L::mul(L::load(x + i), by)));
        if (i < k) {
            uint8_t part[16];
            L::store_biased(part, L::round(L::mul(load_part(x + i, k - i), by)));
            for (size_t j = 0; i + j < round_up(k, 4); ++j) bytes[i + j] = part[j];
        }
        return largest / 127.0f;
    }

    // Outputs at..at + 15 of a row from their sums over bytes.
    INLINE static void put_i8(const Linear& m, size_t at, I sum, float scale, float* out) {
        const F whole = L::to_float(L::isub(sum, L::iload(m.offset.data() + at)));
        const F by = L::mul(L::load(m.scale.data() + at), L::set1(scale));
        L::store(out + at, L::fma(whole, by, L::load(m.bias.data() + at)));
    }

    // What a tile of rows fetches of the next block's weights: `apart` bytes further for every quad. Eight tiles share a
    // block, half a line to a quad, where there are so many: loads of this block's weights queue behind those from memory.
    struct Ahead {
        const int8_t* from;
        size_t apart;
    };
    static Ahead next_weights(const Linear& m, size_t b, size_t tile, size_t tiles) {
        const size_t quads = (m.k + 3) / 4, block = quads * BLOCK * 4, apart = tiles < 8 ? 64 : 32, from = tile * quads * apart;
        const int8_t* w = m.w8.data() + b * block;
        return b + 1 < m.blocks && from < block ? Ahead{w + block + from, apart} : Ahead{w, 0};
    }

    template <int R>
    [[gnu::noinline]] static void block_i8(const Linear& m, size_t b, Ahead ahead, const uint8_t* bytes, const float* scales, float* out) {
        const size_t quads = (m.k + 3) / 4, stride = quads * 4;
        const int8_t* w = m.w8.data() + b * quads * BLOCK * 4;
        I acc[R][4];
#pragma GCC unroll 8
        for (auto& row : acc)
#pragma GCC unroll 8
            for (auto& a : row) a = L::izero();
        for (size_t q = 0; q < quads; ++q, w += BLOCK * 4) {
            B w0 = L::bload(w), w1 = L::bload(w + 64), w2 = L::bload(w + 128), w3 = L::bload(w + 192);
            if constexpr (R > 1) {
                L::pin(w0), L::pin(w1), L::pin(w2), L::pin(w3);
                __builtin_prefetch(ahead.from + ahead.apart * q, 0, 2);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                int32_t four;
                __builtin_memcpy(&four, bytes + r * stride + 4 * q, 4);
                B x = L::bset1(four);
                L::pin(x);
                acc[r][0] = L::dp4(acc[r][0], x, w0);
                acc[r][1] = L::dp4(acc[r][1], x, w1);
                acc[r][2] = L::dp4(acc[r][2], x, w2);
                acc[r][3] = L::dp4(acc[r][3], x, w3);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < 4; ++j)
                put_i8(m, b * BLOCK + 16 * j, acc[r][j], scales[r], out + r * m.width());
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
    template <int R>
    [[gnu::noinline]] static void strip_i4(const Linear& m, size_t s, const uint8_t* bytes, const float* scales, float* out) {
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

    template <int R>
    [[gnu::noinline]] static void block_f32(const Linear& m, size_t b, const float* x, size_t stride, float* out) {
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

    static void linear(const Linear& m, const float* x, size_t rows, size_t x_stride, float* out, uint8_t* bytes) {
        const bool int4 = !m.w4.empty(), int8 = !m.w8.empty();
        const size_t stride = int4 ? scratch_bytes(m.k) : round_up(m.k, 4);
        float scales[CHUNK];
        for (size_t first = 0; first < rows; first += CHUNK) {
            const size_t some = rows - first < CHUNK ? rows - first : CHUNK;
            for (size_t r = 0; (int4 || int8) && r < some; ++r) {
                const float* row = x + (first + r) * x_stride;
                scales[r] = int4 ? quantise_groups(row, m.k, bytes + r * stride) : quantise(row, m.k, bytes + r * stride);
            }
            for (size_t s = 0; int4 && s < 2 * m.blocks; ++s)
                for (size_t r = 0; r < some; r += L::int4_tile)
                    with_rows<L::int4_tile>(some - r, [&]<int R>() {
                        strip_i4<R>(m, s, bytes + r * stride, scales + r, out + (first + r) * m.width());
                    });
            const size_t tiles = (some + L::int8_tile - 1) / L::int8_tile;
            for (size_t b = 0; !int4 && b < m.blocks; ++b)
                if (int8)
                    for (size_t r = 0; r < some; r += L::int8_tile)
                        with_rows<L::int8_tile>(some - r, [&]<int R>() {
                            block_i8<R>(m, b, next_weights(m, b, r / L::int8_tile, tiles), bytes + r * stride, scales + r, out + (first + r) * m.width());
                        });
                else
                    for (size_t r = 0; r < some; r += L::tile)
                        with_rows<L::tile>(some - r, [&]<int R>() {
                            block_f32<R>(m, b, x + (first + r) * x_stride, x_stride, out + (first + r) * m.width());
                        });
        }
    }
};

}  // namespace gamegen
