// The Python binding of checks.h: what `gamegen gpu-selftest` and `gamegen gpu-bench` ask of a GPU.
#include <nanobind/stl/pair.h>

#include "../binding.h"
#include "bindings.h"
#include "checks.h"

namespace gamegen::cuda {
namespace {

using Halves = nb::ndarray<const uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;

std::vector<int> words(const Words& array, const char* name, const std::vector<size_t>& shape) {
    expect_shape(array, name, shape);
    return {array.data(), array.data() + array.size()};
}
Array<uint8_t> bytes(const std::vector<Group4>& groups) {
    static_assert(sizeof(Group4) == 36);
    std::vector<uint8_t> all(groups.size() * sizeof(Group4));
    std::memcpy(all.data(), groups.data(), all.size());
    return lend(std::move(all), {groups.size(), sizeof(Group4)});
}

}  // namespace

void bind_checks(nb::module_& m) {
    m.def("device", [] {
        const Device d = describe_device();
        nb::dict found;
        found["name"] = d.name;
        found["capability"] = nb::make_tuple(d.major, d.minor);
        found["driver"] = nb::make_tuple(d.driver / 1000, d.driver % 1000 / 10);
        found["runtime"] = nb::make_tuple(d.runtime / 1000, d.runtime % 1000 / 10);
        found["multiprocessors"] = d.multiprocessors;
        found["memory_bytes"] = d.memory;
        found["free_bytes"] = d.free;
        found["l2_bytes"] = d.l2;
        return found;
    }, "Describe the GPU; RuntimeError names what is missing.");
    m.def("functions", &functions, "Names that `evaluate` knows.");
    m.def("evaluate", [](const std::string& function, const Floats& x, const Floats& y) {
        expect(x.size() == y.size() && x.size() > 0 && x.size() < size_t{1} << 28, "x, y: expected equally many, at least one");
        auto [device, host] = evaluated(function, {x.data(), x.data() + x.size()}, {y.data(), y.data() + y.size()});
        return nb::make_tuple(lend(std::move(device), {x.size()}), lend(std::move(host), {x.size()}));
    }, nb::arg("function"), nb::arg("x"), nb::arg("y"), "function(x, y) on the GPU and on the host, two arrays (n,) float32.");
    m.def("quantise", [](const Halves& halves) {
        expect(halves.shape(1) == 64 && halves.shape(0) > 0, "halves: expected (n, 64)");
        const auto [device, host] = quantised({halves.data(), halves.data() + halves.size()});
        return nb::make_tuple(bytes(device), bytes(host));
    }, nb::arg("halves"), "Groups in 4 bits, (n, 36) uint8, by the GPU and by the host.");
    m.def("exchange", [](const Words& x) { return lend(exchanged(words(x, "x", {32})), {10, 32}); }, nb::arg("x"),
          "Rows (10, 32) int32: lanes apart 1, 2, 4, 8, 16; reversed; votes for odd; dp4a with the next lane plus the lane, of signed and of unsigned bytes; shared memory.");
    m.def("multiply", [](const Words& a, const Words& b) { return lend(multiplied(words(a, "a", {16, 8}), words(b, "b", {8, 8})), {16, 8}); },
          nb::arg("a"), nb::arg("b"), "a (16, 32) times b (8, 32) transposed, signed bytes given as int32 words, by a tensor core.");
    m.def("bandwidth", [](bool copy, size_t size, int repeats) {
        expect(size >= 16 && repeats > 0, "size, repeats: expected at least 16 bytes and one");
        const nb::gil_scoped_release unlocked;
        return measured_bandwidth(copy, size, repeats);
    }, nb::arg("copy"), nb::arg("size"), nb::arg("repeats"), "Bytes per second of the device's memory, copied (read and written) or read.");
}

}  // namespace gamegen::cuda
