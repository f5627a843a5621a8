// What the things of a step carry along, as gamegen_env/things.py and Canvas.carried define it, and its painting.
#pragma once
#include "canvas.cuh"

namespace gamegen::cuda {

constexpr uint8_t GROUND = 0, OUT = 1, THING = 2;  // of a pixel: like its anchor, or standing out; the latter of the thing in hand
constexpr int FREE = -1, TAKEN = -2;               // of a cell that no thing carries

DEVICE bool apart(const uint8_t* a, const uint8_t* b) {
    int sum = 0;
    for (int k = 0; k < 3; ++k) sum += a[k] < b[k] ? b[k] - a[k] : a[k] - b[k];
    return sum > STANDS_OUT;
}
DEVICE int wrapped(const CanvasView& v, int line) { return (line % v.size + v.size) % v.size; }
// Is it so for any thread of the block?
DEVICE bool block_any(bool mine, SHARED_ARRAY(int, votes)) {
    const int thread = static_cast<int>(thread_index());
    const unsigned warp = ballot(mine);
    if (thread % 32 == 0) votes[thread / 32] = warp != 0;
    block_sync();
    bool any = false;
    for (int w = 0; w < static_cast<int>(block_size()) / 32; ++w) any = any || votes[w];
    block_sync();
    return any;
}

// For every cell of the step's slots the update whose thing carries it along, or FREE or TAKEN, and what it shows then. Nothing
// else changes: views and codes are those before the step. A block per slot of the step.
KERNEL hang(CanvasView v) {
    const int i = static_cast<int>(block_index()), slot = v.slots[i], thread = static_cast<int>(thread_index()), threads = static_cast<int>(block_size());
    const int *before = v.origin + 2 * slot, x = wrapped(v, before[0] + v.scrolls[2 * i]), y = wrapped(v, before[1] + v.scrolls[2 * i + 1]);
    const int across = 2 * v.max_motion + 1, vectors = across * across, c = v.cell_size, area = v.size * v.size;
    const size_t first = static_cast<size_t>(slot) * area;
    const uint8_t *pixels = v.pixels + first * 3, *anchors = v.anchors + first * 3;
    uint8_t *kinds = v.kinds + first, *shown = v.along_pixels + first * 3;
    int32_t* along = v.along + static_cast<size_t>(i) * v.n_cells();
    SHARED(int, votes, PAINT_THREADS / 32);
    for (int cell = thread; cell < v.n_cells(); cell += threads) {
        const int row = cell / v.map_cells, column = cell % v.map_cells;
        along[cell] = whole(v, row, y) && whole(v, column, x) && whole(v, row, before[1]) && whole(v, column, before[0]) ? FREE : TAKEN;
    }
    for (int p = thread; p < area; p += threads) {
        const bool seen = wrapped(v, p / v.size - y) < v.frame && wrapped(v, p % v.size - x) < v.frame;
        kinds[p] = seen && apart(pixels + 3 * p, anchors + 3 * p) ? OUT : GROUND;
    }
    block_sync();
    for (int u = v.ptr[i] + thread; u < v.ptr[i + 1]; u += threads) along[v.cells[u]] = TAKEN;
    block_sync();
    for (int u = v.ptr[i]; u < v.ptr[i + 1]; ++u) {
        if (v.motions[u] < 2 * vectors) continue;
        const int vector = v.motions[u] % vectors, dx = vector % across - v.max_motion, dy = vector / across - v.max_motion;
        const auto source = [&](int p) { return wrapped(v, p / v.size - dy) * v.size + wrapped(v, p % v.size - dx); };
        const auto place = [&](int cell, int k) { return (cell / v.map_cells * c + k / c) * v.size + cell % v.map_cells * c + k % c; };
        // What the motion takes from the cell and brings there; where that is nothing, what it does in the cells around.
        bool any = false;
        for (int near = 0; near <= c && !any; near += c) {
            bool mine = false;
            for (int k = thread, side = c + 2 * near; k < side * side; k += threads) {
                const int row = v.cells[u] / v.map_cells * c + k / side - near, column = v.cells[u] % v.map_cells * c + k % side - near;
                for (int p : {wrapped(v, row) * v.size + wrapped(v, column), wrapped(v, row - dy) * v.size + wrapped(v, column - dx)})
                    if (kinds[p] != GROUND) kinds[p] = THING, mine = true;
            }
            any = block_any(mine, votes);
        }
        for (bool more = true; more;) {
            bool mine = false;
            for (int p = thread; p < area; p += threads) {
                bool joins = false;
                for (int k = 0; kinds[p] == OUT && k < 9 && !joins; ++k)
                    joins = kinds[wrapped(v, p / v.size + k / 3 - 1) * v.size + wrapped(v, p % v.size + k % 3 - 1)] == THING;
                if (joins) kinds[p] = THING, mine = true;
            }
            more = block_any(mine, votes);
        }
        for (int cell = thread; cell < v.n_cells(); cell += threads) {
            if (along[cell] != FREE) continue;
            const auto after = [&](int k) {
                const int p = place(cell, k), from = source(p);
                return kinds[from] == THING ? pixels + 3 * from : (kinds[p] == THING ? anchors : pixels) + 3 * p;
            };
            bool changes = false;
            for (int k = 0; k < c * c; ++k) changes = changes || apart(after(k), pixels + 3 * place(cell, k));
            if (!changes) continue;
            along[cell] = u;
            for (int k = 0; k < v.values; ++k) shown[static_cast<size_t>(cell) * v.values + k] = after(k / 3)[k % 3];
        }
        block_sync();
        for (int p = thread; p < area; p += threads)
            if (kinds[p] == THING) kinds[p] = OUT;
        block_sync();
    }
}

// Cells that were carried along show it, and have new codes. A block per cell: slot_of, cells and new_codes.
KERNEL settle(CanvasView v) {
    const int u = static_cast<int>(block_index()), slot = v.slot_of[u], cell = v.cells[u], thread = static_cast<int>(thread_index());
    const size_t at = static_cast<size_t>(slot) * v.n_cells() + cell;
    int32_t* memory = v.memory_codes + at * v.memory;
    const int old = v.codes[at], next = v.memory_next[at];
    const bool true_before = v.original[at];
    int stands = -1;
    for (int i = v.memory - 1; i >= 0; --i)
        if (memory[i] == old) stands = i;
    const int entry = stands >= 0 ? stands : next;
    block_sync();  // everyone has read the memory's codes
    for (int k = thread; k < v.values; k += static_cast<int>(block_size())) {
        const size_t place = value_at(v, slot, cell, k);
        if (true_before) v.memory_pixels[(at * v.memory + entry) * v.values + k] = v.pixels[place];
        v.pixels[place] = v.along_pixels[at * v.values + k];
    }
    if (thread) return;
    if (true_before) memory[entry] = old;
    if (true_before && stands < 0) v.memory_next[at] = (next + 1) % v.memory;
    v.codes[at] = v.new_codes[u];
    v.original[at] = 0;
}

}  // namespace gamegen::cuda
