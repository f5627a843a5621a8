#include "forward.h"

#include <algorithm>
#include <cstring>

#include "elementary.h"

namespace gamegen {

Forward::Forward(const Model& model, const Ops& ops, bool half)
    : model_(model), ops_(ops), half_(half), waves_(rotary_waves(model.config.grammar.map_cells)) {
    const Config& c = model.config;
    const Layer& layer = model.layers.front();
    const size_t widest = std::max({c.d_model, c.d_ff, c.n_heads * HEAD, 2 * c.d_model});
    x_.resize(MAX_ROWS * c.d_model);
    normed_.resize(MAX_ROWS * c.d_model);
    hidden_.resize(MAX_ROWS * c.d_model);
    heads_.resize(MAX_ROWS * layer.qkv.width());
    attended_.resize(MAX_ROWS * c.n_heads * HEAD);
    projected_.resize(MAX_ROWS * layer.out.width());
    wide_.resize(MAX_ROWS * (layer.gate_up.width() + c.d_ff));
    rotary_.resize(MAX_ROWS * HEAD);
    logits_.resize(MAX_GROUP * (round_up(c.window, BLOCK) + round_up(c.max_step_tokens(), 16)));
    bytes_.resize(MAX_ROWS * scratch_bytes(widest));
}

void Forward::embed(const Token& t, float* out) const {
    const Grammar& g = model_.config.grammar;
    const int m = g.map_cells, c = g.cell_size, s = g.side();
    // Starts of the features in the small table: kind, row, col, view row, view col, origin row, origin col, ...
    const int row = 5, col = row + m, view_row = col + m, view_col = view_row + m, origin_row = view_col + m,
              origin_col = origin_row + m, fine_y = origin_col + m, fine_x = fine_y + c, direction = fine_x + c,
              button = direction + N_DIRECTIONS, scroll_x = button + g.n_actions / N_DIRECTIONS, scroll_y = scroll_x + s,
              reward = scroll_y + s, done = reward + 3, motion_x = done + 2;
    const int at_row = t.y / c, at_col = t.x / c;
    int features[7] = {t.kind, 0, 0, origin_row + at_row, origin_col + at_col, fine_y + t.y % c, fine_x + t.x % c};
    if (t.cell()) {
        features[1] = row + t.a / m;
        features[2] = col + t.a % m;
        features[3] = view_row + (t.a / m - at_row + m) % m;
        features[4] = view_col + (t.a % m - at_col + m) % m;
    } else if (t.kind == ACT) {
        features[1] = direction + t.a % N_DIRECTIONS;
        features[2] = button + t.a / N_DIRECTIONS;
    } else if (t.kind == SCROLL) {
        features[1] = scroll_x + t.a;
        features[2] = scroll_y + t.b;
    } else {
        features[1] = reward + t.a;
        features[2] = done + t.b;
    }
    const size_t d = model_.config.d_model;
    std::memset(out, 0, d * 4);
    const auto add = [&](int feature) { ops_.add(out, model_.small.data() + static_cast<size_t>(feature) * d, d); };
    for (int f : features) add(f);
    if (const int reach = model_.config.max_motion) {
        // What repaints has the motion that no update can have, (0, 0); an action has the camera's.
        const int across = 2 * reach + 1, moved = t.kind == UPD ? g.motion(t) : -1, vectors = across * across;
        const int motion = moved < 0 ? vectors / 2 : moved % vectors;
        add(t.kind == ACT ? scroll_x + t.b % s : motion_x + motion % across);
        add(t.kind == ACT ? scroll_y + t.b / s : motion_x + across + motion / across);
        if (model_.config.anchor) add(motion_x + 2 * across + g.astray(t));
        if (model_.config.sprites) add(motion_x + 2 * across + 2 + std::max(moved, 0) / vectors);
    }
    if (t.cell()) ops_.add(out, model_.code.data() + static_cast<size_t>(g.code(t)) * d, d);
}

void Forward::rotary(const Token& t, int64_t position, float* out) const {
    const int m = model_.config.grammar.map_cells, cell = t.cell() ? t.a : 0;
    for (int i = 0; i < 8; ++i) {
        const double angles[4] = {static_cast<double>(position) * waves_.by_position[i], static_cast<double>(t.time) * waves_.by_time[i],
                                  cell / m * waves_.by_place[i], cell % m * waves_.by_place[i]};
        for (int part = 0; part < 4; ++part) {
            const auto angle = static_cast<float>(within_turn(angles[part]));
            out[8 * part + i] = cos_of(angle);
            out[32 + 8 * part + i] = sin_of(angle);
        }
    }
}

Seen Forward::seen(const Row& row, size_t layer_head, int64_t position) const {
    const size_t window = model_.config.window;
    const auto committed = static_cast<size_t>(row.committed);
    return {row.slot->cache(layer_head), half_, model_.precision == Precision::FLOAT, std::min(committed, window), window, committed % window,
            // Places that tokens up to `position` will overwrite hold what has left the window.
            std::min(static_cast<size_t>(position - row.committed + 1), window),
            row.stage->at(0, layer_head), row.stage->stride, row.index + 1};
}

void Forward::attend(const Row* rows, size_t n, size_t layer) {
    const Config& c = model_.config;
    const size_t group = c.group(), width = model_.layers[layer].qkv.width();
    for (size_t r = 0; r < n; ++r)
        for (size_t kv = 0; kv < c.n_kv_heads; ++kv) {
            Seen s = seen(rows[r], layer * c.n_kv_heads + kv, rows[r].position);
            const bool last = kv + 1 == c.n_kv_heads;
            if (!last || r + 1 < n) {  // what comes next is fetched meanwhile, the step's own tokens first
                const Row& next = rows[r + last];
                const size_t layer_head = layer * c.n_kv_heads + (last ? 0 : kv + 1);
                s.next = next.slot->cache(layer_head);
                for (size_t i = 0; i <= next.index; ++i)
                    for (size_t j = 0; j < 2 * HEAD; j += 16) __builtin_prefetch(next.stage->at(i, layer_head) + j, 0, 2);
            }
            float* out = attended_.data() + r * c.n_heads * HEAD + kv * group * HEAD;
            ops_.scores(heads_.data() + r * width + kv * group * HEAD, group, s, logits_.data());
            ops_.mix(logits_.data(), group, s, out);
            for (size_t g = 0; g < group; ++g) ops_.hadamard(out + g * HEAD);
        }
}

void Forward::run(const Row* rows, size_t n) {
    const Config& c = model_.config;
    const size_t d = c.d_model;
    for (size_t r = 0; r < n; ++r) {
        rows[r].stage->ensure(rows[r].index + 1);
        rows[r].stage->codes[rows[r].index] = static_cast<int16_t>(rows[r].token.cell() ? model_.config.grammar.code(rows[r].token) : -1);
        embed(rows[r].token, x_.data() + r * d);
        rotary(rows[r].token, rows[r].position, rotary_.data() + r * HEAD);
    }
    for (size_t l = 0; l < c.n_layers; ++l) {
        const Layer& layer = model_.layers[l];
        for (size_t r = 0; r < n; ++r) ops_.rms_norm(x_.data() + r * d, layer.attention_norm.data(), d, normed_.data() + r * d);
        ops_.linear(layer.qkv, normed_.data(), n, d, heads_.data(), bytes_.data());
        for (size_t r = 0; r < n; ++r) {
            float* head = heads_.data() + r * layer.qkv.width();
            const float* turn = rotary_.data() + r * HEAD;
            for (size_t h = 0; h < c.n_heads; ++h, head += HEAD) {
                ops_.rms_norm(head, layer.q_norm.data(), HEAD, head);
                ops_.place(head, turn, ROOT);
            }
            float* value = head + c.n_kv_heads * HEAD;
            for (size_t kv = 0; kv < c.n_kv_heads; ++kv, head += HEAD, value += HEAD) {
                const size_t layer_head = l * c.n_kv_heads + kv;
                float* to = rows[r].stage->at(rows[r].index, layer_head);
                ops_.rms_norm(head, layer.k_norm.data(), HEAD, head);
                ops_.place(head, turn, 1);
                ops_.hadamard(value);
                std::memcpy(to, head, HEAD * 4);
                std::memcpy(to + HEAD, value, HEAD * 4);
                ops_.round_half(to, 2 * HEAD);
                if (rows[r].commit) rows[r].slot->commit(ops_, layer_head, to, static_cast<size_t>(rows[r].position) % c.window);
            }
        }
        attend(rows, n, l);
        ops_.linear(layer.out, attended_.data(), n, c.n_heads * HEAD, projected_.data(), bytes_.data());
        for (size_t r = 0; r < n; ++r) {
            float* x = x_.data() + r * d;
            ops_.add(x, projected_.data() + r * layer.out.width(), d);
            ops_.rms_norm(x, layer.ff_norm.data(), d, normed_.data() + r * d);
        }
        float* gated = wide_.data() + n * layer.gate_up.width();
        ops_.linear(layer.gate_up, normed_.data(), n, d, wide_.data(), bytes_.data());
        for (size_t r = 0; r < n; ++r) {
            const float* gate = wide_.data() + r * layer.gate_up.width();
            ops_.silu_times(gate, gate + c.d_ff, c.d_ff, gated + r * c.d_ff);
        }
        ops_.linear(layer.down, gated, n, c.d_ff, projected_.data(), bytes_.data());
        for (size_t r = 0; r < n; ++r) ops_.add(x_.data() + r * d, projected_.data() + r * layer.down.width(), d);
    }
    for (size_t r = 0; r < n; ++r) ops_.rms_norm(x_.data() + r * d, model_.norm.data(), d, hidden_.data() + r * d);
}

}  // namespace gamegen
