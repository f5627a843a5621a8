// Memory of the device that kernels run on: CUDA's, or the host's where they are emulated.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

#include "simt.h"

namespace gamegen::cuda {

#if defined(__CUDACC__)
using Stream = cudaStream_t;
inline void check(cudaError_t error, const char* what, const char* file, int line) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("cuda: ") + what + ": " + cudaGetErrorString(error) + " (" + file + ":" + std::to_string(line) + ")");
}
#define CHECK_CUDA(call) ::gamegen::cuda::check((call), #call, __FILE__, __LINE__)
#else
using Stream = int;
#endif

constexpr int LEAST_CAPABILITY = 80;  // of what cuda.cmake compiles for, the least

// Throws std::runtime_error naming what is missing: driver, GPU, or a GPU that this library has code for.
inline void need_device() {
#if defined(__CUDACC__)
    int driver = 0, runtime = 0, count = 0, major = 0, minor = 0;
    const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        throw std::runtime_error("cuda: expected an NVIDIA driver, got none installed");
    CHECK_CUDA(cudaRuntimeGetVersion(&runtime));
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver)
        throw std::runtime_error("cuda: expected a driver for CUDA " + version(runtime) + " or later, got one for " + version(driver));
    if (error != cudaSuccess || count == 0)
        throw std::runtime_error(std::string("cuda: expected a GPU, got: ") + (error != cudaSuccess ? cudaGetErrorString(error) : "none"));
    CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    if (10 * major + minor < LEAST_CAPABILITY)
        throw std::runtime_error("cuda: expected a GPU of compute capability 8.0 (RTX 30 series, A100) or later, got " +
                                 std::to_string(major) + "." + std::to_string(minor));
#endif
}

// Wait until the device has done what it was told, and throw what went wrong there.
inline void wait_for_device() {
#if defined(__CUDACC__)
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaDeviceSynchronize());
#endif
}

// Blocks of device memory, zeroed, that live as long as this.
class Memory {
public:
    Memory() = default;
    Memory(const Memory&) = delete;
    ~Memory() {
        for (void* p : blocks_) {
#if defined(__CUDACC__)
            cudaFree(p);
#else
            ::operator delete(p);
#endif
        }
    }
    template <class T> T* zeros(size_t n) {
        const size_t bytes = (n ? n : 1) * sizeof(T);
        void* p = nullptr;
#if defined(__CUDACC__)
        if (cudaMalloc(&p, bytes) != cudaSuccess) {
            size_t free = 0, all = 0;
            cudaGetLastError();  // told here, once: the next engine may be smaller
            cudaMemGetInfo(&free, &all);
            throw std::runtime_error("cuda: expected at least " + std::to_string((total_ + bytes) >> 20) + " MiB of GPU memory free, got " +
                                     std::to_string((total_ + free) >> 20) + "; fewer games need less");
        }
        blocks_.push_back(p);
        CHECK_CUDA(cudaMemset(p, 0, bytes));
#else
        p = ::operator new(bytes);
        blocks_.push_back(p);
        std::memset(p, 0, bytes);
#endif
        total_ += bytes;
        return static_cast<T*>(p);
    }
    template <class T, class A> T* copy(const std::vector<T, A>& values) {
        T* p = zeros<T>(values.size());
        put(p, values.data(), values.size());
        return p;
    }
    template <class T> static void put(T* to, const T* from, size_t n) {
#if defined(__CUDACC__)
        CHECK_CUDA(cudaMemcpy(to, from, n * sizeof(T), cudaMemcpyHostToDevice));
#else
        if (n) std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
#endif
    }
    // Throws too where a kernel before it could not be started.
    template <class T> static void get(T* to, const T* from, size_t n) {
#if defined(__CUDACC__)
        CHECK_CUDA(cudaGetLastError());
        CHECK_CUDA(cudaMemcpy(to, from, n * sizeof(T), cudaMemcpyDeviceToHost));
#else
        if (n) std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
#endif
    }
    size_t total() const { return total_; }

private:
    std::vector<void*> blocks_;
    size_t total_ = 0;
};

}  // namespace gamegen::cuda
