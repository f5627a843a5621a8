// What the engine takes for granted of a GPU, one kernel each, so that a self-test can compare it with the CPU; and
// kernels that measure its memory.
#pragma once
#include "../kv4.h"
#include "lanes.cuh"

namespace gamegen::cuda {

constexpr int EVALUATE_THREADS = 128;
// In the order of FUNCTIONS in checks.cu.
enum Function { EXP, LOG, LOG1P, COS, SIN, EXP_OWN, SILU, SQRT, DIVIDE, FMA, ROUND, HALF };

GAMEGEN_HD inline float value_of(int function, float x, float y) {
    switch (function) {
        case EXP: return exp_of(x);
        case LOG: return log_of(x);
        case LOG1P: return log1p_of(x);
        case COS: return cos_of(x);
        case SIN: return sin_of(x);
        case EXP_OWN: return exp_own(x);
        case SILU: return silu(x);
        case SQRT: return sqrtf(x);
        case DIVIDE: return x / y;
        case FMA: return fmaf(x, y, x);
        case ROUND: return nearbyintf(x);
        default: return half_to_float(float_to_half(x));
    }
}

// out[i] = function(x[i], y[i])
KERNEL evaluate(int function, const float* x, const float* y, float* out, int n) {
    const int i = static_cast<int>(block_index() * block_size() + thread_index());
    if (i < n) out[i] = value_of(function, x[i], y[i]);
}
// Groups of 64 halves to 4 bits, a thread each.
KERNEL quantise_groups(const uint16_t* halves, Group4* out, int n) {
    const int i = static_cast<int>(block_index() * block_size() + thread_index());
    if (i >= n) return;
    float values[64];
    for (int j = 0; j < 64; ++j) values[j] = half_to_float(halves[i * 64 + j]);
    out[i] = quantise4(values);
}
// One warp; rows of 32 in `out`: x from lanes apart 1, 2, 4, 8, 16; from lane 31 - lane; votes for odd x; dp4a of x with
// the next lane's, signed and unsigned; what lane - 1 wrote into shared memory.
KERNEL exchange(const int* x, int* out) {
    SHARED(int, box, 32);
    const int lane = static_cast<int>(thread_index()), mine = x[lane];
    for (int i = 0; i < 5; ++i) out[i * 32 + lane] = shuffle_xor(mine, 1 << i);
    out[5 * 32 + lane] = shuffle(mine, 31 - lane);
    out[6 * 32 + lane] = static_cast<int>(ballot(mine & 1));
    const int beside = shuffle(mine, (lane + 1) % 32);
    out[7 * 32 + lane] = dp4a(mine, beside, lane);
    out[8 * 32 + lane] = dp4a(static_cast<unsigned>(mine), beside, lane);
    box[lane] = mine;
    warp_sync();
    out[9 * 32 + lane] = box[(lane + 31) % 32];
}
// c (16, 8) = a (16, 32) b (32, 8)^T, b given as (8, 32): one tensor-core product of signed bytes, by one warp.
KERNEL multiply(const int* a, const int* b, int* c) {
    const int lane = static_cast<int>(thread_index()), row = lane / 4, quad = lane % 4;
    const unsigned fragment_a[4] = {static_cast<unsigned>(a[row * 8 + quad]), static_cast<unsigned>(a[(row + 8) * 8 + quad]),
                                    static_cast<unsigned>(a[row * 8 + quad + 4]), static_cast<unsigned>(a[(row + 8) * 8 + quad + 4])};
    const unsigned fragment_b[2] = {static_cast<unsigned>(b[row * 8 + quad]), static_cast<unsigned>(b[row * 8 + quad + 4])};
    int sum[4] = {};
    mma_s8(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; ++i) c[(row + i / 2 * 8) * 8 + quad * 2 + i % 2] = sum[i];
}

struct alignas(16) Sixteen {
    unsigned a, b, c, d;
};
// `n` elements of 16 bytes by `blocks` blocks.
KERNEL copy_memory(const Sixteen* from, Sixteen* to, size_t n, unsigned blocks) {
    for (size_t i = static_cast<size_t>(block_index()) * block_size() + thread_index(); i < n; i += static_cast<size_t>(blocks) * block_size())
        to[i] = from[i];
}
// A sum that nobody asks for, so that the reads are not left out.
KERNEL read_memory(const Sixteen* from, unsigned* sums, size_t n, unsigned blocks) {
    unsigned sum = 0;
    const size_t first = static_cast<size_t>(block_index()) * block_size() + thread_index();
    for (size_t i = first; i < n; i += static_cast<size_t>(blocks) * block_size()) {
        const Sixteen x = from[i];
        sum += x.a + x.b + x.c + x.d;
    }
    sums[first] = sum;
}

}  // namespace gamegen::cuda
