#include "engine.h"

#include <algorithm>
#include <cmath>

#include "device.h"
#include "loop.cuh"

namespace gamegen::cuda {
namespace {

constexpr double TAU = 6.283185307179586476925;
constexpr int PREFILL_ROWS = 64;

LinearView upload(Memory& memory, const Linear& m) {
    LinearView v{static_cast<int>(m.n_out), static_cast<int>(m.k), static_cast<int>(m.width()), nullptr, nullptr, nullptr, nullptr};
    if (!m.w8.empty()) v.w8 = memory.copy(m.w8), v.scale = memory.copy(m.scale);
    else v.w = memory.copy(m.w);
    v.bias = memory.copy(m.bias);
    return v;
}

}  // namespace

struct Engine::Parts {
    Model model;
    Integers integers;
    Memory memory;
    std::vector<LayerView> layers;
    View w{};
    Stream stream{};
    int64_t passes = 0;

    Parts(const Config& config, const Tensors& tensors, const Integers& n) : model(config, tensors, Precision::INT8), integers(n) {}

    void allocate(size_t slots, float temperature, const std::vector<float>& gumbel);
    void forward(unsigned rows);
    void decide(unsigned rows);
    void settle(size_t slot);
    Live live(size_t slot) const {
        Live l;
        Memory::get(&l, w.live + slot, 1);
        return l;
    }
};

void Engine::Parts::allocate(size_t slots, float temperature, const std::vector<float>& gumbel) {
    const Config& c = model.config;
    const size_t d = c.d_model, cells = static_cast<size_t>(c.grammar.n_cells());
    need_device();
    w.config = c;
    w.slots = static_cast<int>(slots);
    w.places = static_cast<int>(round_up(c.window, BLOCK));
    w.layer_heads = static_cast<int>(c.n_layers * c.n_kv_heads);
    w.stage_tokens = static_cast<int>(c.max_step_tokens());
    w.max_rows = std::max(static_cast<int>(2 * slots), PREFILL_ROWS);
    w.max_latest = static_cast<int>(REACH + c.max_step_tokens());
    w.logits_width = w.places + static_cast<int>(round_up(c.max_step_tokens(), 16));
    w.temperature = temperature;
    w.span = gumbel.back() - gumbel.front() + 1;
    for (int i = 0; i < 8; ++i) {
        w.by_position[i] = std::pow(TAU / (TAU * 1000), i / 7.0);
        w.by_time[i] = std::pow(TAU / (TAU * 200), i / 7.0);
        w.waves[i] = std::nearbyint(1 + ((c.grammar.map_cells - 1) / 2 - 1) * (i / 7.0)) * (TAU / c.grammar.map_cells);
    }
    w.small = memory.copy(model.small);
    w.code = memory.copy(model.code);
    w.norm = memory.copy(model.norm);
    w.code_norm = memory.copy(model.code_norm);
    w.gumbel = memory.copy(gumbel);
    w.event_head = upload(memory, model.event_head);
    w.code_in = upload(memory, model.code_in);
    w.code_out = upload(memory, model.code_out);
    w.code_logits = upload(memory, model.code_logits);
    w.end_head = upload(memory, model.end_head);
    if (c.pointer) {
        w.pointer_query = upload(memory, model.pointer_query);
        w.pointer_norm = memory.copy(model.pointer_norm);
        w.sentinel = memory.copy(model.sentinel);
        w.sentinel_bias = model.sentinel_bias;
    }
    if (c.ballistics) {
        w.ballistic_query = upload(memory, model.ballistic_query);
        w.aim = upload(memory, model.aim);
        w.motion = upload(memory, model.motion);
        w.ballistic_norm = memory.copy(model.ballistic_norm);
        w.ageing = memory.copy(model.ageing);
    }
    for (const Layer& l : model.layers)
        layers.push_back({memory.copy(l.attention_norm), memory.copy(l.q_norm), memory.copy(l.k_norm), memory.copy(l.ff_norm),
                          upload(memory, l.qkv), upload(memory, l.out), upload(memory, l.gate_up), upload(memory, l.down)});
    const auto places = static_cast<size_t>(w.places), heads = static_cast<size_t>(w.layer_heads), rows = static_cast<size_t>(w.max_rows);
    w.live = memory.zeros<Live>(slots);
    w.codes = memory.zeros<int32_t>(slots * cells);
    w.update_cells = memory.zeros<int32_t>(slots * cells);
    w.update_codes = memory.zeros<int32_t>(slots * cells);
    w.k = memory.zeros<uint8_t>(slots * heads * places * 32);
    w.v = memory.zeros<uint8_t>(slots * heads * places * 32);
    w.scales = memory.zeros<uint16_t>(slots * heads * places * 4);
    w.staged = memory.zeros<uint16_t>(slots * 2 * c.max_step_tokens() * heads * 128);
    w.stage_codes = memory.zeros<int16_t>(slots * 2 * c.max_step_tokens());
    w.held = memory.copy(std::vector<int16_t>(slots * c.window, -1));
    w.latest = memory.zeros<Latest>(slots * static_cast<size_t>(w.max_latest));
    w.n_rows = memory.zeros<int>(1);
    w.n_active = memory.zeros<int>(1);
    w.rows = memory.zeros<PassRow>(rows);
    w.next = memory.zeros<Token>(rows);
    w.wanted = memory.zeros<int>(rows);
    const Layer& layer = model.layers.front();
    w.x = memory.zeros<float>(rows * d);
    w.normed = memory.zeros<float>(rows * std::max(d, model.code_out.width()));
    w.hidden = memory.zeros<float>(rows * d);
    w.heads = memory.zeros<float>(rows * layer.qkv.width());
    w.attended = memory.zeros<float>(rows * c.n_heads * HEAD);
    w.wide = memory.zeros<float>(rows * layer.gate_up.width());
    w.gated = memory.zeros<float>(rows * std::max(c.d_ff, 2 * d));
    w.turn = memory.zeros<float>(rows * HEAD);
    w.scales_of_rows = memory.zeros<float>(rows);
    w.events = memory.zeros<float>(rows * model.event_head.width());
    w.queries = memory.zeros<float>(rows * c.n_heads * HEAD);
    w.max_aims = static_cast<int>(4 * c.n_heads);
    w.aims = memory.zeros<float>(rows * 4 * c.n_heads);
    w.described = memory.zeros<float>(rows * 2 * d);
    w.inner = memory.zeros<float>(rows * model.code_in.width());
    w.query = memory.zeros<float>(rows * model.code_out.width());
    w.code_scores = memory.zeros<float>(rows * model.code_logits.width());
    w.turned = memory.zeros<float>(rows * c.n_kv_heads * HEAD);
    w.bytes_stride = static_cast<int>(round_up(std::max({d, c.d_ff, c.n_heads * HEAD, 2 * d}), 16));
    w.bytes = memory.zeros<int8_t>(rows * static_cast<size_t>(w.bytes_stride));
    w.logits = memory.zeros<float>(rows * (c.n_heads + 1) * static_cast<size_t>(w.logits_width));
    w.partial = memory.zeros<int>(rows * c.n_heads * places);
    w.tops = memory.zeros<float>(rows * c.n_heads * places / BLOCK);
}

// The transformer over the rows of the pass, of which there are at most `rows`.
void Engine::Parts::forward(unsigned rows) {
    const Config& c = model.config;
    const int d = static_cast<int>(c.d_model), spread = static_cast<int>(c.n_heads * HEAD), ff = static_cast<int>(c.d_ff);
    const int* all = nullptr;
    const auto n_heads = static_cast<unsigned>(c.n_heads), n_kv = static_cast<unsigned>(c.n_kv_heads);
    const auto times = [&](const LinearView& m, float* out, int stride, bool add) {
        LAUNCH(stream, product, dim3(static_cast<unsigned>(m.width) / 64, rows), 64, w, all, m, out, stride, add);
    };
    LAUNCH(stream, embed, rows, ATTEND_THREADS, w);
    for (int i = 0; i < static_cast<int>(c.n_layers); ++i) {
        const LayerView& l = layers[static_cast<size_t>(i)];
        LAUNCH(stream, normalise, rows, 32, w, all, w.x, d, static_cast<const float*>(nullptr), 0, l.attention_norm, w.normed);
        times(l.qkv, w.heads, l.qkv.width, false);
        LAUNCH(stream, turn_heads, rows, ((n_heads + 2 * n_kv) * 16 + 31) / 32 * 32, w, l.q_norm, l.k_norm, i, l.qkv.width);
        LAUNCH(stream, commit_ends, rows, 2 * n_kv, w, i);
        LAUNCH(stream, attend, dim3(rows, n_heads), ATTEND_THREADS, w, i, l.qkv.width);
        LAUNCH(stream, quantise, rows, 32, w, all, w.attended, spread, spread);
        times(l.out, w.x, d, true);
        LAUNCH(stream, normalise, rows, 32, w, all, w.x, d, static_cast<const float*>(nullptr), 0, l.ff_norm, w.normed);
        times(l.gate_up, w.wide, l.gate_up.width, false);
        LAUNCH(stream, gate, rows, 32, w, all, w.wide, l.gate_up.width, ff, ff, w.gated);
        times(l.down, w.x, d, true);
    }
    LAUNCH(stream, normalise, rows, 32, w, all, w.x, d, static_cast<const float*>(nullptr), 0, w.norm, w.hidden);
    if (c.ballistics) {
        LAUNCH(stream, remember, rows, 32, w);
        LAUNCH(stream, count_remembered, 1, 1, w);
    }
}

void Engine::Parts::decide(unsigned rows) {
    const Config& c = model.config;
    const int d = static_cast<int>(c.d_model);
    const int* all = nullptr;
    const int* wanted = w.wanted;
    const auto times = [&](const int* which, const LinearView& m, float* out) {
        LAUNCH(stream, product, dim3(static_cast<unsigned>(m.width) / 64, rows), 64, w, which, m, out, m.width, false);
    };
    LAUNCH(stream, quantise, rows, 32, w, all, w.hidden, d, d);
    times(all, w.event_head, w.events);
    if (c.ballistics) {
        times(all, w.ballistic_query, w.queries);
        LAUNCH(stream, aim, rows, 32, w);
        LAUNCH(stream, add_paths, rows, ATTEND_THREADS, w);
    }
    LAUNCH(stream, draw_event, rows, ATTEND_THREADS, w);
    LAUNCH(stream, describe, rows, ATTEND_THREADS, w);
    LAUNCH(stream, quantise, rows, 32, w, wanted, w.described, 2 * d, 2 * d);
    times(wanted, w.code_in, w.inner);
    LAUNCH(stream, gate, rows, 32, w, wanted, w.inner, w.code_in.width, 0, 2 * d, w.gated);
    times(wanted, w.code_out, w.query);
    LAUNCH(stream, normalise, rows, 32, w, wanted, w.query, w.code_out.width, w.hidden, d, w.code_norm, w.normed);
    times(wanted, w.code_logits, w.code_scores);
    if (c.pointer) times(wanted, w.pointer_query, w.turned);
    LAUNCH(stream, draw_code, rows, ATTEND_THREADS, w);
}

void Engine::Parts::settle(size_t slot) {
    Live l = live(slot);
    if (!l.has_pending) return;
    const int64_t position = integers.position[slot] - 1;
    const PassRow row{static_cast<int>(slot), l.stage ^ 1, l.pending, position, position - l.pending_index, l.pending_index, 1, 0, 0};
    const int one = 1;
    Memory::put(w.rows, &row, 1);
    Memory::put(w.n_rows, &one, 1);
    l.has_pending = 0;
    Memory::put(w.live + slot, &l, 1);
    forward(1);
}

Engine::Engine(const Config& config, const Tensors& tensors, size_t slots, float temperature, const std::vector<float>& gumbel, const Integers& integers)
    : parts_(std::make_unique<Parts>(config, tensors, integers)) {
    parts_->allocate(slots, temperature, gumbel);
}
Engine::~Engine() = default;
size_t Engine::size() const { return static_cast<size_t>(parts_->w.slots); }
size_t Engine::bytes() const { return parts_->memory.total(); }
int64_t Engine::passes() const { return parts_->passes; }

void Engine::clear(size_t slot) {
    const Config& c = parts_->model.config;
    const size_t groups = 2 * c.n_layers * c.n_kv_heads * c.window;
    load(slot, {std::vector<uint8_t>(groups * 32), std::vector<uint16_t>(groups * 2), std::vector<int16_t>(c.window, -1),
                std::vector<int64_t>(REACH * 3, -1), std::vector<float>(REACH * MOTION)});
}

void Engine::prefill(size_t slot, const std::vector<Token>& tokens) {
    Parts& p = *parts_;
    p.settle(slot);
    const int64_t start = p.integers.position[slot];
    Live l = p.live(slot);
    for (size_t first = 0; first < tokens.size(); first += PREFILL_ROWS) {
        std::vector<PassRow> rows;
        int order = 0;
        for (size_t i = first; i < std::min(first + PREFILL_ROWS, tokens.size()); ++i) {
            rows.push_back({static_cast<int>(slot), l.stage, tokens[i], start + static_cast<int64_t>(i), start, static_cast<int>(i), 0, 0, order});
            order += tokens[i].kind == UPD;
        }
        const int n = static_cast<int>(rows.size());
        Memory::put(p.w.rows, rows.data(), rows.size());
        Memory::put(p.w.n_rows, &n, 1);
        p.forward(static_cast<unsigned>(n));
    }
    l = p.live(slot);
    l.position = start;
    l.count = static_cast<int>(tokens.size()) + 1;
    l.ended = 1;
    Memory::put(p.w.live + slot, &l, 1);
    const auto slots = static_cast<unsigned>(p.w.slots);
    LAUNCH(p.stream, commit, dim3(slots, static_cast<unsigned>(p.w.layer_heads)), 64, p.w);
    LAUNCH(p.stream, finish, (slots + 31) / 32, 32, p.w, false);
}

std::vector<Outcome> Engine::step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
    Parts& p = *parts_;
    const View& w = p.w;
    const size_t n_cells = static_cast<size_t>(w.config.grammar.n_cells());
    std::vector<Live> live(size());
    std::vector<int32_t> numbers(n_cells);
    Memory::get(live.data(), w.live, live.size());
    for (size_t i = 0; i < slots.size(); ++i) {
        const size_t s = slots[i];
        Live& l = live[s];
        l.seed = p.integers.seed[s];
        l.position = p.integers.position[s];
        l.time = p.integers.time[s];
        l.origin_x = static_cast<int>(p.integers.origin[2 * s]);
        l.origin_y = static_cast<int>(p.integers.origin[2 * s + 1]);
        l.last = {ACT, actions[i], 0, l.origin_x, l.origin_y, l.time};
        l.active = l.count = 1;
        l.ended = l.scroll_x = l.scroll_y = l.n_updates = 0;
        std::copy_n(p.integers.codes + s * n_cells, n_cells, numbers.begin());
        Memory::put(w.codes + s * n_cells, numbers.data(), n_cells);
    }
    Memory::put(w.live, live.data(), live.size());
    const auto all = static_cast<unsigned>(w.slots);
    auto rows = static_cast<unsigned>(2 * slots.size());
    for (int active = static_cast<int>(slots.size()); active;) {
        LAUNCH(p.stream, plan, 1, 32, w);
        p.forward(rows);
        p.decide(rows);
        p.passes += active;
        LAUNCH(p.stream, take, 1, 32, w);
        LAUNCH(p.stream, commit, dim3(all, static_cast<unsigned>(w.layer_heads)), 64, w);
        LAUNCH(p.stream, finish, (all + 31) / 32, 32, w, true);
        Memory::get(live.data(), w.live, live.size());
        active = 0;
        for (const Live& l : live) active += l.active;
        rows = static_cast<unsigned>(active);  // from the second pass on, no END is pending in a slot that plays
    }
    std::vector<Outcome> outcomes;
    for (size_t s : slots) {
        const Live& l = live[s];
        Outcome o{l.scroll_x, l.scroll_y, l.last.a, l.last.b, l.count, {}, {}};
        const auto n = static_cast<size_t>(l.n_updates);
        Memory::get(numbers.data(), w.update_cells + s * n_cells, n);
        o.cells.assign(numbers.begin(), numbers.begin() + l.n_updates);
        Memory::get(numbers.data(), w.update_codes + s * n_cells, n);
        o.codes.assign(numbers.begin(), numbers.begin() + l.n_updates);
        for (size_t i = 0; i < n; ++i) p.integers.codes[s * n_cells + static_cast<size_t>(o.cells[i])] = o.codes[i];
        p.integers.origin[2 * s] = l.last.x;
        p.integers.origin[2 * s + 1] = l.last.y;
        p.integers.position[s] += l.count;
        p.integers.since_keyframe[s] += l.count;
        ++p.integers.time[s];
        outcomes.push_back(std::move(o));
    }
    return outcomes;
}

