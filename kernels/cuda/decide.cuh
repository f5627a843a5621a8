// From hidden states to the next event: ballistic attention, grammar mask, sampler. See decide.cpp.
#pragma once
#include "../noise.h"
#include "attention.cuh"

namespace gamegen::cuda {

constexpr float GAIN = 4.0f, SPREAD = 0.15f, FLOOR = 1e-20f;

DEVICE float softplus(float x) { return x > 20 ? x : log1p_of(exp_of(x)); }
DEVICE float sigmoid(float x) { return 1 / (1 + exp_of(-x)); }
DEVICE bool decides(const View& w, int row) { return row < *w.n_rows && w.rows[row].decides; }

// Motion of an update in this pass.
DEVICE void remember_row(const View& w, int row) {
    const int i = static_cast<int>(thread_index());
    if (w.rows[row].token.kind != UPD || i >= static_cast<int>(MOTION)) return;
    const PassRow& r = w.rows[row];
    Latest& latest = w.latest[r.slot * w.max_latest + r.latest];
    latest.motion[i] = product_f32(w.motion, w.hidden + row * w.config.d_model, i);
    if (i) return;
    latest.position = r.position;
    latest.cell = r.token.a;
    latest.time = r.token.time;
}
KERNEL remember(View w) {
    const int row = static_cast<int>(block_index());
    if (row < *w.n_rows) remember_row(w, row);
}

// Event logits += where paths lead, by a block of THREADS.
template <int THREADS> DEVICE void add_paths_row(const View& w, int row) {
    const int thread = static_cast<int>(thread_index());
    SHARED(int, quads, 16);
    SHARED(float, numbers, 2);
    SHARED(float, floats, 64);
    SHARED(float, place, 2 * REACH);
    SHARED(float, elapsed, REACH);
    SHARED(float, weights, REACH);
    SHARED(float, lines, 64);   // nearness of rows, then of columns
    SHARED(float, inverse, 2);  // of their sums
    const PassRow& r = w.rows[row];
    const Config& c = w.config;
    const int window = static_cast<int>(c.window), m = c.grammar.map_cells, n_heads = static_cast<int>(c.n_heads);
    const Latest* latest = w.latest + r.slot * w.max_latest;
    const int stop = w.live[r.slot].n_latest;
    int start = stop > static_cast<int>(REACH) ? stop - static_cast<int>(REACH) : 0;
    while (start < stop && r.position - latest[start].position >= window) ++start;
    const int n = stop - start;
    if (n == 0) return;
    for (int i = thread; i < 2 * n; i += THREADS) {
        const Latest& u = latest[start + i / 2];
        const int axis = i % 2, from = axis ? u.cell % m : u.cell / m;
        const auto dt = static_cast<float>(r.token.time - u.time);
        const float velocity = u.motion[axis], gravity = u.motion[2 + axis];
        const float contact = 1 + softplus(u.motion[4 + axis] + 4), back = sigmoid(u.motion[6 + axis]);
        const float before = contact < dt ? contact : dt;
        place[i] = static_cast<float>(from) + velocity * (before - back * (dt - before)) + gravity * dt * dt / 2;
        if (!axis) elapsed[i / 2] = dt;
    }
    constexpr int MOST = 1024 / THREADS;  // cells per thread
    float led[MOST] = {};
    for (int h = 0; h < n_heads; ++h) {
        const int kv = h / (n_heads / static_cast<int>(c.n_kv_heads));
        const View4 s = see(w, r, static_cast<int>((c.n_layers - 1) * c.n_kv_heads) + kv, r.position);
        Head query = load_head(w.queries + row * w.ballistic_query.width + h * 64);
        norm_head(query, w.ballistic_norm);
        place_head(query, w.turn + row * 64);
        for (float& v : query.v) v *= 0.125f;
        if (thread < 32) put_query(query, quads, numbers, 0, thread < 16);
        if (thread < 16)
            for (int j = 0; j < 4; ++j) floats[lane16() + 16 * j] = query.v[j];
        block_sync();
        if (thread < n) {
            const int64_t position = latest[start + thread].position;
            float score;
            if (position < r.committed) {
                const int at = static_cast<int>(position % window);
                score = hidden_place(s, at) ? LOWEST : score_place(quads, numbers, s, at);
            } else {  // sixteen lanes in one thread
                const uint16_t* key = s.staged + static_cast<size_t>(position - r.committed) * s.staged_stride;
                float sum[16];
                for (int i = 0; i < 16; ++i) {
                    sum[i] = floats[i] * half_to_float(key[i]);
                    for (int j = 16; j < 64; j += 16) sum[i] = fmaf(floats[i + j], half_to_float(key[i + j]), sum[i]);
                }
                for (int apart = 8; apart; apart /= 2)
                    for (int i = 0; i < apart; ++i) sum[i] += sum[i + apart];
                score = sum[0];
            }
            weights[thread] = score - w.ageing[h] * elapsed[thread];
        }
        block_sync();
        if (thread == 0) {
            float top = 0, sum = 0;  // beside a zero: an event may follow nothing at all
            for (int k = 0; k < n; ++k) top = top < weights[k] ? static_cast<float>(weights[k]) : top;
            for (int k = 0; k < n; ++k) {
                const float e = exp_of(weights[k] - top);
                weights[k] = e;
                sum += e;
            }
            sum += exp_of(-top);
            for (int k = 0; k < n; ++k) weights[k] = weights[k] / sum;
        }
        block_sync();
        const float* raw = w.aims + row * w.max_aims + 4 * h;
        const float spread = softplus(raw[2]) + SPREAD, precision = 1 / (spread * spread), gain = GAIN * (1 + raw[3]);
        for (int k = 0; k < n; ++k) {
            const float weight = weights[k];
            if (weight == 0) continue;
            if (thread < 64) {
                const int cell = thread % 32;
                const float period = static_cast<float>(m), apart = static_cast<float>(cell) - (place[2 * k + thread / 32] + raw[thread / 32]);
                const float d = fmaf(nearbyintf(apart * (1.0f / period)), 0.0f - period, apart);
                lines[thread] = cell < m ? exp_own(d * d * (-0.5f * precision)) : 0.0f;
            }
            block_sync();
            if (thread < 2) {
                float sum = 0;
                for (int i = 0; i < 32; ++i) sum += lines[32 * thread + i];
                inverse[thread] = sum > 0 ? 1.0f / sum : 0.0f;
            }
            block_sync();
            for (int i = 0, cell = thread; i < MOST && cell < m * m; ++i, cell += THREADS)
                led[i] = fmaf(lines[cell / m] * inverse[0] * (weight * gain), lines[32 + cell % m] * inverse[1], led[i]);
            block_sync();
        }
    }
    for (int i = 0, cell = thread; i < MOST && cell < m * m; ++i, cell += THREADS)
        w.events[row * w.event_head.width + cell] += led[i];
}
KERNEL add_paths(View w) {
    const int row = static_cast<int>(block_index());
    if (decides(w, row)) add_paths_row<DRAW_THREADS>(w, row);
}
DEVICE void aim_row(const View& w, int row) {
    for (int i = static_cast<int>(thread_index()); i < w.aim.n_out; i += static_cast<int>(block_size()))
        w.aims[row * w.max_aims + i] = product_f32(w.aim, w.hidden + row * w.config.d_model, i);
}
KERNEL aim(View w) {
    const int row = static_cast<int>(block_index());
    if (decides(w, row)) aim_row(w, row);
}

DEVICE bool allowed(const Grammar& g, const Token& last, int event) {
    if (event < g.n_cells())
        return event >= (last.kind == UPD ? last.a + 1 : 0) && g.shown(event / g.map_cells, last.y) && g.shown(event % g.map_cells, last.x);
    return event == g.end_event() || (last.kind == ACT && event != g.still_event());
}

// The best score over the block and its lowest class, known to everyone; `none` where nobody has one.
DEVICE int block_best(float score, int of_class, int none, SHARED_ARRAY(float, best), SHARED_ARRAY(int, who)) {
    for (int h = 16; h; h /= 2) {
        const float other = shuffle_xor(score, h);
        const int other_class = shuffle_xor(of_class, h);
        if (other > score || (other == score && other_class < of_class)) score = other, of_class = other_class;
    }
    block_sync();
    if (thread_index() % 32 == 0) {
        best[thread_index() / 32] = score;
        who[thread_index() / 32] = of_class;
    }
    block_sync();
    score = best[0];
    of_class = who[0];
    for (unsigned i = 1; i < block_size() / 32; ++i)
        if (best[i] > score || (best[i] == score && who[i] < of_class)) score = best[i], of_class = who[i];
    return score > LOWEST ? of_class : none;
}
// As Decider::draw, by the whole block.
DEVICE int block_draw(const View& w, const float* logits, int n, uint32_t key, float temperature, SHARED_ARRAY(float, box),
                      SHARED_ARRAY(int, who)) {
    const float top = block_maximum(logits, n, box), least = top - w.span * temperature;
    float best = LOWEST;
    int of_class = n - 1;
    for (int i = static_cast<int>(thread_index()); i < n; i += static_cast<int>(block_size())) {
        const float score = temperature == 0   ? logits[i]
                            : logits[i] >= least ? logits[i] / temperature + gumbel(w.gumbel, key, static_cast<uint32_t>(i))
                                                 : LOWEST;
        if (score > best) best = score, of_class = i;
    }
    const int drawn = block_best(best, of_class, n - 1, box, who);
    // Where every logit is -inf, the first one equals the largest.
    return temperature == 0 && top == LOWEST ? 0 : drawn;
}
DEVICE int draw_few(const View& w, const float* logits, int n, uint32_t key, float temperature) {
    int best = n - 1;
    float best_score = LOWEST, top = LOWEST;
    for (int i = 0; i < n; ++i) top = top > logits[i] ? top : logits[i];
    for (int i = 0; i < n; ++i) {
        if (!(logits[i] >= top - w.span * temperature)) continue;
        const float score = temperature == 0 ? logits[i] : logits[i] / temperature + gumbel(w.gumbel, key, static_cast<uint32_t>(i));
        if (score > best_score) best_score = score, best = i;
    }
    return best;
}

DEVICE void draw_event_row(const View& w, int row) {
    const int thread = static_cast<int>(thread_index());
    if (!w.rows[row].decides) {
        if (thread == 0) w.wanted[row] = 0;
        return;
    }
    SHARED(float, box, MOST_WARPS);
    SHARED(int, who, MOST_WARPS);
    SHARED(float, ends, 5);
    const PassRow& r = w.rows[row];
    const Grammar& g = w.config.grammar;
    const Live& live = w.live[r.slot];
    float* logits = w.events + row * w.event_head.width;
    for (int i = thread; i < g.n_events(); i += static_cast<int>(block_size()))
        if (!allowed(g, r.token, i)) logits[i] = LOWEST;
    block_sync();
    const auto seed = static_cast<uint64_t>(live.seed), time = static_cast<uint64_t>(r.token.time);
    const auto count = static_cast<uint64_t>(r.index + 1);
    const int event = block_draw(w, logits, g.n_events(), noise_key(seed, time, count, EVENT_NOISE), w.temperature, box, who);
    Token next = g.after(r.token, event);
    if (next.kind == END && thread < 5) ends[thread] = product_f32(w.end_head, w.hidden + row * w.config.d_model, thread);
    block_sync();
    if (thread) return;
    if (next.kind == END) {
        const float outcome = w.temperature > 0 ? 1.0f : 0.0f;
        float values[5];
        for (int i = 0; i < 5; ++i) values[i] = ends[i];
        next.a = draw_few(w, values, 3, noise_key(seed, time, count, REWARD_NOISE), outcome);
        next.b = draw_few(w, values + 3, 2, noise_key(seed, time, count, DONE_NOISE), outcome);
    }
    w.next[row] = next;
    w.wanted[row] = next.kind == UPD;
}
KERNEL draw_event(View w) {
    const int row = static_cast<int>(block_index());
    if (row < *w.n_rows) draw_event_row(w, row);
}

// The rows that want a code, in order. One warp.
DEVICE void choose_rows(const View& w) {
    const int lane = static_cast<int>(thread_index()), n = *w.n_rows;
    int total = 0;
    for (int base = 0; base < n; base += 32) {
        const bool wants = base + lane < n && w.wanted[base + lane];
        const unsigned all = ballot(wants);
        if (wants) w.code_rows[total + bits_set(all & ((1u << lane) - 1))] = base + lane;
        total += bits_set(all);
    }
    if (lane == 0) *w.n_code_rows = total;
}
KERNEL choose(View w) { choose_rows(w); }

}  // namespace gamegen::cuda
