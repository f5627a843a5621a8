// Memory and streams of the device that kernels run on: CUDA's, or the host's where they are emulated.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

#include "simt.h"

namespace gamegen::cuda {

#if defined(__CUDACC__)
inline void check(cudaError_t error, const char* what, const char* file, int line) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("cuda: ") + what + ": " + cudaGetErrorString(error) + " (" + file + ":" + std::to_string(line) + ")");
}
#define CHECK_CUDA(call) ::gamegen::cuda::check((call), #call, __FILE__, __LINE__)
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

// An engine's own order of work: engines do not wait for each other.
class Stream {
public:
#if defined(__CUDACC__)
    Stream() { CHECK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    ~Stream() { cudaStreamDestroy(stream_); }
    operator cudaStream_t() const { return stream_; }
    void wait() const { CHECK_CUDA(cudaStreamSynchronize(stream_)); }
#else
    Stream() = default;
    void wait() const {}
#endif
    Stream(const Stream&) = delete;

private:
#if defined(__CUDACC__)
    cudaStream_t stream_ = nullptr;
#endif
};

// Blocks of memory, zeroed, that live as long as this: of the device, or of the host and yet open to kernels, which
// reach for it over the bus whenever they touch it.
class Memory {
public:
    explicit Memory(const Stream& stream) : stream_(stream) {}
    Memory(const Memory&) = delete;
    ~Memory() {
        for (void* p : device_) {
#if defined(__CUDACC__)
            cudaFree(p);
#else
            ::operator delete(p, ALIGN);
#endif
        }
        for (void* p : host_) {
#if defined(__CUDACC__)
            cudaFreeHost(p);
#else
            ::operator delete(p, ALIGN);
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
        device_.push_back(p);
        CHECK_CUDA(cudaMemsetAsync(p, 0, bytes, stream_));
#else
        p = ::operator new(bytes, ALIGN);
        device_.push_back(p);
        std::memset(p, 0, bytes);
#endif
        total_ += bytes;
        return static_cast<T*>(p);
    }
    template <class T> T* shared_with_host(size_t n) {
        const size_t bytes = (n ? n : 1) * sizeof(T);
        void* p = nullptr;
#if defined(__CUDACC__)
        CHECK_CUDA(cudaHostAlloc(&p, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
#else
        p = ::operator new(bytes, ALIGN);
#endif
        host_.push_back(p);
        std::memset(p, 0, bytes);
        return static_cast<T*>(p);
    }
    template <class T, class A> T* copy(const std::vector<T, A>& values) {
        T* p = zeros<T>(values.size());
        put(p, values.data(), values.size());
        return p;
    }
    // To the device and back, when all that was launched before is done.
    template <class T> void put(T* to, const T* from, size_t n) const {
#if defined(__CUDACC__)
        CHECK_CUDA(cudaMemcpyAsync(to, from, n * sizeof(T), cudaMemcpyHostToDevice, stream_));
        stream_.wait();
#else
        if (n) std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
#endif
    }
    // Throws too where a kernel before it could not be started.
    template <class T> void get(T* to, const T* from, size_t n) const {
#if defined(__CUDACC__)
        CHECK_CUDA(cudaGetLastError());
        CHECK_CUDA(cudaMemcpyAsync(to, from, n * sizeof(T), cudaMemcpyDeviceToHost, stream_));
        stream_.wait();
#else
        if (n) std::memcpy(static_cast<void*>(to), from, n * sizeof(T));
#endif
    }
    size_t total() const { return total_; }  // bytes of device memory

private:
#if !defined(__CUDACC__)
    static constexpr std::align_val_t ALIGN{256};  // as cudaMalloc
#endif
    const Stream& stream_;
    std::vector<void*> device_, host_;
    size_t total_ = 0;
};

}  // namespace gamegen::cuda