static size_t byte_at(bool value, size_t place, size_t i) {
    return value ? place / 4 * 128 + i * 4 + place % 4 : place / 16 * 512 + i / 4 * 64 + place % 16 * 4 + i % 4;
}

Context Engine::save(size_t slot) {
    Parts& p = *parts_;
    p.settle(slot);
    const View& w = p.w;
    const auto heads = static_cast<size_t>(w.layer_heads), places = static_cast<size_t>(w.places), window = w.config.window;
    std::vector<uint8_t> bytes(heads * places * 32);
    std::vector<uint16_t> scales(heads * places * 4);
    Memory::get(scales.data(), w.scales + slot * scales.size(), scales.size());
    Context c;
    for (size_t which = 0; which < 2; ++which) {
        Memory::get(bytes.data(), (which ? w.v : w.k) + slot * bytes.size(), bytes.size());
        for (size_t h = 0; h < heads; ++h)
            for (size_t place = 0; place < window; ++place) {
                for (size_t i = 0; i < 32; ++i) c.nibbles.push_back(bytes[h * places * 32 + byte_at(which, place, i)]);
                for (size_t i = 0; i < 2; ++i) c.scale_minimum.push_back(scales[(h * 4 + 2 * which + i) * places + place]);
            }
    }
    c.held.resize(window);
    Memory::get(c.held.data(), w.held + slot * window, window);
    c.latest_rows.assign(REACH * 3, -1);
    c.latest_motion.assign(REACH * MOTION, 0);
    std::vector<Latest> latest(REACH);
    Memory::get(latest.data(), w.latest + slot * static_cast<size_t>(w.max_latest), REACH);
    const Live l = p.live(slot);
    for (size_t i = 0; i < static_cast<size_t>(l.n_latest); ++i) {
        c.latest_rows[3 * i] = latest[i].position;
        c.latest_rows[3 * i + 1] = latest[i].cell;
        c.latest_rows[3 * i + 2] = latest[i].time;
        std::copy_n(latest[i].motion, MOTION, c.latest_motion.begin() + static_cast<int64_t>(i * MOTION));
    }
    return c;
}

