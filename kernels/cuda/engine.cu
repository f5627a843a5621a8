#include "engine.h"

#include <algorithm>

#include "parts.h"
#include "persistent.cuh"
#include "weights.h"

namespace gamegen::cuda {
namespace {

constexpr unsigned ENOUGH_BLOCKS = 128;  // of attention; with fewer, heads do not share loads: they would leave the GPU idle

}  // namespace

void Engine::Parts::allocate(size_t slots, float temperature, const std::vector<float>& gumbel) {
    const Config& c = model.config;
    const size_t d = c.d_model, cells = static_cast<size_t>(c.grammar.n_cells());
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
    w.waves = rotary_waves(c.grammar.map_cells);
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
    if (c.max_motion) {
        w.motion_head = upload(memory, model.motion_head);
        w.patches = memory.copy(std::vector<uint8_t>(model.patches.begin(), model.patches.end()));
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
    w.anchor = memory.zeros<int32_t>(slots * cells);
    w.updates = memory.zeros<Change>(slots * cells);
    w.k = memory.zeros<uint8_t>(slots * heads * places * 32);
    w.v = memory.zeros<uint8_t>(slots * heads * places * 32);
    w.scales = memory.zeros<uint16_t>(slots * heads * places * 4);
    w.staged = memory.zeros<uint16_t>(slots * 2 * c.max_step_tokens() * heads * 128);
    w.stage_codes = memory.zeros<int16_t>(slots * 2 * c.max_step_tokens());
    w.held = memory.copy(std::vector<int16_t>(slots * c.window, -1));
    w.latest = memory.zeros<Latest>(slots * static_cast<size_t>(w.max_latest));
    w.mail = memory.shared_with_host<Mail>(1);
    w.requests = memory.shared_with_host<Request>(slots);
    w.answers = memory.shared_with_host<Answer>(slots);
    w.changes = memory.shared_with_host<Change>(slots * cells);
    w.known = memory.shared_with_host<Token>(c.max_step_tokens());
    for (int** list : {&w.asked, &w.playing, &w.row_of}) *list = memory.zeros<int>(slots);
    for (int** number : {&w.n_asked, &w.n_playing, &w.n_rows, &w.n_code_rows, &w.n_before}) *number = memory.zeros<int>(1);
    w.code_rows = memory.zeros<int>(rows);
    w.rows = memory.zeros<PassRow>(rows);
    w.next = memory.zeros<Token>(rows);
    w.wanted = memory.zeros<int>(rows);
    const Layer& layer = model.layers.front();
    w.x = memory.zeros<float>(rows * d);
    w.hidden = memory.zeros<float>(rows * d);
    w.heads = memory.zeros<float>(rows * layer.qkv.width());
    w.attended = memory.zeros<float>(rows * c.n_heads * HEAD);
    w.wide = memory.zeros<float>(rows * layer.gate_up.width());
    w.turn = memory.zeros<float>(rows * HEAD);
    w.events = memory.zeros<float>(rows * model.event_head.width());
    w.queries = memory.zeros<float>(rows * c.n_heads * HEAD);
    w.max_aims = static_cast<int>(4 * c.n_heads);
    w.aims = memory.zeros<float>(rows * 4 * c.n_heads);
    w.described = memory.zeros<float>(rows * 2 * d);
    w.inner = memory.zeros<float>(rows * model.code_in.width());
    w.query = memory.zeros<float>(rows * model.code_out.width());
    w.code_scores = memory.zeros<float>(rows * model.code_logits.width());
    w.turned = memory.zeros<float>(rows * c.n_kv_heads * HEAD);
    w.moves = memory.zeros<float>(rows * model.motion_head.width());
    w.bytes = byte_rows(rows);
    w.logits = memory.zeros<float>(rows * (c.n_heads + 1) * static_cast<size_t>(w.logits_width));
    w.partial = memory.zeros<int>(rows * c.n_heads * places);
    w.tops = memory.zeros<float>(rows * c.n_heads * places / BLOCK);
    w.weights = memory.zeros<int8_t>(rows * c.n_heads * places);
    anchors.assign(slots * cells, 0);
    pending.assign(slots, false);
    stale.assign(slots, true);
}

// Room for rows of the widest product's numbers.
ByteRows Engine::Parts::byte_rows(size_t rows) {
    const Config& c = model.config;
    const size_t stride = round_up(std::max({c.d_ff, c.n_heads * HEAD, 2 * c.d_model}), 64);
    return {memory.zeros<int8_t>(rows * stride), memory.zeros<float>(rows), static_cast<int>(stride)};
}

void Engine::Parts::times(const int* count, unsigned rows, const LinearView& m, float* out, int stride, bool add) {
    const dim3 grid(static_cast<unsigned>(m.width / TILE_OUTPUTS), (rows + TILE_ROWS - 1) / TILE_ROWS);
    if (m.w4) LAUNCH(stream, product4, grid, PRODUCT_THREADS, w, count, m, out, stride, add);
    else LAUNCH(stream, product8, grid, PRODUCT_THREADS, w, count, m, out, stride, add);
}

// The transformer over the rows of the pass, of which there are at most `rows`.
void Engine::Parts::forward(unsigned rows) {
    const Config& c = model.config;
    const int d = static_cast<int>(c.d_model), spread = static_cast<int>(c.n_heads * HEAD), ff = static_cast<int>(c.d_ff);
    const int *all = w.n_rows, *which = nullptr;
    const float* nothing = nullptr;
    float* const bytes_only = nullptr;
    const auto n_heads = static_cast<unsigned>(c.n_heads), n_kv = static_cast<unsigned>(c.n_kv_heads), group = static_cast<unsigned>(c.group());
    const auto attends = [&](unsigned heads) { return group % heads == 0 && rows * n_heads / heads >= ENOUGH_BLOCKS; };
    LAUNCH(stream, embed, rows, DRAW_THREADS, w);
    for (int i = 0; i < static_cast<int>(c.n_layers); ++i) {
        const LayerView& l = layers[static_cast<size_t>(i)];
        LAUNCH(stream, normalise, rows, ROW_THREADS, w, all, w.x, d, nothing, which, l.attention_norm, bytes_only);
        times(all, rows, l.qkv, w.heads, l.qkv.width, false);
        LAUNCH(stream, turn_heads, rows, ((n_heads + 2 * n_kv) * 16 + 31) / 32 * 32, w, l.q_norm, l.k_norm, i, l.qkv.width);
        if (attends(4)) LAUNCH(stream, attend<4>, dim3(rows, n_heads / 4), ATTEND_THREADS, w, i, l.qkv.width);
        else if (attends(2)) LAUNCH(stream, attend<2>, dim3(rows, n_heads / 2), ATTEND_THREADS, w, i, l.qkv.width);
        else LAUNCH(stream, attend<1>, dim3(rows, n_heads), ATTEND_THREADS, w, i, l.qkv.width);
        LAUNCH(stream, quantise, rows, ROW_THREADS, w, all, w.attended, spread, spread);
        times(all, rows, l.out, w.x, d, true);
        LAUNCH(stream, normalise, rows, ROW_THREADS, w, all, w.x, d, nothing, which, l.ff_norm, bytes_only);
        times(all, rows, l.gate_up, w.wide, l.gate_up.width, false);
        LAUNCH(stream, gate, rows, ROW_THREADS, w, all, w.wide, l.gate_up.width, ff, ff);
        times(all, rows, l.down, w.x, d, true);
    }
    LAUNCH(stream, normalise, rows, ROW_THREADS, w, all, w.x, d, nothing, which, w.norm, w.hidden);
    if (c.ballistics) LAUNCH(stream, remember, rows, 32, w);
}

// From the hidden states, which the last norm left as bytes too, to the next tokens.
void Engine::Parts::decide(unsigned rows) {
    const Config& c = model.config;
    const int d = static_cast<int>(c.d_model);
    const int *all = w.n_rows, *some = w.n_code_rows, *which = w.code_rows;
    float* const bytes_only = nullptr;
    times(all, rows, w.event_head, w.events, w.event_head.width, false);
    if (c.ballistics) {
        times(all, rows, w.ballistic_query, w.queries, w.ballistic_query.width, false);
        LAUNCH(stream, aim, rows, 32, w);
        LAUNCH(stream, add_paths, rows, DRAW_THREADS, w);
    }
    LAUNCH(stream, draw_event, rows, DRAW_THREADS, w);
    LAUNCH(stream, choose, 1, 32, w);
    LAUNCH(stream, describe, rows, DRAW_THREADS, w);
    LAUNCH(stream, quantise, rows, ROW_THREADS, w, some, w.described, 2 * d, 2 * d);
    times(some, rows, w.code_in, w.inner, w.code_in.width, false);
    LAUNCH(stream, gate, rows, ROW_THREADS, w, some, w.inner, w.code_in.width, 0, 2 * d);
    times(some, rows, w.code_out, w.query, w.code_out.width, false);
    LAUNCH(stream, normalise, rows, ROW_THREADS, w, some, w.query, w.code_out.width, w.hidden, which, w.code_norm, bytes_only);
    times(some, rows, w.code_logits, w.code_scores, w.code_logits.width, false);
    if (c.pointer) times(some, rows, w.pointer_query, w.turned, w.pointer_query.width, false);
    if (c.max_motion) times(some, rows, w.motion_head, w.moves, w.motion_head.width, false);
    LAUNCH(stream, draw_code, rows, DRAW_THREADS, w);
}

void Engine::Parts::record(bool device_loops) {
    const auto slots = static_cast<unsigned>(w.slots), heads = static_cast<unsigned>(w.layer_heads);
    if (!staying)  // else one kernel decodes a step
        stepping = std::make_unique<Loop>(
            stream, device_loops, &w.mail->playing, [&](Condition more) { LAUNCH(stream, next_pass, 1, 32, w, more, true); },
            [&](Condition more) {
                forward(2 * slots);
                decide(2 * slots);
                LAUNCH(stream, next_pass, 1, 32, w, more, false);
            },
            [&] {
                LAUNCH(stream, commit, dim3(slots, heads), 64, w);
                LAUNCH(stream, answer, 1, 32, w);
                LAUNCH(stream, finish, slots, REACH, w, true);
            });
    knowing = std::make_unique<Loop>(
        stream, device_loops, &w.mail->playing, [&](Condition more) { LAUNCH(stream, next_known, 1, 32, w, more, true); },
        [&](Condition more) {
            forward(PREFILL_ROWS);
            LAUNCH(stream, next_known, 1, 32, w, more, false);
        },
        [&] {
            LAUNCH(stream, commit, dim3(1, heads), 64, w);
            LAUNCH(stream, finish, 1, REACH, w, false);
        });
}

void Engine::Parts::prepare_to_stay() {
    step_kernel = layers.front().qkv.w4 ? stay_for_step<4> : stay_for_step<8>;
    staying = blocks_together(step_kernel, STAY_THREADS);
    if (!staying)
        throw std::runtime_error("cuda: turns 'persistent': expected a GPU that starts blocks of " + std::to_string(STAY_THREADS) +
                                 " threads together, one to a multiprocessor, got one that cannot; use turns 'auto'");
    stay = {memory.copy(layers), memory.zeros<unsigned>(1), byte_rows(staying * STAY_ROWS)};
}

// A step of the slots in `requests`.
void Engine::Parts::decode() {
    if (!staying) return stepping->run();
    LAUNCH_TOGETHER(stream, step_kernel, staying, STAY_THREADS, w, stay);
    stream.wait();
}

void Engine::Parts::settle(size_t slot) {
    if (!pending[slot]) return;
    w.mail->known_slot = static_cast<int>(slot);
    w.mail->n_known = 0;
    w.mail->known_start = integers.position[slot];
    knowing->run();
    pending[slot] = false;
}

Engine::Engine(const Config& config, const Tensors& tensors, Precision precision, size_t slots, float temperature, const std::vector<float>& gumbel,
               const Integers& integers, Turns turns) {
    need_device();
    if (turns == Turns::PERSISTENT && slots != 1)
        throw std::invalid_argument("slots: expected 1 with turns 'persistent', got " + std::to_string(slots));
    const bool can = device_loops();
    if (turns == Turns::BY_DEVICE && !can)
        throw std::runtime_error("cuda: expected driver and toolkit 12.4 or later for a loop on the device, got older ones");
    parts_ = std::make_unique<Parts>(config, tensors, precision, integers);
    parts_->allocate(slots, temperature, gumbel);
    if (turns == Turns::PERSISTENT) parts_->prepare_to_stay();
    parts_->record(can && turns != Turns::BY_HOST);
}
Engine::~Engine() = default;
size_t Engine::size() const { return static_cast<size_t>(parts_->w.slots); }
size_t Engine::bytes() const { return parts_->memory.total(); }
int64_t Engine::passes() const { return parts_->passes; }

void Engine::prefill(size_t slot, const std::vector<Token>& tokens) {
    Parts& p = *parts_;
    std::copy(tokens.begin(), tokens.end(), p.w.known);
    Mail& mail = *p.w.mail;
    mail.known_slot = static_cast<int>(slot);
    mail.n_known = static_cast<int>(tokens.size());
    mail.known_start = p.integers.position[slot];
    p.knowing->run();
    p.pending[slot] = false;
    p.stale[slot] = true;  // a known step changes codes after this
}

void Engine::renew(size_t slot) { parts_->stale[slot] = true; }

std::vector<Outcome> Engine::step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
    Parts& p = *parts_;
    const View& w = p.w;
    const size_t n_cells = static_cast<size_t>(w.config.grammar.n_cells());
    Integers& n = p.integers;
    for (size_t i = 0; i < slots.size(); ++i) {
        const size_t s = slots[i];
        w.requests[i] = {static_cast<int>(s), actions[i], static_cast<int>(n.camera[s]), static_cast<int>(n.origin[2 * s]),
                         static_cast<int>(n.origin[2 * s + 1]), n.seed[s], n.position[s], n.time[s]};
        const auto upload = [&](const int64_t* from, int32_t* to) {
            const std::vector<int32_t> map(from + s * n_cells, from + (s + 1) * n_cells);
            p.memory.put(to + s * n_cells, map.data(), n_cells);
        };
        if (p.stale[s]) upload(n.codes, w.codes);
        // The host drops anchors, where the camera moves.
        const int64_t* anchor = n.anchor + s * n_cells;
        if (w.config.anchor && !std::equal(anchor, anchor + n_cells, p.anchors.begin() + static_cast<int64_t>(s * n_cells))) {
            std::copy_n(anchor, n_cells, p.anchors.begin() + static_cast<int64_t>(s * n_cells));
            upload(n.anchor, w.anchor);
        }
        p.stale[s] = false;
    }
    w.mail->n_requests = static_cast<int>(slots.size());
    p.decode();
    std::vector<Outcome> outcomes;
    for (size_t i = 0; i < slots.size(); ++i) {
        const size_t s = slots[i];
        const Answer& a = w.answers[i];
        Outcome o{a.scroll_x, a.scroll_y, a.reward_class, a.done, a.tokens, {}, {}, {}};
        for (const Change* change = w.changes + a.first_update; change != w.changes + a.first_update + a.n_updates; ++change) {
            o.cells.push_back(change->cell);
            o.codes.push_back(change->code);
            o.motions.push_back(change->motion);
            n.codes[s * n_cells + static_cast<size_t>(change->cell)] = change->code;
        }
        n.origin[2 * s] = a.x;
        n.origin[2 * s + 1] = a.y;
        n.camera[s] = w.config.grammar.camera(a.scroll_x, a.scroll_y);
        n.position[s] += a.tokens;
        n.since_keyframe[s] += a.tokens;
        ++n.time[s];
        p.pending[s] = true;
        p.passes += a.tokens - 1;
        outcomes.push_back(std::move(o));
    }
    return outcomes;
}

}  // namespace gamegen::cuda
