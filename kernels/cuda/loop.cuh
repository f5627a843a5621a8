// The token loop's bookkeeping on the device: which rows a pass has, what became of them, commit. See engine.cpp.
#pragma once
#include "codes.cuh"

namespace gamegen::cuda {

constexpr int PREFILL_ROWS = 64;

DEVICE unsigned below(int lane) { return (1u << lane) - 1; }

// Does ballistic attention follow the token's path?
DEVICE bool followed(const View& w, const Token& t) { return w.config.ballistics && t.kind == UPD; }
// END of the step before, which goes into the ring in this pass.
DEVICE PassRow end_row(Live& live, int slot) {
    live.has_pending = 0;
    const int64_t position = live.position - 1;
    return {slot, live.stage ^ 1, live.pending, position, position - live.pending_index, live.pending_index, 1, 0, 0};
}
DEVICE void start(const View& w, const Request& r) {
    Live& live = w.live[r.slot];
    live.seed = r.seed;
    live.position = r.position;
    live.time = r.time;
    live.last = {ACT, r.action, r.camera, r.origin_x, r.origin_y, r.time};
    live.count = 1;
    live.scroll_x = live.scroll_y = live.n_updates = 0;
}
// The token decided after `row` goes to its slot; does the step go on?
DEVICE bool take(const View& w, int slot, int row) {
    Live& live = w.live[slot];
    const Token next = w.next[row];
    live.last = next;
    ++live.count;
    if (next.kind == SCROLL) {
        live.scroll_x = next.a - w.config.grammar.max_scroll;
        live.scroll_y = next.b - w.config.grammar.max_scroll;
    } else if (next.kind == UPD) {
        w.updates[slot * w.config.grammar.n_cells() + live.n_updates++] = {next.a, w.config.grammar.code(next), w.config.grammar.motion(next)};
    }
    return next.kind != END;
}

// The rows of the next pass: of the slots whose step goes on, END of the step before first. A step that has ended leaves
// the list and costs nothing more. One warp.
DEVICE void next_rows(const View& w, Condition more, bool first) {
    const int lane = static_cast<int>(thread_index()), n = first ? w.mail->n_requests : *w.n_playing;
    int rows = 0, playing = 0;
    for (int base = 0; base < n; base += 32) {
        const int i = base + lane;
        int slot = 0;
        bool goes = false;
        if (i < n && first) {
            slot = w.asked[i] = w.requests[i].slot;
            start(w, w.requests[i]);
            goes = true;
        } else if (i < n) {
            slot = w.playing[i];
            goes = take(w, slot, w.row_of[i]);
        }
        Live& live = w.live[slot];
        const bool ends = goes && live.has_pending;
        const unsigned going = ballot(goes), ending = ballot(ends);
        int row = rows + bits_set(going & below(lane)) + bits_set(ending & below(lane));
        if (ends) w.rows[row++] = end_row(live, slot);
        if (goes) {
            const int number = playing + bits_set(going & below(lane));
            w.playing[number] = slot;
            w.row_of[number] = row;
            w.rows[row] = {slot, live.stage, live.last, live.position + live.count - 1, live.position, live.count - 1, 0, 1, live.n_latest};
            live.n_latest += followed(w, live.last);
        }
        rows += bits_set(going) + bits_set(ending);
        playing += bits_set(going);
    }
    if (lane) return;
    if (first) *w.n_asked = n;
    *w.n_rows = rows;
    *w.n_playing = w.mail->playing = playing;
    continue_while(more, playing > 0);
}
KERNEL next_pass(View w, Condition more, bool first) { next_rows(w, more, first); }

// The rows of the next pass over known tokens, END of the step before first. One warp.
KERNEL next_known(View w, Condition more, bool first) {
    const int lane = static_cast<int>(thread_index()), slot = w.mail->known_slot, n = w.mail->n_known, done = first ? 0 : *w.n_before;
    const int64_t start = w.mail->known_start;
    Live& live = w.live[slot];
    const int ends = first && live.has_pending, stage = live.stage;
    int latest = live.n_latest;
    const int here = n - done < PREFILL_ROWS - ends ? n - done : PREFILL_ROWS - ends;
    for (int base = 0; base < here; base += 32) {
        const int i = done + base + lane;
        const bool there = base + lane < here, follows = there && followed(w, w.known[i]);
        const unsigned all = ballot(follows);
        if (there) w.rows[ends + base + lane] = {slot, stage, w.known[i], start + i, start, i, 0, 0, latest + bits_set(all & below(lane))};
        latest += bits_set(all);
    }
    warp_sync();
    if (lane) return;
    live.n_latest = latest;
    live.position = start;
    live.count = n + 1;
    if (ends) w.rows[0] = end_row(live, slot);
    *w.n_asked = 1;
    w.asked[0] = slot;
    *w.n_rows = ends + here;
    *w.n_before = done + here;
    w.mail->playing = ends + here;
    continue_while(more, ends + here > 0);
}

// Staged tokens of a slot, all but END, into the ring: half a warp for a key or a value.
DEVICE void commit_head(const View& w, int slot, int layer_head) {
    const int part = static_cast<int>(thread_index()) / 16, parts = static_cast<int>(block_size()) / 16;
    const Live& live = w.live[slot];
    const auto window = static_cast<int64_t>(w.config.window);
    for (int i = part / 2; i < live.count - 1; i += parts / 2) {  // the same for both halves of a warp
        const int place = static_cast<int>((live.position + i) % window);
        put4(w, slot, layer_head, part % 2, load_staged(staged_at(w, slot, live.stage, i, layer_head) + part % 2 * 64), place, true);
        if (layer_head == 0 && part % 2 == 0 && lane16() == 0)
            w.held[slot * window + place] = w.stage_codes[(slot * 2 + live.stage) * w.stage_tokens + i];
    }
}
// Of the asked slots. Grid (slots, layers * KV heads), 64 threads.
KERNEL commit(View w) {
    if (static_cast<int>(block_index()) < *w.n_asked) commit_head(w, w.asked[block_index()], static_cast<int>(block_row()));
}

// The answer of every asked slot; where its changes begin is the sum of those before. One warp.
DEVICE void answer_all(const View& w) {
    const int lane = static_cast<int>(thread_index()), n = *w.n_asked;
    int before = 0;
    for (int base = 0; base < n; base += 32) {
        const int i = base + lane;
        const bool there = i < n;
        Live& live = w.live[there ? w.asked[i] : 0];
        const int mine = there ? live.n_updates : 0;
        int sum = mine;  // of this lane and those below
        for (int h = 1; h < 32; h *= 2) {
            const int lower = shuffle(sum, lane - h);
            if (lane >= h) sum += lower;
        }
        if (there)
            w.answers[i] = {live.scroll_x, live.scroll_y, live.last.x, live.last.y, live.last.a, live.last.b, live.count, mine, before + sum - mine};
        before += shuffle(sum, 31);
    }
}
KERNEL answer(View w) { answer_all(w); }

// What a finished step leaves behind: its changes, its END, pending; and the latest updates. `number`: of the asked slots;
// `decoded`: by this engine, not known before. At least REACH threads.
DEVICE void finish_slot(const View& w, int number, bool decoded) {
    const int thread = static_cast<int>(thread_index());
    const int slot = w.asked[number], n_cells = w.config.grammar.n_cells();
    Live& live = w.live[slot];
    const int extra = live.n_latest - static_cast<int>(REACH);
    Latest* latest = w.latest + slot * w.max_latest;
    const bool moves = extra > 0 && thread < static_cast<int>(REACH);
    const Latest moved = latest[moves ? thread + extra : 0];
    if (decoded) {
        const int first = w.answers[number].first_update;
        for (int i = thread; i < live.n_updates; i += static_cast<int>(block_size())) {
            const Change change = w.updates[slot * n_cells + i];
            w.codes[slot * n_cells + change.cell] = change.code;
            w.changes[first + i] = change;
        }
    }
    block_sync();
    if (moves) latest[thread] = moved;
    if (thread) return;
    if (extra > 0) live.n_latest = REACH;
    if (!decoded) return;
    const auto window = static_cast<int64_t>(w.config.window);
    w.held[slot * window + (live.position + live.count - 1) % window] = -1;
    live.pending = live.last;
    live.pending_index = live.count - 1;
    live.has_pending = 1;
    live.stage ^= 1;
}
// A block of REACH threads per asked slot.
KERNEL finish(View w, bool decoded) {
    const int number = static_cast<int>(block_index());
    if (number < *w.n_asked) finish_slot(w, number, decoded);
}

}  // namespace gamegen::cuda
