// Kernels whose blocks all run at the same time, so that they may wait for each other: a cooperative launch.
#pragma once
#include "device.h"

#if defined(__CUDACC__)
#define LAUNCH_TOGETHER(stream, kernel, grid, block, ...) ::gamegen::cuda::launch_together((stream), (kernel), (grid), (block), __VA_ARGS__)
#else
#define LAUNCH_TOGETHER(stream, kernel, grid, block, ...) simt::launch_together((grid), (block), kernel, __VA_ARGS__)
#endif

namespace gamegen::cuda {

// All threads of the grid wait for each other, and then see what every one of them wrote. `barrier` is zero when the first
// kernel that uses it starts. Block 0 adds what the others, one each, leave to half of the numbers there are: the highest
// bit turns when all have come, and nothing has to be reset.
DEVICE void grid_sync(unsigned* barrier) {
    constexpr unsigned TURNS = 1u << 31;
    block_sync();
    if (thread_index() == 0) {
        const unsigned before = add_release(barrier, block_index() == 0 ? TURNS - (afresh(grid_size()) - 1) : 1);
        wait_acquire(barrier, TURNS, before & TURNS);
    }
    block_sync();
}

#if defined(__CUDACC__)
template <class... P, class... A>
void launch_together(cudaStream_t stream, void (*kernel)(P...), unsigned blocks, unsigned threads, const A&... arguments) {
    cudaLaunchAttribute together = {};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.stream = stream;
    config.attrs = &together;
    config.numAttrs = 1;
    CHECK_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
}
#endif

// How many blocks of a kernel to start together: one per multiprocessor, as a barrier costs more the more come to it; 0
// where none fits, or the device cannot start blocks together.
template <class... P> unsigned blocks_together([[maybe_unused]] void (*kernel)(P...), [[maybe_unused]] unsigned threads) {
#if defined(__CUDACC__)
    int cooperative = 0, processors = 0, each = 0;
    CHECK_CUDA(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, 0));
    CHECK_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    CHECK_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, static_cast<int>(threads), 0));
    return cooperative && each ? static_cast<unsigned>(processors) : 0;
#else
    return simt::resident_blocks();
#endif
}

}  // namespace gamegen::cuda
