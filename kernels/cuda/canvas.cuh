// One game step of the canvas, as gamegen_env/canvas.py defines it: move the view, find each update's pixels (remembered,
// a plain colour of the true picture, or decoded), keep what is lost if it was true, paint, and draw what is on screen.
#pragma once
#include "../cells.h"
#include "lanes.cuh"

namespace gamegen::cuda {

constexpr int PAINT_THREADS = 128;
constexpr int WIDEST_CODE = 64, WIDEST_HIDDEN = 512;  // of the decoder: its activations lie in shared memory
constexpr int NO_COLOUR = -1;
constexpr unsigned FULL_WARP = 0xFFFFFFFFu;

struct CanvasView {
    int map_cells, view_cells, cell_size, memory, size, frame, values;  // size = M * c, frame = V * c, values = c * c * 3
    int code_dim, hidden;
    // per slot; as CanvasState
    int32_t *codes, *origin, *memory_codes, *memory_next;
    uint8_t *pixels, *original, *memory_pixels, *anchors, *observations;  // anchors: null without sprites
    // of the step
    const int32_t *slots, *scrolls, *ptr, *cells, *new_codes, *motions;
    int32_t *slot_of, *old_codes, *colours;  // per update
    uint8_t* moved;                          // (updates, values)
    // of things.cuh; null without things
    int32_t* along;                // (slots of the step, n_cells)
    uint8_t *kinds, *along_pixels; // per slot: (size, size), (n_cells, values)
    int max_motion;
    const float* codebook;
    LinearView from_code, first, second, last;
    GAMEGEN_HD int n_cells() const { return map_cells * map_cells; }
};

// Place in `pixels` of value i (row, column, colour) of a cell.
DEVICE size_t value_at(const CanvasView& v, int slot, int cell, int i) {
    const int row = cell / v.map_cells * v.cell_size + i / (v.cell_size * 3), column = cell % v.map_cells * v.cell_size * 3 + i % (v.cell_size * 3);
    return (static_cast<size_t>(slot) * v.size + row) * v.size * 3 + column;
}

// Value i of a cell that a motion brings there: as motion.py has it, the pixel that far away.
DEVICE uint8_t moved_value(const CanvasView& v, int slot, int cell, int motion, int i) {
    const int across = 2 * v.max_motion + 1, vectors = across * across, vector = motion % vectors, c = v.cell_size;
    const int y = cell / v.map_cells * c + i / (c * 3) - (vector / across - v.max_motion), x = cell % v.map_cells * c + i / 3 % c - (vector % across - v.max_motion);
    const size_t from = ((static_cast<size_t>(slot) * v.size + (y + v.size) % v.size) * v.size + (x + v.size) % v.size) * 3;
    if (motion < vectors) return v.pixels[from + i % 3];
    int apart = 0;  // of the pixel from its anchor: what stands out moves, and elsewhere the anchor shows
    for (int k = 0; k < 3; ++k) {
        const int by = v.pixels[from + k] - v.anchors[from + k];
        apart += by < 0 ? -by : by;
    }
    return apart > STANDS_OUT ? v.pixels[from + i % 3] : v.anchors[value_at(v, slot, cell, i)];
}

// The view moves; what moves is copied before anything is painted; each update finds the first cell of the slot's true picture that has its code, and that cell's colour if
// it is plain. Only then do codes change. A block per slot of the step.
KERNEL renew(CanvasView v) {
    const int i = static_cast<int>(block_index()), slot = v.slots[i], thread = static_cast<int>(thread_index());
    if (thread < 2) {
        int32_t* at = v.origin + slot * 2 + thread;
        *at = ((*at + v.scrolls[i * 2 + thread]) % v.size + v.size) % v.size;
    }
    const int32_t* codes = v.codes + static_cast<size_t>(slot) * v.n_cells();
    const uint8_t* original = v.original + static_cast<size_t>(slot) * v.n_cells();
    for (int u = v.ptr[i] + thread / 32; u < v.ptr[i + 1]; u += static_cast<int>(block_size()) / 32) {
        int first = v.n_cells();
        for (int cell = thread % 32; cell < v.n_cells() && first == v.n_cells(); cell += 32)
            if (codes[cell] == v.new_codes[u] && original[cell]) first = cell;
        for (int apart = 16; apart; apart /= 2) {
            const int other = shuffle_xor(first, apart);
            first = first < other ? first : other;
        }
        bool plain = first < v.n_cells();
        int colour = 0;
        for (int k = 0; plain && k < 3; ++k) colour |= v.pixels[value_at(v, slot, first, k)] << 8 * k;
        for (int k = thread % 32; plain && k < v.values; k += 32) plain = v.pixels[value_at(v, slot, first, k)] == (colour >> k % 3 * 8 & 255);
        const bool all = ballot(plain) == FULL_WARP;
        if (thread % 32 == 0) {
            v.slot_of[u] = slot;
            v.colours[u] = all ? colour : NO_COLOUR;
            v.old_codes[u] = codes[v.cells[u]];
        }
        if (v.motions[u] >= 0)
            for (int k = thread % 32; k < v.values; k += 32) v.moved[static_cast<size_t>(u) * v.values + k] = moved_value(v, slot, v.cells[u], v.motions[u], k);
    }
    block_sync();
    for (int u = v.ptr[i] + thread; u < v.ptr[i + 1]; u += static_cast<int>(block_size()))
        v.codes[static_cast<size_t>(slot) * v.n_cells() + v.cells[u]] = v.new_codes[u];
}

// Row or column of a neighbour, -1, 0 or 1 apart, clamped to what is on screen: beyond, codes are stale.
DEVICE int neighbour(const CanvasView& v, int at, int origin, int apart) {
    const int first = origin / v.cell_size, last = v.view_cells - 1 + (origin % v.cell_size > 0);
    int place = (at - first + v.map_cells) % v.map_cells + apart;
    place = place < 0 ? 0 : place > last ? last : place;
    return (place + first) % v.map_cells;
}
// out (m.n_out) = x @ m + bias, or silu of it: one thread per output, as the native engine adds.
DEVICE void layer(const LinearView& m, SHARED_ARRAY(float, x), SHARED_ARRAY(float, out)) {
    for (int n = static_cast<int>(thread_index()); n < m.n_out; n += static_cast<int>(block_size())) {
        float sum = 0;
        for (int k = 0; k < m.k; ++k) sum = fmaf(x[k], m.w[(static_cast<size_t>(n / 64) * m.k + k) * 64 + n % 64], sum);
        out[n] = silu(sum + m.bias[n]);
    }
    block_sync();
}

// A block per update.
KERNEL repaint(CanvasView v) {
    const int u = static_cast<int>(block_index()), thread = static_cast<int>(thread_index()), threads = static_cast<int>(block_size());
    SHARED(float, latents, 9 * WIDEST_CODE);
    SHARED(float, inner, WIDEST_HIDDEN);
    SHARED(float, outer, WIDEST_HIDDEN);
    const int slot = v.slot_of[u], cell = v.cells[u], code = v.new_codes[u], colour = v.colours[u], old = v.old_codes[u];
    const bool moves = v.motions[u] >= 0;
    const size_t at = static_cast<size_t>(slot) * v.n_cells() + cell;
    int32_t* memory = v.memory_codes + at * v.memory;
    int known = -1, stands = -1;  // entries that hold the new code and the old one, the first of each
    for (int i = v.memory - 1; i >= 0; --i) {
        if (memory[i] == code) known = i;
        if (memory[i] == old) stands = i;
    }
    const bool true_before = v.original[at];
    const int next = v.memory_next[at], entry = stands >= 0 ? stands : next;
    if (!moves && known < 0 && colour == NO_COLOUR) {
        const int32_t *codes = v.codes + static_cast<size_t>(slot) * v.n_cells(), *origin = v.origin + slot * 2;
        for (int i = thread; i < 9 * v.code_dim; i += threads) {
            const int near = i / v.code_dim, row = neighbour(v, cell / v.map_cells, origin[1], near / 3 - 1),
                      column = neighbour(v, cell % v.map_cells, origin[0], near % 3 - 1);
            latents[i] = v.codebook[static_cast<size_t>(codes[row * v.map_cells + column]) * v.code_dim + i % v.code_dim];
        }
        block_sync();
        layer(v.first, latents, inner);
        layer(v.second, inner, outer);
    }
    block_sync();  // everyone has read the memory's codes
    for (int i = thread; i < v.values; i += threads) {
        uint8_t value;
        const size_t place = value_at(v, slot, cell, i);
        if (moves) {
            value = v.moved[static_cast<size_t>(u) * v.values + i];
        } else if (known >= 0) {
            value = v.memory_pixels[(at * v.memory + known) * v.values + i];
        } else if (colour != NO_COLOUR) {
            value = static_cast<uint8_t>(colour >> i % 3 * 8 & 255);
        } else {
            const LinearView &own = v.from_code, &around = v.last;
            float middle = 0, sum = 0;
            for (int k = 0; k < own.k; ++k)
                middle = fmaf(latents[4 * v.code_dim + k], own.w[(static_cast<size_t>(i / 64) * own.k + k) * 64 + i % 64], middle);
            for (int k = 0; k < around.k; ++k)
                sum = fmaf(outer[k], around.w[(static_cast<size_t>(i / 64) * around.k + k) * 64 + i % 64], sum);
            value = pixel((middle + own.bias[i]) + (sum + around.bias[i]));
        }
        if (true_before) v.memory_pixels[(at * v.memory + entry) * v.values + i] = v.pixels[place];
        v.pixels[place] = value;
    }
    if (thread) return;
    if (true_before) memory[entry] = old;
    if (true_before && stands < 0) v.memory_next[at] = (next + 1) % v.memory;
    v.original[at] = known >= 0 && !moves;
}

// Is all of a row or column of cells on screen, the view beginning at `origin` on this axis?
DEVICE bool whole(const CanvasView& v, int line, int origin) { return (line * v.cell_size - origin + v.size) % v.size <= v.frame - v.cell_size; }

// What came on screen in full is its cells' anchor. A block per slot of the step.
KERNEL drop_anchors(CanvasView v) {
    const int i = static_cast<int>(block_index()), slot = v.slots[i], dx = v.scrolls[2 * i], dy = v.scrolls[2 * i + 1];
    if (!dx && !dy) return;
    const int x = v.origin[2 * slot], y = v.origin[2 * slot + 1];
    const int before_x = ((x - dx) % v.size + v.size) % v.size, before_y = ((y - dy) % v.size + v.size) % v.size;
    for (int cell = 0; cell < v.n_cells(); ++cell) {
        const int row = cell / v.map_cells, column = cell % v.map_cells;
        if (!whole(v, row, y) || !whole(v, column, x) || (whole(v, row, before_y) && whole(v, column, before_x))) continue;
        for (int k = static_cast<int>(thread_index()); k < v.values; k += static_cast<int>(block_size())) {
            const size_t at = value_at(v, slot, cell, k);
            v.anchors[at] = v.pixels[at];
        }
    }
}

// What the slots of the step show. Grid (slots, rows of the frame).
KERNEL observe(CanvasView v) {
    const int slot = v.slots[block_index()], row = static_cast<int>(block_row());
    const int32_t* origin = v.origin + slot * 2;
    const uint8_t* from = v.pixels + (static_cast<size_t>(slot) * v.size + (origin[1] + row) % v.size) * v.size * 3;
    uint8_t* to = v.observations + (static_cast<size_t>(slot) * v.frame + row) * v.frame * 3;
    for (int i = static_cast<int>(thread_index()); i < v.frame * 3; i += static_cast<int>(block_size()))
        to[i] = from[(origin[0] + i / 3) % v.size * 3 + i % 3];
}

}  // namespace gamegen::cuda
