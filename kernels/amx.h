// AMX: eight tiles of up to 16 rows of 64 bytes. In assembler, because GCC 12's intrinsics neither name their registers
// as templates can nor say that they read and write memory, so that it drops the stores that they need.
//
// Never run on a CPU that has it: lab/parity.cpp runs what uses it (ops_amx.h) over tiles in plain C++ (lab/tiles.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace gamegen {

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

struct AmxTiles {
    static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
    static void release() { asm volatile("tilerelease" ::: "memory"); }
    template <int T> static void zero() { asm volatile("tilezero %%tmm%c0" ::"i"(T)); }
    template <int T> static void load(const void* from, size_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
    }
    template <int T> static void store(void* to, size_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
    }
    // SUMS[m][n] += sum over k, j of A[m][4 k + j] B[k][4 n + j], A unsigned, B signed bytes, exact in 32 bits
    template <int SUMS, int A, int B> static void dp4() {
        asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(A), "i"(B));
    }
};

}  // namespace gamegen
