// The Python binding of canvas.h. Every number that comes in is checked here: on the device it is an address.
#include <memory>

#include "../binding.h"
#include "bindings.h"
#include "canvas.h"

namespace gamegen::cuda {
namespace {

#if defined(GAMEGEN_SIMT)
using OnDevice = nb::device::cpu;
#else
using OnDevice = nb::device::cuda;
#endif
using Frames = nb::ndarray<nb::array_api, uint8_t, nb::c_contig, OnDevice>;

class CanvasBinding {
public:
    CanvasBinding(const nb::dict& weights, size_t cell_size, size_t slots, size_t map_cells, size_t view_cells, size_t memory_per_cell,
                  size_t max_motion, bool sprites, bool things) {
        expect(slots > 0 && slots <= 4096, "slots: expected 1 to 4096, got " + std::to_string(slots));
        expect(map_cells > 1 && map_cells <= 32 && view_cells == map_cells - 1, "map_cells: expected 2 to 32, and view_cells one less");
        expect(memory_per_cell > 0 && memory_per_cell <= 64, "memory_per_cell: expected 1 to 64");
        expect(max_motion < map_cells * cell_size, "max_motion: expected less than the map's pixels");
        expect(max_motion || !sprites, "sprites: expected False with max_motion 0, got True");
        expect(sprites || !things, "things: expected False without sprites, got True");
        const CellDecoder decoder = read_decoder(weights, cell_size);
        n_codes_ = decoder.n_codes;
        canvas_ = std::make_shared<Canvas>(decoder, CanvasShape{slots, map_cells, view_cells, memory_per_cell, max_motion, sprites, things});
    }
    void apply(const ConstInts& slots, const ConstInts& scrolls, const ConstInts& ptr, const ConstInts& cells, const ConstInts& codes,
               const ConstInts& motions) {
        check_step(slots, scrolls, ptr, cells, motions);
        check_codes(cells, codes);
        canvas_->apply(words(slots), words(scrolls), words(ptr), words(cells), words(codes), words(motions));
    }
    Array<int32_t> carried(const ConstInts& slots, const ConstInts& scrolls, const ConstInts& ptr, const ConstInts& cells, const ConstInts& motions) {
        check_step(slots, scrolls, ptr, cells, motions);
        return lend(canvas_->carried(words(slots), words(scrolls), words(ptr), words(cells), words(motions)), {slots.size(), map() * map()});
    }
    void carry(const ConstInts& slots, const ConstInts& cells, const ConstInts& codes) {
        const size_t m = map() * map();
        expect_shape(slots, "slots", {cells.size()});
        check_codes(cells, codes);
        expect(canvas_->shape().things || !cells.size(), "cells: expected none without things");
        std::vector<bool> seen(canvas_->shape().slots * m), stepped(canvas_->shape().slots);
        std::vector<int32_t> each;
        for (size_t u = 0; u < cells.size(); ++u) {
            const size_t slot = checked(static_cast<size_t>(slots.data()[u])), cell = static_cast<size_t>(cells.data()[u]);
            expect(cell < m && !seen[slot * m + cell], "cells: expected different numbers in 0.." + std::to_string(m - 1) + " within a slot");
            seen[slot * m + cell] = true;
            if (!stepped[slot]) each.push_back(static_cast<int32_t>(slot));
            stepped[slot] = true;
        }
        canvas_->carry(each, words(slots), words(cells), words(codes));
    }
    nb::dict save(size_t slot) const {
        CanvasState s = canvas_->save(checked(slot));
        const size_t cells = map() * map(), c = canvas_->cell_size(), size = map() * c, m = canvas_->shape().memory_per_cell;
        nb::dict state;
        state["codes"] = lend(std::move(s.codes), {cells});
        state["pixels"] = lend(std::move(s.pixels), {size, size, 3});
        state["original"] = lend(std::move(s.original), {cells});
        state["origin"] = lend(std::move(s.origin), {2});
        state["memory_codes"] = lend(std::move(s.memory_codes), {cells, m});
        state["memory_pixels"] = lend(std::move(s.memory_pixels), {cells, m, c, c, 3});
        state["memory_next"] = lend(std::move(s.memory_next), {cells});
        if (canvas_->shape().sprites) state["anchors"] = lend(std::move(s.anchors), {size, size, 3});
        return state;
    }
    void load(size_t slot, const nb::dict& state) {
        checked(slot);
        const size_t cells = map() * map(), c = canvas_->cell_size(), size = map() * c, m = canvas_->shape().memory_per_cell;
        const CanvasState s{get<int32_t>(state, "codes", {cells}),          get<uint8_t>(state, "pixels", {size, size, 3}),
                            get<uint8_t>(state, "original", {cells}),       get<int32_t>(state, "origin", {2}),
                            get<int32_t>(state, "memory_codes", {cells, m}), get<uint8_t>(state, "memory_pixels", {cells, m, c, c, 3}),
                            get<int32_t>(state, "memory_next", {cells}),
                            canvas_->shape().sprites ? get<uint8_t>(state, "anchors", {size, size, 3}) : std::vector<uint8_t>{}};
        const auto within = [](const char* name, const std::vector<int32_t>& numbers, int64_t least, size_t limit) {
            for (int32_t x : numbers)
                expect(x >= least && x < static_cast<int64_t>(limit), std::string("state['") + name + "']: expected " + std::to_string(least) +
                                                                          ".." + std::to_string(limit - 1) + ", got " + std::to_string(x));
        };
        within("codes", s.codes, 0, n_codes_);
        within("origin", s.origin, 0, size);
        within("memory_codes", s.memory_codes, -1, n_codes_);
        within("memory_next", s.memory_next, 0, m);
        canvas_->load(slot, s);
    }
    Array<uint8_t> view(const ConstInts& slots) const {
        return lend(canvas_->view(checked_slots(slots)), {slots.size(), canvas_->frame(), canvas_->frame(), 3});
    }
    // Lives as long as anyone looks at it, this object or not.
    Frames observations() const {
        auto* kept = new std::shared_ptr<Canvas>(canvas_);
        const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::shared_ptr<Canvas>*>(p); });
        const size_t shape[4] = {canvas_->shape().slots, canvas_->frame(), canvas_->frame(), 3};
        return Frames(canvas_->observations(), 4, shape, owner, nullptr, nb::dtype<uint8_t>(), OnDevice::value, 0);
    }

private:
    void check_step(const ConstInts& slots, const ConstInts& scrolls, const ConstInts& ptr, const ConstInts& cells, const ConstInts& motions) const {
        const size_t n = slots.size(), updates = cells.size(), m = map() * map();
        checked_slots(slots);
        expect_shape(scrolls, "scrolls", {n, 2});
        expect_shape(ptr, "ptr", {n + 1});
        expect_shape(motions, "motions", {updates});
        const CanvasShape& shape = canvas_->shape();
        const auto reach = static_cast<int64_t>(shape.max_motion), n_motions = reach ? (2 * reach + 1) * (2 * reach + 1) * (1 + shape.sprites + shape.things) : 0;
        expect(ptr.data()[0] == 0 && ptr.data()[n] == static_cast<int64_t>(updates), "ptr: expected 0 to the number of cells");
        std::vector<bool> seen;
        for (size_t i = 0; i < n; ++i) {
            expect(ptr.data()[i] <= ptr.data()[i + 1] && ptr.data()[i + 1] <= static_cast<int64_t>(updates), "ptr: expected ascending numbers");
            seen.assign(m, false);
            for (int64_t u = ptr.data()[i]; u < ptr.data()[i + 1]; ++u) {
                const auto cell = static_cast<size_t>(cells.data()[u]);
                expect(cell < m && !seen[cell], "cells: expected different numbers in 0.." + std::to_string(m - 1) + " within a slot");
                seen[cell] = true;
                expect(motions.data()[u] >= -1 && motions.data()[u] < n_motions, "motions: expected -1.." + std::to_string(n_motions - 1));
            }
        }
        for (size_t i = 0; i < 2 * n; ++i) expect(scrolls.data()[i] > -(1 << 20) && scrolls.data()[i] < 1 << 20, "scrolls: expected pixels");
    }
    void check_codes(const ConstInts& cells, const ConstInts& codes) const {
        expect_shape(codes, "codes", {cells.size()});
        for (size_t u = 0; u < cells.size(); ++u)
            expect(static_cast<size_t>(codes.data()[u]) < n_codes_, "codes: expected 0.." + std::to_string(n_codes_ - 1));
    }
    size_t map() const { return canvas_->shape().map_cells; }
    size_t checked(size_t slot) const {
        expect(slot < canvas_->shape().slots, "slot: expected 0.." + std::to_string(canvas_->shape().slots - 1) + ", got " + std::to_string(slot));
        return slot;
    }
    std::vector<int32_t> checked_slots(const ConstInts& slots) const {
        std::vector<bool> seen(canvas_->shape().slots);
        for (size_t i = 0; i < slots.size(); ++i) {
            const size_t slot = checked(static_cast<size_t>(slots.data()[i]));
            expect(!seen[slot], "slots: expected different ones");
            seen[slot] = true;
        }
        return words(slots);
    }
    static std::vector<int32_t> words(const ConstInts& numbers) { return {numbers.data(), numbers.data() + numbers.size()}; }
    template <class T> static std::vector<T> get(const nb::dict& state, const char* name, const std::vector<size_t>& shape) {
        nb::ndarray<const T, nb::c_contig, nb::device::cpu> array;
        expect(state.contains(name) && nb::try_cast(state[name], array), std::string("state: expected a contiguous array ") + name);
        expect_shape(array, std::string("state['") + name + "']", shape);
        return {array.data(), array.data() + array.size()};
    }

    size_t n_codes_;
    std::shared_ptr<Canvas> canvas_;
};

}  // namespace

void bind_canvas(nb::module_& m) {
    nb::class_<CanvasBinding>(m, "Canvas")
        .def(nb::init<const nb::dict&, size_t, size_t, size_t, size_t, size_t, size_t, bool, bool>(), nb::arg("weights"), nb::arg("cell_size"), nb::arg("slots"),
             nb::arg("map_cells"), nb::arg("view_cells"), nb::arg("memory_per_cell"), nb::arg("max_motion"), nb::arg("sprites"),
             nb::arg("things"))
        .def("apply", &CanvasBinding::apply)
        .def("carried", &CanvasBinding::carried)
        .def("carry", &CanvasBinding::carry)
        .def("save", &CanvasBinding::save)
        .def("load", &CanvasBinding::load)
        .def("view", &CanvasBinding::view)
        .def("observations", &CanvasBinding::observations);
}

}  // namespace gamegen::cuda
