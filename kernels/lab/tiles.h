// AMX's tiles in plain C++, as Intel's manual defines the instructions: whatever it would refuse stops the program.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "amx.h"

namespace gamegen::lab {

struct Tiles {
    static inline TileConfig config;
    static inline bool configured = false;
    static inline uint8_t tiles[8][16][64];

    static void expect(bool ok, const char* what) {
        if (ok) return;
        std::printf("tiles: expected %s\n", what);
        std::abort();
    }
    static void configure(const TileConfig& c) {
        expect(c.palette == 1 && c.start_row == 0, "palette 1 from row 0");
        for (uint8_t byte : c.reserved) expect(byte == 0, "zeros where the configuration is reserved");
        for (int t = 0; t < 16; ++t) {
            expect(c.rows[t] <= 16 && c.row_bytes[t] <= 64, "at most 16 rows of 64 bytes");
            expect((c.rows[t] == 0) == (c.row_bytes[t] == 0), "rows and bytes, or neither");
            expect(t < 8 || c.rows[t] == 0, "eight tiles");
        }
        config = c;
        configured = true;
        std::memset(tiles, 0, sizeof tiles);
    }
    static void release() { configured = false; }
    template <int T> static void check() {
        static_assert(T >= 0 && T < 8);
        expect(configured && config.rows[T] > 0, "a configured tile");
    }
    template <int T> static void zero() {
        check<T>();
        std::memset(tiles[T], 0, sizeof tiles[T]);
    }
    template <int T> static void load(const void* from, size_t stride) {
        check<T>();
        std::memset(tiles[T], 0, sizeof tiles[T]);
        for (size_t r = 0; r < config.rows[T]; ++r)
            std::memcpy(tiles[T][r], static_cast<const uint8_t*>(from) + r * stride, config.row_bytes[T]);
    }
    template <int T> static void store(void* to, size_t stride) {
        check<T>();
        for (size_t r = 0; r < config.rows[T]; ++r)
            std::memcpy(static_cast<uint8_t*>(to) + r * stride, tiles[T][r], config.row_bytes[T]);
    }
    template <int S, int A, int B> static void dp4() {
        check<S>(), check<A>(), check<B>();
        static_assert(S != A && S != B && A != B);
        expect(config.row_bytes[S] % 4 == 0 && config.row_bytes[A] % 4 == 0, "whole groups of four bytes");
        expect(config.rows[S] == config.rows[A] && config.row_bytes[S] == config.row_bytes[B] &&
                   config.row_bytes[A] / 4 == config.rows[B],
               "shapes of a product");
        for (size_t m = 0; m < config.rows[S]; ++m)
            for (size_t n = 0; n < config.row_bytes[S] / 4u; ++n) {
                int32_t sum;
                std::memcpy(&sum, tiles[S][m] + 4 * n, 4);
                for (size_t k = 0; k < config.rows[B]; ++k)
                    for (size_t j = 0; j < 4; ++j)
                        sum += static_cast<int32_t>(tiles[A][m][4 * k + j]) * static_cast<int8_t>(tiles[B][k][4 * n + j]);
                std::memcpy(tiles[S][m] + 4 * n, &sum, 4);
            }
    }
};

}  // namespace gamegen::lab
