// Attention over the 4-bit ring and the staged tokens of the step: scores, softmax, mix. One block per row and head.
#pragma once
#include "linear.cuh"

namespace gamegen::cuda {

constexpr int ATTEND_THREADS = 128;

// What one token sees in one layer and KV head; as Seen of ops.h.
struct View4 {
    const uint8_t *k, *v;
    const uint16_t *k_scale, *k_minimum, *v_scale, *v_minimum, *staged;
    int places, ring, window, hidden_from, hidden, staged_stride, n_staged;
    GAMEGEN_HD int width() const { return ring + (n_staged + 15) / 16 * 16; }
};

DEVICE uint16_t* staged_at(const View& w, int slot, int stage, int index, int layer_head) {
    return w.staged + (((static_cast<size_t>(slot) * 2 + stage) * w.stage_tokens + index) * w.layer_heads + layer_head) * 128;
}
DEVICE View4 see(const View& w, const PassRow& r, int layer_head, int64_t position) {
    const size_t at = static_cast<size_t>(r.slot) * w.layer_heads + layer_head;
    const auto window = static_cast<int64_t>(w.config.window);
    View4 s;
    s.k = w.k + at * w.places * 32;
    s.v = w.v + at * w.places * 32;
    s.k_scale = w.scales + at * 4 * w.places;
    s.k_minimum = s.k_scale + w.places;
    s.v_scale = s.k_minimum + w.places;
    s.v_minimum = s.v_scale + w.places;
    s.staged = staged_at(w, r.slot, r.stage, 0, layer_head);
    s.staged_stride = w.layer_heads * 128;
    s.places = static_cast<int>(r.committed < window ? r.committed : window);
    s.ring = (s.places + 63) / 64 * 64;
    s.window = static_cast<int>(window);
    s.hidden_from = static_cast<int>(r.committed % window);
    s.hidden = static_cast<int>(position - r.committed + 1 < window ? position - r.committed + 1 : window);
    s.n_staged = r.index + 1;
    return s;
}

// A query as signed bytes in the threads that score: dimensions 4 i .. 4 i + 3 in quads[i].
struct ByteQuery {
    int quads[16];
    float scale, sum;
};
// From one half warp to the block: bytes, then scale and sum, through shared memory.
DEVICE void put_query(const Head& h, SHARED_ARRAY(int, quads), SHARED_ARRAY(float, numbers), int at, bool write) {
    float top = 0, sum = h.v[0];
    for (int j = 0; j < 4; ++j) top = top > fabs_of(h.v[j]) ? top : fabs_of(h.v[j]);
    for (int j = 1; j < 4; ++j) sum = sum + h.v[j];
    const float largest = largest16(top), by = largest > FAINT ? 127.0f / largest : 0.0f;
    sum = sum16(sum);
    unsigned quad = 0;
    for (int j = 0; j < 4; ++j) {
        const int byte = static_cast<int>(nearbyintf(h.v[j] * by));
        for (int t = 0; t < 4; ++t) {
            const int got = shuffle(byte, static_cast<int>(thread_index() & 16) + (4 * lane16() + t) % 16);
            if (lane16() / 4 == j) quad |= (static_cast<unsigned>(got) & 255u) << 8 * t;
        }
    }
    if (!write) return;
    quads[at * 16 + lane16()] = static_cast<int>(quad);
    if (lane16() == 0) {
        numbers[at * 2] = largest / 127.0f;
        numbers[at * 2 + 1] = sum;
    }
}
DEVICE ByteQuery get_query(SHARED_ARRAY(int, quads), SHARED_ARRAY(float, numbers), int at) {
    ByteQuery q;
    for (int i = 0; i < 16; ++i) q.quads[i] = quads[at * 16 + i];
    q.scale = numbers[at * 2];
    q.sum = numbers[at * 2 + 1];
    return q;
}
DEVICE float score_place(const ByteQuery& q, const View4& s, int at) {
    const auto* k = reinterpret_cast<const int*>(s.k + at / 16 * 512 + at % 16 * 4);
    int sum = 0;
    for (int i = 0; i < 8; ++i) {
        const int both = k[16 * i];
        sum = dp4a(both & 0x0F0F0F0F, q.quads[i], sum);
        sum = dp4a(both >> 4 & 0x0F0F0F0F, q.quads[8 + i], sum);
    }
    const float raw = static_cast<float>(sum) * q.scale;
    return fmaf(raw, half_to_float(s.k_scale[at]), q.sum * half_to_float(s.k_minimum[at]));
}
DEVICE bool hidden_place(const View4& s, int at) { return (at + s.window - s.hidden_from) % s.window < s.hidden; }
DEVICE float dot_staged(const Head& h, const uint16_t* key) {
    float sum = h.v[0] * half_to_float(key[lane16()]);
    for (int j = 1; j < 4; ++j) sum = fmaf(h.v[j], half_to_float(key[lane16() + 16 * j]), sum);
    return sum16(sum);
}
// logits (s.width()) of one head, by the whole block. `head`: the query in every half warp.
DEVICE void scores(const Head& head, const ByteQuery& q, const View4& s, float* logits) {
    const int thread = static_cast<int>(thread_index()), threads = static_cast<int>(block_size());
    for (int at = thread; at < s.ring; at += threads)
        logits[at] = at < s.places && !hidden_place(s, at) ? score_place(q, s, at) : LOWEST;
    const int first = thread / 16, groups = threads / 16;
    for (int base = 0; base < s.n_staged; base += groups) {
        const int i = base + first, valid = i < s.n_staged;
        const float dot = dot_staged(head, s.staged + static_cast<size_t>(valid ? i : 0) * s.staged_stride);
        if (valid && lane16() == 0) logits[s.ring + i] = dot;
    }
    for (int at = s.ring + s.n_staged + thread; at < s.width(); at += threads) logits[at] = LOWEST;
}

// Over the block: the largest of everyone's numbers, known to everyone. `box`: one float per warp.
DEVICE float block_largest(float x, SHARED_ARRAY(float, box)) {
    for (int h = 16; h; h /= 2) {
        const float other = shuffle_xor(x, h);
        x = x > other ? x : other;
    }
    block_sync();
    if (thread_index() % 32 == 0) box[thread_index() / 32] = x;
    block_sync();
    x = box[0];
    for (unsigned i = 1; i < block_size() / 32; ++i) x = x > box[i] ? x : static_cast<float>(box[i]);
    return x;
}
DEVICE float block_maximum(const float* x, int n, SHARED_ARRAY(float, box)) {
    float top = LOWEST;
    for (int i = static_cast<int>(thread_index()); i < n; i += static_cast<int>(block_size())) top = top > x[i] ? top : x[i];
    return block_largest(top, box);
}
// x = exp(x - maximum); returns the sum to everyone: sixteen lanes in order, whatever the block's size.
DEVICE float block_exponentials(float* x, int n, float maximum, SHARED_ARRAY(float, box)) {
    for (int i = static_cast<int>(thread_index()); i < n; i += static_cast<int>(block_size())) x[i] = exp_or_zero(x[i] - maximum);
    block_sync();
    if (thread_index() < 32) {
        float sum = 0;
        for (int i = lane16(); i < n; i += 16) sum = sum + x[i];
        sum = sum16(sum);
        if (thread_index() == 0) box[0] = sum;
    }
    block_sync();
    return box[0];
}

// Heads of a row: norm, turn, stage. Blocks of a multiple of 32, half a warp per head.
KERNEL turn_heads(View w, const float* q_norm, const float* k_norm, int layer, int width) {
    const int row = static_cast<int>(block_index());
    if (row >= *w.n_rows) return;
    const PassRow& r = w.rows[row];
    const int n_heads = static_cast<int>(w.config.n_heads), n_kv = static_cast<int>(w.config.n_kv_heads), all = n_heads + 2 * n_kv;
    const int wanted = static_cast<int>(thread_index() / 16), head = wanted < all ? wanted : all - 1;
    float* at = w.heads + row * width + head * 64;
    Head h = load_head(at);
    // Every half warp takes part in every shuffle; what is not meant for its head is thrown away.
    Head turned = h;
    norm_head(turned, head < n_heads ? q_norm : k_norm);
    place_head(turned, w.turn + row * 64);
    hadamard(h);
    if (wanted < n_heads) {
        for (int j = 0; j < 4; ++j) at[lane16() + 16 * j] = turned.v[j] * 0.125f;
    } else if (wanted < all) {
        const bool value = head >= n_heads + n_kv;
        uint16_t* to = staged_at(w, r.slot, r.stage, r.index, layer * n_kv + (head - n_heads) % n_kv) + (value ? 64 : 0);
        for (int j = 0; j < 4; ++j) to[lane16() + 16 * j] = float_to_half(value ? h.v[j] : turned.v[j]);
    }
}
// A staged key (which = 0) or value (1) to its ring place.
DEVICE void put4(const View& w, int slot, int layer_head, int which, const uint16_t* from, int place) {
    float values[64];
    for (int i = 0; i < 64; ++i) values[i] = half_to_float(from[which * 64 + i]);
    const Group4 g = quantise4(values);
    const size_t at = static_cast<size_t>(slot) * w.layer_heads + layer_head;
    uint8_t* to = (which ? w.v : w.k) + at * w.places * 32;
    for (int i = 0; i < 32; ++i)
        to[which ? place / 4 * 128 + i * 4 + place % 4 : place / 16 * 512 + i / 4 * 64 + place % 16 * 4 + i % 4] = g.nibbles[i];
    uint16_t* scales = w.scales + (at * 4 + 2 * which) * w.places;
    scales[place] = g.scale;
    scales[w.places + place] = g.minimum;
}
// END of a finished step goes into the ring as it is computed, one layer at a time. 2 * n_kv_heads threads.
KERNEL commit_ends(View w, int layer) {
    const int row = static_cast<int>(block_index()), n_kv = static_cast<int>(w.config.n_kv_heads);
    if (row >= *w.n_rows || !w.rows[row].commit) return;
    const PassRow& r = w.rows[row];
    const int layer_head = layer * n_kv + static_cast<int>(thread_index()) / 2;
    put4(w, r.slot, layer_head, static_cast<int>(thread_index()) % 2, staged_at(w, r.slot, r.stage, r.index, layer_head),
         static_cast<int>(r.position % static_cast<int64_t>(w.config.window)));
}

// Grid (rows, n_heads).
KERNEL attend(View w, int layer, int width) {
    const int row = static_cast<int>(block_index()), h = static_cast<int>(block_row());
    if (row >= *w.n_rows) return;
    SHARED(int, quads, 16);
    SHARED(float, numbers, 2);
    SHARED(float, box, ATTEND_THREADS / 32);
    SHARED(float, offset, 1);
    SHARED(float, mixed, 64);
    const int n_heads = static_cast<int>(w.config.n_heads), kv = h / (n_heads / static_cast<int>(w.config.n_kv_heads));
    const int thread = static_cast<int>(thread_index()), lane = thread % 32;
    const View4 s = see(w, w.rows[row], layer * static_cast<int>(w.config.n_kv_heads) + kv, w.rows[row].position);
    const Head query = load_head(w.heads + row * width + h * 64);
    put_query(query, quads, numbers, 0, thread < 16);
    block_sync();
    float* logits = w.logits + (static_cast<size_t>(row) * (n_heads + 1) + h) * w.logits_width;
    scores(query, get_query(quads, numbers, 0), s, logits);
    block_sync();
    const float top = block_maximum(logits, s.width(), box);
    const float total = block_exponentials(logits, s.width(), top, box);
    // 64 places share a scale and become bytes: a warp each.
    const size_t at = static_cast<size_t>(row) * n_heads + h;
    int* partial = w.partial + at * w.places;
    float* tops = w.tops + at * (w.places / 64);
    for (int b = thread / 32; b < s.ring / 64; b += ATTEND_THREADS / 32) {
        const float first = logits[b * 64 + lane] * half_to_float(s.v_scale[b * 64 + lane]),
                    second = logits[b * 64 + 32 + lane] * half_to_float(s.v_scale[b * 64 + 32 + lane]);
        float largest = first > second ? first : second;
        for (int x = 16; x; x /= 2) {
            const float other = shuffle_xor(largest, x);
            largest = largest > other ? largest : other;
        }
        const float by = largest > FAINT ? 127.0f / largest : 0.0f;
        const int bytes[2] = {static_cast<int>(nearbyintf(first * by)), static_cast<int>(nearbyintf(second * by))};
        int low = 0, high = 0;
        for (int four = 0; four < 16; ++four) {
            unsigned weights = 0;
            for (int t = 0; t < 4; ++t)
                weights |= (static_cast<unsigned>(shuffle(bytes[four / 8], four % 8 * 4 + t)) & 255u) << 8 * t;
            const int both = reinterpret_cast<const int*>(s.v + (b * 16 + four) * 128)[lane];
            low = dp4a(both & 0x0F0F0F0F, static_cast<int>(weights), low);
            high = dp4a(both >> 4 & 0x0F0F0F0F, static_cast<int>(weights), high);
        }
        partial[b * 64 + lane] = low;
        partial[b * 64 + 32 + lane] = high;
        if (lane == 0) tops[b] = largest;
    }
    if (thread < 32) {
        float sum = 0;
        for (int i = lane16(); i < s.ring; i += 16) sum = fmaf(logits[i], half_to_float(s.v_minimum[i]), sum);
        sum = sum16(sum);
        if (thread == 0) offset[0] = sum;
    }
    block_sync();
    if (thread < 64) {
        float sum = 0;
        for (int b = 0; b < s.ring / 64; ++b) sum = fmaf(static_cast<float>(partial[b * 64 + thread]), tops[b] / 127.0f, sum);
        sum = sum + offset[0];
        for (int i = 0; i < s.n_staged; ++i)
            sum = fmaf(half_to_float(s.staged[static_cast<size_t>(i) * s.staged_stride + 64 + thread]), logits[s.ring + i], sum);
        mixed[thread] = sum * (1.0f / total);
    }
    block_sync();
    if (thread >= 32) return;
    Head out;
    for (int j = 0; j < 4; ++j) out.v[j] = mixed[lane16() + 16 * j];
    hadamard(out);
    if (thread < 16)
        for (int j = 0; j < 4; ++j) w.attended[(row * n_heads + h) * 64 + lane16() + 16 * j] = out.v[j];
}

}  // namespace gamegen::cuda
