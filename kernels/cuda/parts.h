// What an engine consists of; its launches are in engine.cu, the snapshots of its slots in snapshot.cu.
#pragma once
#include "engine.h"
#include "graph.h"
#include "view.h"

namespace gamegen::cuda {

struct Engine::Parts {
    Model model;
    Integers integers;
    Stream stream;
    Memory memory{stream};
    std::vector<LayerView> layers;
    View w{};
    Stay stay{};
    void (*step_kernel)(View, Stay) = nullptr;  // that stays for a step, of so many blocks; 0: a step is a graph
    unsigned staying = 0;
    std::unique_ptr<Loop> stepping, knowing;
    std::vector<int64_t> anchors;      // that the device has, (slots, n_cells)
    std::vector<char> pending, stale;  // slots whose END is not yet in the ring; whose codes the device does not have
    int64_t passes = 0;

    Parts(const Config& config, const Tensors& tensors, Precision precision, const Integers& n) : model(config, tensors, precision), integers(n) {}

    void allocate(size_t slots, float temperature, const std::vector<float>& gumbel);
    ByteRows byte_rows(size_t rows);
    void record(bool device_loops);
    void prepare_to_stay();
    void decode();
    void forward(unsigned rows);
    void decide(unsigned rows);
    void times(const int* count, unsigned rows, const LinearView& m, float* out, int stride, bool add);
    void settle(size_t slot);
};

}  // namespace gamegen::cuda
