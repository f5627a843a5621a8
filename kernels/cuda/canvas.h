// Pictures of many games in device memory: what gamegen_env/canvas.py keeps, painted by the GPU.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "../cells.h"

namespace gamegen::cuda {

// One slot's state, arrays as Canvas.save returns them.
struct CanvasState {
    std::vector<int32_t> codes;           // (M * M)
    std::vector<uint8_t> pixels;          // (M * c, M * c, 3)
    std::vector<uint8_t> original;        // (M * M)
    std::vector<int32_t> origin;          // (2) x, y
    std::vector<int32_t> memory_codes;    // (M * M, m)
    std::vector<uint8_t> memory_pixels;   // (M * M, m, c, c, 3)
    std::vector<int32_t> memory_next;     // (M * M)
    std::vector<uint8_t> anchors;         // as pixels; with sprites alone
};

struct CanvasShape {
    size_t slots, map_cells, view_cells, memory_per_cell, max_motion;
    bool sprites, things;
};

class Canvas {
public:
    // Throws std::invalid_argument on a decoder that is too wide, std::runtime_error where driver, GPU or memory is missing.
    Canvas(const CellDecoder& decoder, const CanvasShape& shape);
    ~Canvas();
    // One game step of distinct slots: views move by `scrolls` (n, 2), then updates ptr[i] .. ptr[i + 1] of slot i are painted
    // or, where motions[u] is not -1, moved, and what the slots show is drawn anew. A slot's cells are all different.
    void apply(const std::vector<int32_t>& slots, const std::vector<int32_t>& scrolls, const std::vector<int32_t>& ptr,
               const std::vector<int32_t>& cells, const std::vector<int32_t>& codes, const std::vector<int32_t>& motions);
    // Before a step, for every cell of its slots (n, M * M) the update whose thing will carry it along, negative where none will.
    std::vector<int32_t> carried(const std::vector<int32_t>& slots, const std::vector<int32_t>& scrolls, const std::vector<int32_t>& ptr,
                                 const std::vector<int32_t>& cells, const std::vector<int32_t>& motions);
    // After it, such cells show it: cells[u] of slot_of[u] gets codes[u]. `slots`: those among them, each once.
    void carry(const std::vector<int32_t>& slots, const std::vector<int32_t>& slot_of, const std::vector<int32_t>& cells,
               const std::vector<int32_t>& codes);
    CanvasState save(size_t slot) const;
    void load(size_t slot, const CanvasState& state);
    // What slots show: a copy (n, F, F, 3).
    std::vector<uint8_t> view(const std::vector<int32_t>& slots) const;
    uint8_t* observations() const;  // (slots, F, F, 3), in device memory, overwritten by the next apply or load
    const CanvasShape& shape() const;
    size_t cell_size() const;
    size_t frame() const { return shape().view_cells * cell_size(); }

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace gamegen::cuda
