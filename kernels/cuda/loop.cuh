// The token loop's bookkeeping on the device: which rows a pass has, what became of them, commit. See engine.cpp.
#pragma once
#include "decide.cuh"

namespace gamegen::cuda {

// Rows of the slots whose step goes on, END of the step before first; a slot that has ended has none. One warp.
KERNEL plan(View w) {
    const unsigned lane = thread_index(), below = (1u << lane) - 1;
    int total = 0, active = 0;
    for (int base = 0; base < w.slots; base += 32) {
        const int slot = base + static_cast<int>(lane);
        Live* live = slot < w.slots ? w.live + slot : nullptr;
        const bool plays = live && live->active, ends = plays && live->has_pending;
        const unsigned playing = ballot(plays), ending = ballot(ends);
        int row = total + bits_set(playing & below) + bits_set(ending & below);
        total += bits_set(playing) + bits_set(ending);
        active += bits_set(playing);
        if (ends) {
            const int64_t position = live->position - 1;
            w.rows[row++] = {slot, live->stage ^ 1, live->pending, position, position - live->pending_index, live->pending_index, 1, 0, 0};
            live->has_pending = 0;
        }
        if (plays)
            w.rows[row] = {slot, live->stage, live->last, live->position + live->count - 1, live->position, live->count - 1, 0, 1, 0};
    }
    if (lane == 0) {
        *w.n_rows = total;
        *w.n_active = active;
    }
}

// Decided tokens go to their slots.
KERNEL take(View w) {
    for (int row = static_cast<int>(thread_index()); row < *w.n_rows; row += static_cast<int>(block_size())) {
        if (!w.rows[row].decides) continue;
        const int slot = w.rows[row].slot, n_cells = w.config.grammar.n_cells();
        Live& live = w.live[slot];
        const Token next = w.next[row];
        live.last = next;
        ++live.count;
        if (next.kind == SCROLL) {
            live.scroll_x = next.a - w.config.grammar.max_scroll;
            live.scroll_y = next.b - w.config.grammar.max_scroll;
        } else if (next.kind == UPD) {
            w.update_cells[slot * n_cells + live.n_updates] = next.a;
            w.update_codes[slot * n_cells + live.n_updates++] = next.b;
        } else {
            live.active = 0;
            live.ended = 1;
        }
    }
}

// Staged tokens of a step that has ended, all but END, into the ring. Grid (slots, layers * KV heads), 64 threads.
KERNEL commit(View w) {
    const int slot = static_cast<int>(block_index()), layer_head = static_cast<int>(block_row()), thread = static_cast<int>(thread_index());
    const Live& live = w.live[slot];
    if (!live.ended) return;
    const auto window = static_cast<int64_t>(w.config.window);
    for (int i = thread / 2; i < live.count - 1; i += static_cast<int>(block_size()) / 2) {
        const int place = static_cast<int>((live.position + i) % window);
        put4(w, slot, layer_head, thread % 2, staged_at(w, slot, live.stage, i, layer_head), place);
        if (layer_head == 0 && thread % 2 == 0) w.held[slot * window + place] = w.stage_codes[(slot * 2 + live.stage) * w.stage_tokens + i];
    }
}

// What a finished step leaves behind; with `end`, its END is pending. One thread per slot.
KERNEL finish(View w, bool end) {
    const int slot = static_cast<int>(block_index() * block_size() + thread_index()), n_cells = w.config.grammar.n_cells();
    if (slot >= w.slots || !w.live[slot].ended) return;
    Live& live = w.live[slot];
    live.ended = 0;
    if (end) {
        const auto window = static_cast<int64_t>(w.config.window);
        w.held[slot * window + (live.position + live.count - 1) % window] = -1;
        for (int i = 0; i < live.n_updates; ++i) w.codes[slot * n_cells + w.update_cells[slot * n_cells + i]] = w.update_codes[slot * n_cells + i];
        live.pending = live.last;
        live.pending_index = live.count - 1;
        live.has_pending = 1;
        live.stage ^= 1;
    }
    const int extra = live.n_latest - static_cast<int>(REACH);
    if (extra <= 0) return;
    Latest* latest = w.latest + slot * w.max_latest;
    for (int i = 0; i < static_cast<int>(REACH); ++i) latest[i] = latest[i + extra];
    live.n_latest = REACH;
}

}  // namespace gamegen::cuda
