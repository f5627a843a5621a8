#include "checks.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "checks.cuh"
#include "device.h"

namespace gamegen::cuda {
namespace {

constexpr unsigned COPY_THREADS = 256;

unsigned blocks_for(size_t n) { return static_cast<unsigned>((n + EVALUATE_THREADS - 1) / EVALUATE_THREADS); }

}  // namespace

Device describe_device() {
    need_device();
#if defined(__CUDACC__)
    Device d{};
    cudaDeviceProp properties;
    CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
    d.name = properties.name;
    d.major = properties.major;
    d.minor = properties.minor;
    d.multiprocessors = properties.multiProcessorCount;
    d.l2 = static_cast<size_t>(properties.l2CacheSize);
    CHECK_CUDA(cudaDriverGetVersion(&d.driver));
    CHECK_CUDA(cudaRuntimeGetVersion(&d.runtime));
    CHECK_CUDA(cudaMemGetInfo(&d.free, &d.memory));
    return d;
#else
    return {"emulation on the host", 0, 0, 0, 0, 1, size_t{1} << 30, size_t{1} << 30, 0};
#endif
}

const std::vector<std::string>& functions() {
    static const std::vector<std::string> names{"exp", "log", "log1p", "cos", "sin", "exp_own", "silu", "sqrt", "divide", "fma", "round", "half"};
    return names;
}

std::pair<std::vector<float>, std::vector<float>> evaluated(const std::string& function, const std::vector<float>& x, const std::vector<float>& y) {
    const auto found = std::find(functions().begin(), functions().end(), function);
    if (found == functions().end() || x.size() != y.size()) throw std::invalid_argument("function: expected a known one and as many y as x, got " + function);
    const int which = static_cast<int>(found - functions().begin());
    need_device();
    const Stream stream;
    Memory memory(stream);
    const size_t n = x.size();
    float* out = memory.zeros<float>(n);
    LAUNCH(stream, evaluate, blocks_for(n), EVALUATE_THREADS, which, memory.copy(x), memory.copy(y), out, static_cast<int>(n));
    std::vector<float> device(n), host(n);
    memory.get(device.data(), out, n);
    for (size_t i = 0; i < n; ++i) host[i] = value_of(which, x[i], y[i]);
    return {device, host};
}

std::pair<std::vector<Group4>, std::vector<Group4>> quantised(const std::vector<uint16_t>& halves) {
    const size_t n = halves.size() / 64;
    need_device();
    const Stream stream;
    Memory memory(stream);
    Group4* out = memory.zeros<Group4>(n);
    LAUNCH(stream, quantise_groups, blocks_for(n), EVALUATE_THREADS, memory.copy(halves), out, static_cast<int>(n));
    std::vector<Group4> device(n), host(n);
    memory.get(device.data(), out, n);
    for (size_t i = 0; i < n; ++i) {
        std::array<float, 64> values;
        for (size_t j = 0; j < 64; ++j) values[j] = half_to_float(halves[i * 64 + j]);
        host[i] = quantise4(values.data());
    }
    return {device, host};
}

std::vector<int> exchanged(const std::vector<int>& x) {
    need_device();
    const Stream stream;
    Memory memory(stream);
    std::vector<int> result(10 * 32);
    int* out = memory.zeros<int>(result.size());
    LAUNCH(stream, exchange, 1, 32, memory.copy(x), out);
    memory.get(result.data(), out, result.size());
    return result;
}

std::vector<int> multiplied(const std::vector<int>& a, const std::vector<int>& b) {
    need_device();
    const Stream stream;
    Memory memory(stream);
    std::vector<int> result(16 * 8);
    int* out = memory.zeros<int>(result.size());
    LAUNCH(stream, multiply, 1, 32, memory.copy(a), memory.copy(b), out);
    memory.get(result.data(), out, result.size());
    return result;
}

double measured_bandwidth(bool copy, size_t bytes, int repeats) {
    need_device();
    const size_t n = bytes / sizeof(Sixteen);
    const unsigned blocks = static_cast<unsigned>(describe_device().multiprocessors) * 8;
    const Stream stream;
    Memory memory(stream);
    const Sixteen* from = memory.zeros<Sixteen>(n);
    Sixteen* to = copy ? memory.zeros<Sixteen>(n) : nullptr;
    auto* sums = memory.zeros<unsigned>(static_cast<size_t>(blocks) * COPY_THREADS);
    double best = 0;
    for (int i = 0; i <= repeats; ++i) {  // the first one warms up
#if defined(__CUDACC__)
        cudaEvent_t start, stop;
        CHECK_CUDA(cudaEventCreate(&start));
        CHECK_CUDA(cudaEventCreate(&stop));
        CHECK_CUDA(cudaEventRecord(start));
#else
        const auto start = std::chrono::steady_clock::now();
#endif
        if (copy) LAUNCH(stream, copy_memory, blocks, COPY_THREADS, from, to, n, blocks);
        else LAUNCH(stream, read_memory, blocks, COPY_THREADS, from, sums, n, blocks);
#if defined(__CUDACC__)
        float milliseconds = 0;
        CHECK_CUDA(cudaEventRecord(stop));
        CHECK_CUDA(cudaEventSynchronize(stop));
        CHECK_CUDA(cudaEventElapsedTime(&milliseconds, start, stop));
        CHECK_CUDA(cudaEventDestroy(start));
        CHECK_CUDA(cudaEventDestroy(stop));
        const double seconds = milliseconds / 1e3;
#else
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
#endif
        if (i && seconds > 0) best = std::max(best, static_cast<double>(n * sizeof(Sixteen)) * (copy ? 2 : 1) / seconds);
    }
    return best;
}

}  // namespace gamegen::cuda
