// Products of several rows with 8-bit weights, over tiles: sixteen rows and 64 outputs at once. Sums are exact in 32
// bits, so their bits are those of ops_linear.h, which computes everything else.
#pragma once
#include "amx.h"
#include "ops_linear.h"

namespace gamegen {

template <class L, class Tiles> struct TileProducts : Products<L> {
    using Basic<L>::CHUNK;

    static constexpr size_t LEAST_ROWS = 5;  // below, a tile would be mostly empty
    static constexpr size_t TILE_ROWS = 16, TILE_BYTES = 64;
    // Tiles 0 to 3 are sums of 16 outputs each; 4 is rows and 5 weights; 6 and 7 the same where k ends within a tile.

    static TileConfig shape(size_t rows, size_t tail) {
        TileConfig c;
        const auto set = [&](int tile, size_t n, size_t bytes) {
            c.rows[tile] = static_cast<uint8_t>(n);
            c.row_bytes[tile] = static_cast<uint16_t>(bytes);
        };
        for (int tile = 0; tile < 4; ++tile) set(tile, rows, TILE_BYTES);
        set(4, rows, TILE_BYTES);
        set(5, TILE_ROWS, TILE_BYTES);
        if (tail) set(6, rows, tail), set(7, tail / 4, TILE_BYTES);
        return c;
    }

    template <int A, int B> static void add(const uint8_t* bytes, size_t stride, const int8_t* w) {
        Tiles::template load<A>(bytes, stride);
        Tiles::template load<B>(w, BLOCK * 4), Tiles::template dp4<0, A, B>();
        Tiles::template load<B>(w + 64, BLOCK * 4), Tiles::template dp4<1, A, B>();
        Tiles::template load<B>(w + 128, BLOCK * 4), Tiles::template dp4<2, A, B>();
        Tiles::template load<B>(w + 192, BLOCK * 4), Tiles::template dp4<3, A, B>();
    }

    static void block(const Linear& m, size_t b, size_t rows, const uint8_t* bytes, const float* scales, float* out) {
        const size_t stride = round_up(m.k, 4), tail = stride % TILE_BYTES;
        const int8_t* w = m.w8.data() + b * stride * BLOCK;
        Tiles::template zero<0>(), Tiles::template zero<1>(), Tiles::template zero<2>(), Tiles::template zero<3>();
        for (size_t k = 0; k + TILE_BYTES <= stride; k += TILE_BYTES) add<4, 5>(bytes + k, stride, w + k * BLOCK);
        if (tail) add<6, 7>(bytes + stride - tail, stride, w + (stride - tail) * BLOCK);
        alignas(64) int32_t sums[TILE_ROWS][BLOCK];
        Tiles::template store<0>(sums[0], sizeof sums[0]), Tiles::template store<1>(sums[0] + 16, sizeof sums[0]);
        Tiles::template store<2>(sums[0] + 32, sizeof sums[0]), Tiles::template store<3>(sums[0] + 48, sizeof sums[0]);
        for (size_t r = 0; r < rows; ++r)
            for (size_t j = 0; j < BLOCK; j += 16)
                Products<L>::put_i8(m, b * BLOCK + j, L::iload(sums[r] + j), scales[r], out + r * m.width());
    }

    static void linear(const Linear& m, const float* x, size_t rows, size_t x_stride, float* out, uint8_t* bytes) {
        if (m.w8.empty() || rows < LEAST_ROWS) return Products<L>::linear(m, x, rows, x_stride, out, bytes);
        const size_t stride = round_up(m.k, 4);
        float scales[CHUNK];
        for (size_t first = 0; first < rows; first += CHUNK) {
            const size_t some = rows - first < CHUNK ? rows - first : CHUNK;
            for (size_t r = 0; r < some; ++r)
                scales[r] = Products<L>::quantise(x + (first + r) * x_stride, m.k, bytes + r * stride);
            // Tiles of one height: the last begins early, and computes some rows again.
            const size_t tiles = round_up(some, TILE_ROWS) / TILE_ROWS, height = (some + tiles - 1) / tiles;
            const TileConfig config = shape(height, stride % TILE_BYTES);
            Tiles::configure(config);
            for (size_t b = 0; b < m.blocks; ++b)
                for (size_t tile = 0; tile < tiles; ++tile) {
                    const size_t r = tile * height + height <= some ? tile * height : some - height;
                    block(m, b, height, bytes + r * stride, scales + r, out + (first + r) * m.width());
                }
            Tiles::release();
        }
    }
};

}  // namespace gamegen
