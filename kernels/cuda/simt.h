// One source, two machines: CUDA under nvcc, an emulation of it (emulation.h) under a host compiler.
//
// Kernels use the names of this header only: KERNEL, DEVICE, SHARED, LAUNCH, block_sync, warp_sync, shuffle_xor,
// shuffle, ballot, dp4a, mma_s8, thread_index, continue_while and so on. The emulation runs the lanes of a block, or of all
// blocks where they wait for each other, as fibers
// and reports, as std::runtime_error, what a GPU would let pass in silence:
//   - two threads at one shared element, one of them writing, without a barrier between them (exact per element),
//   - shared memory read before it was written, or out of bounds,
//   - a barrier or warp operation that not every thread of the block or warp reaches.
// Warps run in an order drawn from `simt::seed()`, anew at every turn. What it cannot show: the memory model of global
// memory (AddressSanitizer sees its bounds), speed, and mistakes of nvcc.
#pragma once
#include <cstdint>
#include <cstring>

#include "../hd.h"

#if defined(__CUDACC__)

#define KERNEL __global__ void
// Of at most so many threads: the compiler gives each as many registers as that leaves.
#define KERNEL_OF(threads) __global__ void __launch_bounds__(threads)
#define DEVICE static __device__ __forceinline__
// A function of a large kernel that has the registers to itself, and what the kernel gives to it by reference.
#define DEVICE_CALL static __device__ __noinline__
#define GIVEN __grid_constant__ const
#define SHARED(type, name, n) __shared__ type name[n]
// The array `name` as a parameter of a device function.
#define SHARED_ARRAY(type, name) type* name
#define LAUNCH(stream, kernel, grid, block, ...) kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)

namespace gamegen {
constexpr unsigned FULL = 0xFFFFFFFFu;
DEVICE unsigned thread_index() { return threadIdx.x; }
DEVICE unsigned block_size() { return blockDim.x; }
DEVICE unsigned block_index() { return blockIdx.x; }
DEVICE unsigned block_row() { return blockIdx.y; }
DEVICE unsigned grid_size() { return gridDim.x; }
DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
template <class T> DEVICE T shuffle_xor(T x, int mask) { return __shfl_xor_sync(FULL, x, mask); }
template <class T> DEVICE T shuffle(T x, int lane) { return __shfl_sync(FULL, x, lane); }
DEVICE unsigned ballot(bool x) { return __ballot_sync(FULL, x); }
DEVICE int bits_set(unsigned x) { return __popc(x); }
DEVICE int dp4a(int a, int b, int c) { return __dp4a(a, b, c); }
// The same, the bytes of `a` without a sign.
DEVICE int dp4a(unsigned a, int b, int c) {
    int sum;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}
// c (16, 8) += a (16, 32) b (32, 8), signed bytes, exact in 32 bits. Fragments of the PTX manual, mma.m16n8k32, with
// group = lane / 4 and quad = lane % 4, four bytes to a word:
//   a[0], a[1]  k = 4 quad .. 4 quad + 3 of rows group and group + 8;   a[2], a[3]  the same, 16 further along k
//   b[0], b[1]  k = 4 quad .. 4 quad + 3 of column group, and 16 further
//   c[0], c[1]  columns 2 quad and 2 quad + 1 of row group;             c[2], c[3]  of row group + 8
DEVICE void mma_s8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// 16 bytes of global memory in one load; `p` is a multiple of 16. A function that is called does not see where `p` comes from.
struct Quad {
    unsigned v[4];
};
DEVICE Quad load16(const void* p) {
    __builtin_assume(__isGlobal(p));
    const uint4 x = *static_cast<const uint4*>(p);
    return {{x.x, x.y, x.z, x.w}};
}
// `n`, from which nothing is worked out ahead: what is cheap is formed again where registers would have to keep it over calls.
DEVICE unsigned afresh(unsigned n) {
    asm volatile("" : "+r"(n));
    return n;
}
// *to += n, behind all that this thread knows to be done; returns what was there.
DEVICE unsigned add_release(unsigned* to, unsigned n) {
    unsigned before;
    asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(__cvta_generic_to_global(to)), "r"(n) : "memory");
    return before;
}
// Wait while (*word & mask) == value; what was done before the write that ends it is done for this thread too.
DEVICE void wait_acquire(const unsigned* word, unsigned mask, unsigned value) {
    unsigned now;
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(__cvta_generic_to_global(word)) : "memory");
    while ((now & mask) == value);
}
// Bring the 32 bytes at `p` into the L2 cache.
DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p))); }

// What a loop of a graph (graph.h) goes by; one thread sets it in every turn. Toolkits before 12.4 have no such loops,
// and 0 stands for a loop that the host turns.
#if CUDART_VERSION >= 12040
using Condition = cudaGraphConditionalHandle;
DEVICE void continue_while(Condition condition, bool more) {
    if (condition) cudaGraphSetConditional(condition, more);
}
#else
using Condition = unsigned long long;
DEVICE void continue_while(Condition, bool) {}
#endif
}  // namespace gamegen

#else
#include "emulation.h"
#endif