void Engine::load(size_t slot, const Context& c) {
    Parts& p = *parts_;
    const View& w = p.w;
    const auto heads = static_cast<size_t>(w.layer_heads), places = static_cast<size_t>(w.places), window = w.config.window;
    std::vector<uint8_t> bytes(heads * places * 32);
    std::vector<uint16_t> scales(heads * places * 4);
    for (size_t which = 0; which < 2; ++which) {
        for (size_t h = 0; h < heads; ++h)
            for (size_t place = 0; place < window; ++place) {
                const size_t group = (which * heads + h) * window + place;
                for (size_t i = 0; i < 32; ++i) bytes[h * places * 32 + byte_at(which, place, i)] = c.nibbles[group * 32 + i];
                for (size_t i = 0; i < 2; ++i) scales[(h * 4 + 2 * which + i) * places + place] = c.scale_minimum[group * 2 + i];
            }
        Memory::put((which ? w.v : w.k) + slot * bytes.size(), bytes.data(), bytes.size());
    }
    Memory::put(w.scales + slot * scales.size(), scales.data(), scales.size());
    Memory::put(w.held + slot * window, c.held.data(), window);
    std::vector<Latest> latest;
    for (size_t i = 0; i < REACH && c.latest_rows[3 * i] >= 0; ++i) {
        Latest u{c.latest_rows[3 * i], c.latest_rows[3 * i + 2], static_cast<int>(c.latest_rows[3 * i + 1]), {}};
        std::copy_n(c.latest_motion.begin() + static_cast<int64_t>(i * MOTION), MOTION, u.motion);
        latest.push_back(u);
    }
    Memory::put(w.latest + slot * static_cast<size_t>(w.max_latest), latest.data(), latest.size());
    Live l{};
    l.n_latest = static_cast<int>(latest.size());
    Memory::put(w.live + slot, &l, 1);
}

}  // namespace gamegen::cuda
