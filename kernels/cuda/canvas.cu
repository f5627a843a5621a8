#include "canvas.h"

#include <algorithm>

#include "device.h"
#include "things.cuh"

namespace gamegen::cuda {
namespace {

LinearView upload(Memory& memory, const Linear& m) {
    LinearView v{};
    v.n_out = static_cast<int>(m.n_out);
    v.k = static_cast<int>(m.k);
    v.width = static_cast<int>(m.width());
    v.w = memory.copy(m.w);
    v.bias = memory.copy(m.bias);
    return v;
}

}  // namespace

struct Canvas::Parts {
    CanvasShape shape;
    Stream stream;
    Memory memory{stream};
    CanvasView v{};
    int32_t* step = nullptr;   // slots, scrolls, ptr, then cells, codes and motions
    std::vector<int32_t> numbers;

    Parts(const CellDecoder& d, const CanvasShape& s) : shape(s) {
        const size_t n = s.slots, cells = s.map_cells * s.map_cells, c = d.cell_size, size = s.map_cells * c, frame = s.view_cells * c;
        need_device();
        v.map_cells = static_cast<int>(s.map_cells);
        v.view_cells = static_cast<int>(s.view_cells);
        v.cell_size = static_cast<int>(c);
        v.memory = static_cast<int>(s.memory_per_cell);
        v.max_motion = static_cast<int>(s.max_motion);
        v.size = static_cast<int>(size);
        v.frame = static_cast<int>(frame);
        v.values = static_cast<int>(d.values());
        v.code_dim = static_cast<int>(d.code_dim);
        v.hidden = static_cast<int>(d.d_hidden);
        v.codes = memory.zeros<int32_t>(n * cells);
        v.origin = memory.zeros<int32_t>(n * 2);
        v.memory_codes = memory.copy(std::vector<int32_t>(n * cells * s.memory_per_cell, -1));
        v.memory_next = memory.zeros<int32_t>(n * cells);
        v.pixels = memory.zeros<uint8_t>(n * size * size * 3);
        v.original = memory.zeros<uint8_t>(n * cells);
        v.memory_pixels = memory.zeros<uint8_t>(n * cells * s.memory_per_cell * d.values());
        v.observations = memory.zeros<uint8_t>(n * frame * frame * 3);
        step = memory.zeros<int32_t>(4 * n + 1 + 3 * n * cells);
        v.slot_of = memory.zeros<int32_t>(n * cells);
        v.old_codes = memory.zeros<int32_t>(n * cells);
        v.colours = memory.zeros<int32_t>(n * cells);
        if (s.sprites) v.anchors = memory.zeros<uint8_t>(n * cells * d.values());
        v.moved = memory.zeros<uint8_t>(s.max_motion ? n * cells * d.values() : 0);
        if (s.things) {
            v.along = memory.zeros<int32_t>(n * cells);
            v.kinds = memory.zeros<uint8_t>(n * size * size);
            v.along_pixels = memory.zeros<uint8_t>(n * cells * d.values());
        }
        v.codebook = memory.copy(d.codebook);
        v.from_code = upload(memory, d.from_code);
        v.first = upload(memory, d.first);
        v.second = upload(memory, d.second);
        v.last = upload(memory, d.last);
    }

    // Every array of a slot, beside its part of a state: fn(device, host).
    template <class State, class Fn> void each(size_t slot, State& state, Fn fn) const {
        const size_t cells = shape.map_cells * shape.map_cells, values = static_cast<size_t>(v.values), m = shape.memory_per_cell;
        const auto part = [&](auto* device, auto& host, size_t n) { fn(device + slot * n, host, n); };
        part(v.codes, state.codes, cells);
        part(v.pixels, state.pixels, cells * values);
        part(v.original, state.original, cells);
        part(v.origin, state.origin, 2);
        part(v.memory_codes, state.memory_codes, cells * m);
        part(v.memory_pixels, state.memory_pixels, cells * m * values);
        part(v.memory_next, state.memory_next, cells);
        if (shape.sprites) part(v.anchors, state.anchors, cells * values);
    }

