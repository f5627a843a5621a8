// What an update shows: the code head's input, then a code or a motion, drawn from what the vocabulary and the pointer
// memory say. See decide.cpp.
#pragma once
#include "decide.cuh"

namespace gamegen::cuda {

// What the code head reads: hidden state, then place and present code of the cell.
DEVICE void describe_row(const View& w, int number) {
    const int row = w.code_rows[number], d = static_cast<int>(w.config.d_model);
    const Grammar& g = w.config.grammar;
    const Token t = w.next[row];
    const int m = g.map_cells, r = t.a / m, col = t.a % m;
    const int features[4] = {5 + r, 5 + m + col, 5 + 2 * m + (r - t.y / g.cell_size + m) % m, 5 + 3 * m + (col - t.x / g.cell_size + m) % m};
    const int present = w.codes[w.rows[row].slot * g.n_cells() + t.a];
    for (int i = static_cast<int>(thread_index()); i < d; i += static_cast<int>(block_size())) {
        float sum = 0;
        for (int f : features) sum += w.small[static_cast<size_t>(f) * d + i];
        w.described[number * 2 * d + i] = w.hidden[row * d + i];
        w.described[number * 2 * d + d + i] = sum + w.code[static_cast<size_t>(present) * d + i];
    }
}
KERNEL describe(View w) {
    const int number = static_cast<int>(block_index());
    if (number < *w.n_code_rows) describe_row(w, number);
}

constexpr int WIDEST_PATCH = 3 * 8 * 8;

// As in motion.py: of a pixel's colours.
DEVICE bool stands_out(const View& w, size_t pixel, size_t anchor) {
    int apart = 0;
    for (int i = 0; i < 3; ++i) {
        const int by = w.patches[pixel + i] - w.patches[anchor + i];
        apart += by < 0 ? -by : by;
    }
    return apart > STANDS_OUT;
}

// The code that looks most like what a cell's surroundings, before the step, show where a motion brings them; the lowest of
// equals. By the whole block.
DEVICE int moved_code(const View& w, int slot, int cell, int motion, SHARED_ARRAY(float, box), SHARED_ARRAY(int, who)) {
    SHARED(int, patch, WIDEST_PATCH);
    const Grammar& g = w.config.grammar;
    const int side = g.cell_size, size = g.size(), values = 3 * side * side, reach = w.config.max_motion, across = 2 * reach + 1;
    const int vectors = across * across, vector = motion % vectors, dx = vector % across - reach, dy = vector / across - reach, thread = static_cast<int>(thread_index());
    // Where the first colour of a torus pixel's look lies.
    const auto look = [&](const int32_t* maps, int y, int x) {
        const int code = maps[slot * g.n_cells() + y / side * g.map_cells + x / side];
        return ((static_cast<size_t>(code) * side + y % side) * side + x % side) * 3;
    };
    for (int i = thread; i < values; i += static_cast<int>(block_size())) {
        const int own_y = cell / g.map_cells * side + i / (3 * side), own_x = cell % g.map_cells * side + i / 3 % side;
        const int y = (own_y - dy + size) % size, x = (own_x - dx + size) % size;
        size_t from = look(w.codes, y, x);
        if (motion >= vectors && !stands_out(w, from, look(w.anchor, y, x))) from = look(w.anchor, own_y, own_x);
        patch[i] = w.patches[from + i % 3];
    }
    block_sync();
    float best = LOWEST;
    int nearest = 0;
    for (int code = thread; code < g.n_codes; code += static_cast<int>(block_size())) {
        int squares = 0;  // less than 2^24, exact as a float
        for (int i = 0; i < values; ++i) {
            const int apart = patch[i] - w.patches[static_cast<size_t>(code) * values + i];
            squares += apart * apart;
        }
        if (const auto score = static_cast<float>(-squares); score > best) best = score, nearest = code;
    }
    return block_best(best, nearest, 0, box, who);
}

DEVICE void draw_code_row(const View& w, int number) {
    const int thread = static_cast<int>(thread_index()), threads = static_cast<int>(block_size()), row = w.code_rows[number];
    SHARED(float, box, MOST_WARPS);
    SHARED(int, who, MOST_WARPS);
    SHARED(int, quads, 16);
    SHARED(float, numbers, 2);
    SHARED(float, heads, MAX_HEADS * 64);
    SHARED(float, sentinels, 1);
    SHARED(float, turn, 64);
    const PassRow& r = w.rows[row];
    const Config& c = w.config;
    const Token update = w.next[row];
    const int n_codes = c.grammar.n_codes, at = r.slot * c.grammar.n_cells() + update.a, present = w.codes[at];
    const int anchor = c.anchor ? w.anchor[at] : present;
    float* logits = w.code_scores + static_cast<size_t>(number) * w.code_logits.width;
    const uint32_t key = noise_key(static_cast<uint64_t>(w.live[r.slot].seed), static_cast<uint64_t>(r.token.time),
                                   static_cast<uint64_t>(r.index + 1), CODE_NOISE);
    if (thread == 0) logits[present] = LOWEST;
    if (!c.pointer) {
        block_sync();
        const int code = block_draw(w, logits, n_codes, key, w.temperature, box, who);
        if (thread == 0) w.next[row].b = code;
        return;
    }
    if (thread < 64) turn[thread] = rotary(w, update, r.position + 1, thread % 32, thread / 32);
    const int n_kv = static_cast<int>(c.n_kv_heads);
    float* sum = w.logits + static_cast<size_t>(number) * (c.n_heads + 1) * w.logits_width;
    float* more = sum + w.logits_width;
    int width = 0, ring = 0;
    for (int kv = 0; kv < n_kv; ++kv) {
        Head queries[1] = {load_head(w.turned + number * w.pointer_query.width + kv * 64)};
        Head& query = queries[0];
        norm_head(query, w.pointer_norm);
        if (thread < 16)
            for (int j = 0; j < 4; ++j) heads[kv * 64 + lane16() + 16 * j] = query.v[j];
        block_sync();
        place_head(query, turn);
        for (float& v : query.v) v *= 0.125f;
        if (thread < 32) put_query(query, quads, numbers, 0, thread < 16);
        block_sync();
        const View4 s = see(w, r, static_cast<int>(c.n_layers - 1) * n_kv + kv, r.position + 1);
        width = s.width();
        ring = s.ring;
        scores<1>(queries, quads, numbers, s, kv ? more : sum, 0);
        block_sync();
        if (kv)
            for (int i = thread; i < width; i += threads) sum[i] += more[i];
        block_sync();
    }
    if (thread == 0) {
        float sentinel = 0;
        for (int i = 0; i < n_kv * 64; ++i) sentinel += heads[i] * w.sentinel[i];
        sentinels[0] = sentinel * 0.125f + w.sentinel_bias;
    }
    const auto carried = [&](int i) -> int {
        if (i < ring) return i < static_cast<int>(c.window) ? w.held[r.slot * c.window + i] : -1;
        return i - ring <= r.index ? w.stage_codes[(r.slot * 2 + r.stage) * w.stage_tokens + i - ring] : -1;
    };
    for (int i = thread; i < width; i += threads) {
        const int code = carried(i);
        if (code < 0 || code == present) sum[i] = LOWEST;
    }
    block_sync();
    const int n_motions = static_cast<int>(c.n_motions());
    float* moves = w.moves + number * w.motion_head.width;
    const float sentinel = sentinels[0], largest = block_maximum(sum, width, box);
    float top = sentinel < largest ? largest : sentinel;
    if (n_motions) {
        if (thread == 0 && anchor == present) moves[c.still()] = LOWEST;
        if (thread == 0)
            for (int i = c.n_vectors() + c.still(); i < n_motions; i += c.n_vectors()) moves[i] = LOWEST;
        block_sync();
        const float farthest = block_maximum(moves, n_motions, box);
        top = top < farthest ? farthest : top;
    }
    float total = block_exponentials(sum, width, top, box) + exp_of(sentinel - top);
    if (n_motions) {
        total += block_exponentials(moves, n_motions, top, box);
        for (int i = thread; i < n_motions; i += threads) moves[i] = moves[i] * (1 / total);
    }
    const float highest = block_maximum(logits, n_codes, box);
    const float vocabulary = block_exponentials(logits, n_codes, highest, box);
    const float by = exp_of(sentinel - top) / total / vocabulary;
    for (int i = thread; i < n_codes; i += threads) logits[i] = logits[i] * by;
    block_sync();
    // A code's owner adds what the window's tokens give to it, in their order.
    for (int i = 0; i < width; ++i) {
        const int code = carried(i);
        if (code >= 0 && code % threads == thread && sum[i] > 0) logits[code] += sum[i] / total;
    }
    if (n_motions && anchor % threads == thread) {
        logits[anchor] += moves[c.still()];
        moves[c.still()] = 0;
    }
    block_sync();
    const float best_code = block_maximum(logits, n_codes, box), best_move = block_maximum(moves, n_motions, box);
    const float best = best_code < best_move ? best_move : best_code;
    float least = w.temperature == 0 ? best : best * exp_of(-w.span * w.temperature);
    least = FLOOR < least ? least : FLOOR;
    float best_score = LOWEST;
    int of_class = 0;
    const auto weigh = [&](float p, int i) {
        if (!(p >= least)) return;
        const float score = w.temperature == 0 ? p : log_of(p) / w.temperature + gumbel(w.gumbel, key, static_cast<uint32_t>(i));
        if (score > best_score) best_score = score, of_class = i;
    };
    for (int i = thread; i < n_codes; i += threads)
        if (i != present) weigh(logits[i], i);
    for (int i = thread; i < n_motions; i += threads) weigh(moves[i], n_codes + i);
    const int chosen = block_best(best_score, of_class, 0, box, who), motion = chosen - n_codes;
    const int code = motion < 0 ? chosen : moved_code(w, r.slot, update.a, motion, box, who) + n_codes * (motion + 1);
    if (thread == 0) w.next[row].b = code;
}
KERNEL draw_code(View w) {
    const int number = static_cast<int>(block_index());
    if (number < *w.n_code_rows) draw_code_row(w, number);
}

}  // namespace gamegen::cuda
