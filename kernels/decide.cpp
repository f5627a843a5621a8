#include "decide.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "elementary.h"
#include "noise.h"

namespace gamegen {

constexpr float NEVER = -__builtin_inff();
constexpr float GAIN = 4.0f, SPREAD = 0.15f;  // as in ballistics.py
constexpr float FLOOR = 1e-20f;               // as in pointer.py
constexpr size_t CODE_ROWS = 32;              // updates whose 8192 logits are held at a time

static float softplus(float x) { return x > 20 ? x : log1p_of(exp_of(x)); }
static float sigmoid(float x) { return 1 / (1 + exp_of(-x)); }

// As in motion.py: of a pixel's colours, whole numbers.
static bool stands_out(const float* colours, const float* anchor) {
    float apart = 0;
    for (int i = 0; i < 3; ++i) apart += std::abs(colours[i] - anchor[i]);
    return apart > STANDS_OUT;
}

// Call fn(i) for every x[i] >= least, ascending. Most stretches hold none.
template <class Fn> static void each_above(const float* x, size_t n, float least, Fn fn) {
    constexpr size_t STRETCH = 32;
    for (size_t first = 0; first < n; first += STRETCH) {
        const size_t stop = std::min(first + STRETCH, n);
        int any = 0;
        for (size_t i = first; i < stop; ++i) any |= x[i] >= least;
        if (any)
            for (size_t i = first; i < stop; ++i)
                if (x[i] >= least) fn(i);
    }
}

Decider::Decider(Forward& forward, std::vector<float> gumbel_table, float temperature)
    : forward_(forward), model_(forward.model()), ops_(forward.ops()), table_(std::move(gumbel_table)),
      temperature_(temperature), span_(table_.back() - table_.front() + 1) {
    const Config& c = model_.config;
    const size_t d = c.d_model;
    events_.resize(MAX_ROWS * model_.event_head.width());
    aims_.resize(MAX_ROWS * round_up(4 * c.n_heads, BLOCK));
    motions_.resize(MAX_ROWS * BLOCK);
    queries_.resize(MAX_ROWS * c.n_heads * HEAD);
    described_.resize(CODE_ROWS * 2 * d);
    inner_.resize(CODE_ROWS * round_up(2 * d, BLOCK));
    query_.resize(CODE_ROWS * round_up(d, BLOCK));
    codes_.resize(CODE_ROWS * model_.code_logits.width());
    turned_.resize(CODE_ROWS * c.n_kv_heads * HEAD);
    ends_.resize(BLOCK);
    window_.resize((1 + c.n_heads) * (round_up(c.window, BLOCK) + round_up(c.max_step_tokens(), 16)));
    weights_.resize(c.n_heads * REACH);
    moves_.resize(CODE_ROWS * model_.motion_head.width());
    matches_.resize(model_.patch_matrix.width());
    bytes_.resize(MAX_ROWS * scratch_bytes(round_up(2 * d, BLOCK)));
}

int Decider::draw(const float* logits, size_t n, uint32_t key, float temperature) const {
    const float top = ops_.maximum(logits, n);
    // Where no number is left, the last class: END among events, so that every step ends.
    if (temperature == 0) return static_cast<int>(std::min(static_cast<size_t>(std::find(logits, logits + n, top) - logits), n - 1));
    // Of thousands of classes a few can win: those not further below the best than the noise spans.
    const float least = top - span_ * temperature;
    return static_cast<int>(ops_.draw(logits, n, least, temperature, table_.data(), key, n - 1));
}

void Decider::remember(const Row* rows, size_t first, size_t count) {
    if (!model_.config.ballistics) return;
    for (size_t r = first; r < first + count; ++r) {
        if (rows[r].token.kind != UPD) continue;
        ops_.linear(model_.motion, forward_.hidden(r), 1, model_.config.d_model, motions_.data(), bytes_.data());
        Update update{rows[r].position, rows[r].token.a, rows[r].token.time, {}};
        std::memcpy(update.motion, motions_.data(), sizeof update.motion);
        rows[r].slot->latest.push_back(update);
    }
}

void Decider::add_paths(const Row& row, size_t at, float* logits) {
    const Config& c = model_.config;
    const int64_t window = static_cast<int64_t>(c.window);
    // `latest` may hold drafted updates behind this row; paths are of those up to it.
    const auto& latest = row.slot->latest;
    size_t stop = latest.size();
    while (stop > 0 && latest[stop - 1].position > row.position) --stop;
    size_t start = stop > REACH ? stop - REACH : 0;
    while (start < stop && row.position - latest[start].position >= window) ++start;
    const size_t n = stop - start;
    if (n == 0) return;

    float place[2 * REACH], aim[4 * MAX_HEADS], elapsed[REACH];
    for (size_t k = 0; k < n; ++k) {
        const Update& u = latest[start + k];
        const auto dt = static_cast<float>(row.token.time - u.time);
        elapsed[k] = dt;
        for (int axis = 0; axis < 2; ++axis) {
            const float velocity = u.motion[axis], gravity = u.motion[2 + axis];
            const float contact = 1 + softplus(u.motion[4 + axis] + 4), back = sigmoid(u.motion[6 + axis]);
            const float before = std::min(dt, contact);
            const int from = axis ? u.cell % c.grammar.map_cells : u.cell / c.grammar.map_cells;
            place[2 * k + static_cast<size_t>(axis)] =
                static_cast<float>(from) + velocity * (before - back * (dt - before)) + gravity * dt * dt / 2;
        }
    }
    // Scores against the keys of the last layer.
    float* query = queries_.data() + at * c.n_heads * HEAD;
    float turn[HEAD];
    forward_.rotary(row.token, row.position, turn);
    for (size_t h = 0; h < c.n_heads; ++h) {
        float* head = query + h * HEAD;
        ops_.rms_norm(head, model_.ballistic_norm.data(), HEAD, head);
        ops_.place(head, turn, ROOT);
    }
    for (size_t kv = 0; kv < c.n_kv_heads; ++kv) {
        const Seen s = forward_.seen(row, (c.n_layers - 1) * c.n_kv_heads + kv, row.position);
        const size_t group = c.group(), width = s.width(), ring = round_up(s.places, BLOCK);
        float* scores = window_.data();
        ops_.scores(query + kv * group * HEAD, group, s, scores);
        for (size_t g = 0; g < group; ++g) {
            const size_t h = kv * group + g;
            float* weight = weights_.data() + h * n;
            float top = 0, sum = 0;  // beside a zero: an event may follow nothing at all
            for (size_t k = 0; k < n; ++k) {
                const int64_t position = latest[start + k].position;
                const size_t column = position < row.committed ? static_cast<size_t>(position % window)
                                                               : ring + static_cast<size_t>(position - row.committed);
                weight[k] = scores[g * width + column] - model_.ageing[h] * elapsed[k];
                top = std::max(top, weight[k]);
            }
            for (size_t k = 0; k < n; ++k) sum += weight[k] = exp_of(weight[k] - top);
            sum += exp_of(-top);
            for (size_t k = 0; k < n; ++k) weight[k] /= sum;
        }
    }
    const float* raw = aims_.data() + at * model_.aim.width();
    for (size_t h = 0; h < c.n_heads; ++h) {
        const float spread = softplus(raw[4 * h + 2]) + SPREAD;
        aim[4 * h] = raw[4 * h];
        aim[4 * h + 1] = raw[4 * h + 1];
        aim[4 * h + 2] = 1 / (spread * spread);
        aim[4 * h + 3] = GAIN * (1 + raw[4 * h + 3]);
    }
    ops_.ballistic({c.n_heads, n, static_cast<size_t>(c.grammar.map_cells), place, weights_.data(), aim}, logits);
}

void Decider::events(const Row* rows, size_t n) {
    const Config& c = model_.config;
    const float* hidden = forward_.hidden(0);
    ops_.linear(model_.event_head, hidden, n, c.d_model, events_.data(), bytes_.data());
    if (c.ballistics) {
        ops_.linear(model_.ballistic_query, hidden, n, c.d_model, queries_.data(), bytes_.data());
        ops_.linear(model_.aim, hidden, n, c.d_model, aims_.data(), bytes_.data());
    }
    for (size_t r = 0; r < n; ++r) {
        if (rows[r].token.kind == END) continue;
        float* logits = events_.data() + r * model_.event_head.width();
        if (c.ballistics) add_paths(rows[r], r, logits);
        c.grammar.mask(rows[r].token, logits);
    }
}

void Decider::mix(const Row& row, const Token& update, const float* query, float* logits, float* moves) {
    const Config& c = model_.config;
    const size_t n_codes = static_cast<size_t>(c.grammar.n_codes), heads = c.n_kv_heads;
    float head[HEAD * MAX_HEADS], turn[HEAD];
    float sentinel = 0;
    for (size_t i = 0; i < heads * HEAD; ++i) head[i] = query[i];
    for (size_t kv = 0; kv < heads; ++kv) {
        ops_.rms_norm(head + kv * HEAD, model_.pointer_norm.data(), HEAD, head + kv * HEAD);
        for (size_t i = 0; i < HEAD; ++i) sentinel += head[kv * HEAD + i] * model_.sentinel[kv * HEAD + i];
    }
    sentinel = sentinel * ROOT + model_.sentinel_bias;
    forward_.rotary(update, row.position + 1, turn);
    size_t width = 0, ring = 0;
    float* sum = window_.data();
    for (size_t kv = 0; kv < heads; ++kv) {
        ops_.place(head + kv * HEAD, turn, ROOT);
        const Seen s = forward_.seen(row, (c.n_layers - 1) * heads + kv, row.position + 1);
        width = s.width();
        ring = round_up(s.places, BLOCK);
        float* scores = kv ? window_.data() + width : sum;
        ops_.scores(head + kv * HEAD, 1, s, scores);
        if (kv)
            for (size_t i = 0; i < width; ++i) sum[i] += scores[i];
    }
    // The codes that the window's tokens carry; nothing is copied from the others, nor the code that is there now.
    const int64_t present = row.slot->codes[update.a];
    const auto carried = [&](size_t i) -> int64_t {
        if (i < ring) return i < c.window ? row.slot->held[i] : -1;
        return i - ring <= row.index ? row.stage->codes[i - ring] : -1;
    };
    for (size_t i = 0; i < width; ++i) {
        const int64_t code = carried(i);
        if (code < 0 || code == present) sum[i] = NEVER;
    }
    const size_t n_motions = c.n_motions();
    const int64_t anchor = c.anchor ? row.slot->anchor[update.a] : present;
    float top = std::max(sentinel, ops_.maximum(sum, width));
    if (n_motions) {
        if (anchor == present) moves[c.still()] = NEVER;
        for (size_t i = c.n_vectors() + c.still(); i < n_motions; i += c.n_vectors()) moves[i] = NEVER;
        top = std::max(top, ops_.maximum(moves, n_motions));
    }
    float total = ops_.exponentials(sum, width, top) + exp_of(sentinel - top);
    if (n_motions) {
        total += ops_.exponentials(moves, n_motions, top);
        ops_.scale(moves, n_motions, 1 / total);
    }
    logits[present] = NEVER;
    const float vocabulary = ops_.exponentials(logits, n_codes, ops_.maximum(logits, n_codes));
    ops_.scale(logits, n_codes, exp_of(sentinel - top) / total / vocabulary);
    for (size_t i = 0; i < width; ++i)
        if (sum[i] > 0) logits[carried(i)] += sum[i] / total;
    if (n_motions) logits[anchor] += std::exchange(moves[c.still()], 0.0f);
}

int Decider::draw_mixed(const float* codes, const float* moves, int64_t present, uint32_t key) const {
    const auto n_codes = static_cast<size_t>(model_.config.grammar.n_codes);
    const size_t n_motions = model_.config.n_motions();
    // Logarithms only of those that can win; the others are out of the noise's reach.
    const float best = n_motions ? std::max(ops_.maximum(codes, n_codes), ops_.maximum(moves, n_motions))
                                 : ops_.maximum(codes, n_codes);
    const float least = std::max(FLOOR, temperature_ == 0 ? best : best * exp_of(-span_ * temperature_));
    int chosen = 0;
    float best_score = NEVER;
    const auto weigh = [&](float p, size_t i) {
        const float score =
            temperature_ == 0 ? p : log_of(p) / temperature_ + gumbel(table_.data(), key, static_cast<uint32_t>(i));
        if (score > best_score) {
            best_score = score;
            chosen = static_cast<int>(i);
        }
    };
    each_above(codes, n_codes, least, [&](size_t i) {
        if (static_cast<int64_t>(i) != present) weigh(codes[i], i);
    });
    each_above(moves, n_motions, least, [&](size_t i) { weigh(moves[i], n_codes + i); });
    return chosen;
}

int Decider::moved_code(const Row& row, int cell, int motion) {
    const Config& c = model_.config;
    const Grammar& g = c.grammar;
    const int side = g.cell_size, size = g.size(), across = 2 * c.max_motion + 1;
    const int vector = motion % c.n_vectors(), dx = vector % across - c.max_motion, dy = vector / across - c.max_motion;
    const bool sprite = motion >= c.n_vectors();
    const auto wrap = [&](int at) { return (at % size + size) % size; };
    const auto look = [&](const int64_t* map, int y, int x) {
        const auto code = static_cast<size_t>(map[y / side * g.map_cells + x / side]);
        const size_t pixel = (code * static_cast<size_t>(side) + static_cast<size_t>(y % side)) * static_cast<size_t>(side);
        return model_.patches.data() + (pixel + static_cast<size_t>(x % side)) * 3;
    };
    float patch[3 * 64], *to = patch;
    for (int i = 0; i < side; ++i)
        for (int j = 0; j < side; ++j, to += 3) {
            const int own_y = cell / g.map_cells * side + i, own_x = cell % g.map_cells * side + j, y = wrap(own_y - dy), x = wrap(own_x - dx);
            const float* from = look(row.slot->codes, y, x);
            if (sprite && !stands_out(from, look(row.slot->anchor, y, x))) from = look(row.slot->anchor, own_y, own_x);
            std::memcpy(to, from, 3 * sizeof(float));
        }
    ops_.linear(model_.patch_matrix, patch, 1, model_.patch_matrix.k, matches_.data(), bytes_.data());
    size_t best = 0;
    float least = model_.patch_square[0] - 2 * matches_[0];
    for (size_t i = 1; i < model_.patch_square.size(); ++i) {
        const float distance = model_.patch_square[i] - 2 * matches_[i];
        if (distance < least) {
            least = distance;
            best = i;
        }
    }
    return static_cast<int>(best);
}

void Decider::code_logits(const Row* rows, const Job* jobs, size_t n) {
    const Config& c = model_.config;
    const Grammar& g = c.grammar;
    const size_t d = c.d_model;
    const int m = g.map_cells, at_row = 5, at_col = at_row + m, view_row = at_col + m, view_col = view_row + m;
    for (size_t j = 0; j < n; ++j) {
        const Row& from = rows[jobs[j].row];
        const int cell = jobs[j].cell, row = cell / m, col = cell % m;
        const int features[4] = {at_row + row, at_col + col, view_row + (row - from.token.y / g.cell_size + m) % m,
                                 view_col + (col - from.token.x / g.cell_size + m) % m};
        float* both = described_.data() + j * 2 * d;
        std::memcpy(both, forward_.hidden(jobs[j].row), d * 4);
        std::memset(both + d, 0, d * 4);
        for (int f : features) ops_.add(both + d, model_.small.data() + static_cast<size_t>(f) * d, d);
        const auto present = static_cast<size_t>(from.slot->codes[cell]);
        ops_.add(both + d, model_.code.data() + present * d, d);
    }
    ops_.linear(model_.code_in, described_.data(), n, 2 * d, inner_.data(), bytes_.data());
    for (size_t j = 0; j < n; ++j) ops_.silu(inner_.data() + j * model_.code_in.width(), 2 * d);
    ops_.linear(model_.code_out, inner_.data(), n, model_.code_in.width(), query_.data(), bytes_.data());
    for (size_t j = 0; j < n; ++j) {
        float* query = query_.data() + j * model_.code_out.width();
        ops_.add(query, forward_.hidden(jobs[j].row), d);
        ops_.rms_norm(query, model_.code_norm.data(), d, query);
    }
    ops_.linear(model_.code_logits, query_.data(), n, model_.code_out.width(), codes_.data(), bytes_.data());
    if (c.pointer)
        ops_.linear(model_.pointer_query, query_.data(), n, model_.code_out.width(), turned_.data(), bytes_.data());
    if (c.max_motion)
        ops_.linear(model_.motion_head, query_.data(), n, model_.code_out.width(), moves_.data(), bytes_.data());
}

void Decider::draw_codes(const Row* rows, const std::vector<Sequence>& sequences, const Job* jobs, size_t n,
                         std::vector<Decision>& decisions) {
    const Config& c = model_.config;
    const Grammar& g = c.grammar;
    code_logits(rows, jobs, n);
    for (size_t j = 0; j < n; ++j) {
        const Row& row = rows[jobs[j].row];
        const Sequence& sequence = sequences[jobs[j].sequence];
        Token& update = decisions[jobs[j].sequence].decided[jobs[j].place];
        float* logits = codes_.data() + j * model_.code_logits.width();
        const auto count = sequence.step_index + static_cast<int64_t>(jobs[j].place) + 1;
        const uint32_t key = noise_key(static_cast<uint64_t>(*row.slot->seed), static_cast<uint64_t>(row.token.time),
                                       static_cast<uint64_t>(count), CODE_NOISE);
        if (c.pointer) {
            float* moves = moves_.data() + j * model_.motion_head.width();
            mix(row, update, turned_.data() + j * model_.pointer_query.width(), logits, moves);
            const int chosen = draw_mixed(logits, moves, row.slot->codes[update.a], key);
            const int motion = chosen - g.n_codes;
            update.b = motion >= 0 ? moved_code(row, update.a, motion) + g.n_codes * (motion + 1) : chosen;
        } else {
            logits[row.slot->codes[update.a]] = NEVER;
            update.b = draw(logits, static_cast<size_t>(g.n_codes), key, temperature_);
        }
    }
}

void Decider::score(const Row* rows, size_t n, const Token* next, size_t n_next, Scores& scores) {
    const Config& c = model_.config;
    const auto n_events = static_cast<size_t>(c.grammar.n_events()), n_codes = static_cast<size_t>(c.grammar.n_codes);
    events(rows, n);
    std::vector<Job> jobs;
    for (size_t r = 0; r < n; ++r) {
        const float* logits = events_.data() + r * model_.event_head.width();
        scores.events.insert(scores.events.end(), logits, logits + n_events);
        ops_.linear(model_.end_head, forward_.hidden(r), 1, c.d_model, ends_.data(), bytes_.data());
        scores.ends.insert(scores.ends.end(), ends_.begin(), ends_.begin() + 5);
        if (r < n_next && next[r].kind == UPD) jobs.push_back({r, next[r].a, 0, 0});
    }
    for (size_t j = 0; j < jobs.size(); j += CODE_ROWS) {
        const size_t count = std::min(CODE_ROWS, jobs.size() - j);
        code_logits(rows, jobs.data() + j, count);
        for (size_t i = 0; i < count; ++i) {
            float* logits = codes_.data() + i * model_.code_logits.width();
            float* moves = moves_.data() + i * model_.motion_head.width();
            if (c.pointer) {
                const size_t r = jobs[j + i].row;
                mix(rows[r], next[r], turned_.data() + i * model_.pointer_query.width(), logits, moves);
                const auto logarithm = [](float p) { return log_of(std::max(p, FLOOR)); };
                std::transform(logits, logits + n_codes, logits, logarithm);
                std::transform(moves, moves + c.n_motions(), moves, logarithm);
            }
            scores.codes.insert(scores.codes.end(), logits, logits + n_codes);
            scores.codes.insert(scores.codes.end(), moves, moves + (c.pointer ? c.n_motions() : 0));
        }
    }
}

void Decider::run(const Row* rows, size_t n, const std::vector<Sequence>& sequences, std::vector<Decision>& decisions) {
    const Grammar& g = model_.config.grammar;
    events(rows, n);
    decisions.assign(sequences.size(), {});
    std::vector<Job> jobs;
    for (size_t s = 0; s < sequences.size(); ++s) {
        const Sequence& sequence = sequences[s];
        for (size_t place = 0; place < sequence.count; ++place) {
            const size_t r = sequence.first + place;
            const Row& row = rows[r];
            const auto seed = static_cast<uint64_t>(*row.slot->seed), time = static_cast<uint64_t>(row.token.time);
            const auto count = static_cast<uint64_t>(sequence.step_index + static_cast<int64_t>(place) + 1);
            const float* logits = events_.data() + r * model_.event_head.width();
            const int event = draw(logits, static_cast<size_t>(g.n_events()), noise_key(seed, time, count, EVENT_NOISE), temperature_);
            Token next = g.after(row.token, event);
            if (next.kind == END) {
                ops_.linear(model_.end_head, forward_.hidden(r), 1, model_.config.d_model, ends_.data(), bytes_.data());
                // A cooler picture must not make rewards and game overs rarer than the model believes.
                const float outcome = temperature_ ? 1.0f : 0.0f;
                next.a = draw(ends_.data(), 3, noise_key(seed, time, count, REWARD_NOISE), outcome);
                next.b = draw(ends_.data() + 3, 2, noise_key(seed, time, count, DONE_NOISE), outcome);
            }
            decisions[s].decided.push_back(next);
            if (next.kind == UPD) jobs.push_back({r, next.a, s, place});
            if (place + 1 == sequence.count) break;
            // Go on while the draft says the same, its code still unknown.
            Token draft = rows[r + 1].token;
            if (next.kind == UPD) draft.b = 0;
            if (!(draft == next)) break;
        }
    }
    for (size_t j = 0; j < jobs.size(); j += CODE_ROWS)
        draw_codes(rows, sequences, jobs.data() + j, std::min(CODE_ROWS, jobs.size() - j), decisions);
    for (size_t s = 0; s < sequences.size(); ++s) {
        auto& decided = decisions[s].decided;
        size_t right = 0;
        while (right + 1 < decided.size() && decided[right] == rows[sequences[s].first + right + 1].token) ++right;
        decided.resize(right + 1);
    }
}

}  // namespace gamegen