    // One copy to the device for all numbers of a step.
    void send(const std::vector<int32_t>& slots, const std::vector<int32_t>& scrolls, const std::vector<int32_t>& ptr,
              const std::vector<int32_t>& cells, const std::vector<int32_t>& codes, const std::vector<int32_t>& motions) {
        numbers.clear();
        const auto add = [&](const std::vector<int32_t>& part) {
            const size_t at = numbers.size();
            numbers.insert(numbers.end(), part.begin(), part.end());
            return step + at;
        };
        v.slots = add(slots);
        v.scrolls = add(scrolls);
        v.ptr = add(ptr);
        v.cells = add(cells);
        v.new_codes = add(codes);
        v.motions = add(motions);
        memory.put(step, numbers.data(), numbers.size());
    }
    // Whoever reads the observations, on whatever stream, finds them drawn.
    void draw(size_t slots) {
        LAUNCH(stream, observe, dim3(static_cast<unsigned>(slots), static_cast<unsigned>(v.frame)), PAINT_THREADS, v);
        wait_for_device();
    }
};

Canvas::Canvas(const CellDecoder& decoder, const CanvasShape& shape) {
    if (decoder.code_dim > WIDEST_CODE || decoder.d_hidden > WIDEST_HIDDEN)
        throw std::invalid_argument("tokenizer: expected code_dim up to " + std::to_string(WIDEST_CODE) + " and d_hidden up to " +
                                    std::to_string(WIDEST_HIDDEN) + ", got " + std::to_string(decoder.code_dim) + " and " + std::to_string(decoder.d_hidden));
    parts_ = std::make_unique<Parts>(decoder, shape);
}
Canvas::~Canvas() = default;
const CanvasShape& Canvas::shape() const { return parts_->shape; }
size_t Canvas::cell_size() const { return static_cast<size_t>(parts_->v.cell_size); }
uint8_t* Canvas::observations() const { return parts_->v.observations; }

void Canvas::apply(const std::vector<int32_t>& slots, const std::vector<int32_t>& scrolls, const std::vector<int32_t>& ptr,
                   const std::vector<int32_t>& cells, const std::vector<int32_t>& codes, const std::vector<int32_t>& motions) {
    Parts& p = *parts_;
    if (slots.empty()) return;
    p.send(slots, scrolls, ptr, cells, codes, motions);
    LAUNCH(p.stream, renew, static_cast<unsigned>(slots.size()), PAINT_THREADS, p.v);
    if (!cells.empty()) LAUNCH(p.stream, repaint, static_cast<unsigned>(cells.size()), PAINT_THREADS, p.v);
    if (p.shape.sprites) LAUNCH(p.stream, drop_anchors, static_cast<unsigned>(slots.size()), PAINT_THREADS, p.v);
    p.draw(slots.size());
}

std::vector<int32_t> Canvas::carried(const std::vector<int32_t>& slots, const std::vector<int32_t>& scrolls, const std::vector<int32_t>& ptr,
                                     const std::vector<int32_t>& cells, const std::vector<int32_t>& motions) {
    Parts& p = *parts_;
    std::vector<int32_t> along(slots.size() * static_cast<size_t>(p.v.n_cells()), FREE);
    if (!p.shape.things || slots.empty()) return along;
    p.send(slots, scrolls, ptr, cells, cells, motions);  // no code is asked for
    LAUNCH(p.stream, hang, static_cast<unsigned>(slots.size()), PAINT_THREADS, p.v);
    wait_for_device();
    p.memory.get(along.data(), p.v.along, along.size());
    return along;
}

void Canvas::carry(const std::vector<int32_t>& slots, const std::vector<int32_t>& slot_of, const std::vector<int32_t>& cells,
                   const std::vector<int32_t>& codes) {
    Parts& p = *parts_;
    if (cells.empty()) return;
    p.send(slots, {}, {}, cells, codes, {});
    p.memory.put(p.v.slot_of, slot_of.data(), slot_of.size());
    LAUNCH(p.stream, settle, static_cast<unsigned>(cells.size()), PAINT_THREADS, p.v);
    p.draw(slots.size());
}

CanvasState Canvas::save(size_t slot) const {
    CanvasState state;
    parts_->each(slot, state, [this](const auto* device, auto& host, size_t n) {
        host.resize(n);
        parts_->memory.get(host.data(), device, n);
    });
    return state;
}

void Canvas::load(size_t slot, const CanvasState& state) {
    parts_->each(slot, state, [this](auto* device, const auto& host, size_t n) { parts_->memory.put(device, host.data(), n); });
    parts_->send({static_cast<int32_t>(slot)}, {0, 0}, {0, 0}, {}, {}, {});
    parts_->draw(1);
}

std::vector<uint8_t> Canvas::view(const std::vector<int32_t>& slots) const {
    const size_t bytes = frame() * frame() * 3, n = slots.size();
    std::vector<uint8_t> frames(n * bytes);
    for (size_t i = 0; i < n;) {  // neighbouring slots in one copy
        size_t stop = i + 1;
        while (stop < n && slots[stop] == slots[i] + static_cast<int32_t>(stop - i)) ++stop;
        parts_->memory.get(frames.data() + i * bytes, observations() + static_cast<size_t>(slots[i]) * bytes, (stop - i) * bytes);
        i = stop;
    }
    return frames;
}

}  // namespace gamegen::cuda
