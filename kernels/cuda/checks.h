// The GPU that kernels would run on, and what the self-test and the benchmark ask of it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../kv4.h"

namespace gamegen::cuda {

struct Device {
    std::string name;
    int major, minor, driver, runtime, multiprocessors;  // driver and runtime: 1000 * major + 10 * minor
    size_t memory, free, l2;                             // bytes
};
// Throws std::runtime_error naming what is missing: driver, GPU, or a GPU that this library has code for.
Device describe_device();

// Names that `evaluated` knows.
const std::vector<std::string>& functions();
// function(x[i], y[i]) on the device and on the host; throws std::invalid_argument on an unknown name.
std::pair<std::vector<float>, std::vector<float>> evaluated(const std::string& function, const std::vector<float>& x, const std::vector<float>& y);
// Groups of 64 halves in 4 bits, on the device and on the host.
std::pair<std::vector<Group4>, std::vector<Group4>> quantised(const std::vector<uint16_t>& halves);
// As the kernels `exchange` and `multiply`.
std::vector<int> exchanged(const std::vector<int>& x);
std::vector<int> multiplied(const std::vector<int>& a, const std::vector<int>& b);

// Bytes per second of copying (reads and writes counted) or reading `bytes`: the best of `repeats`.
double measured_bandwidth(bool copy, size_t bytes, int repeats);

}  // namespace gamegen::cuda
