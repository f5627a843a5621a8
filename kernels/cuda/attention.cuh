// Attention over the 4-bit ring and the staged tokens of the step: scores, softmax, mix.
#pragma once
#include "linear.cuh"

namespace gamegen::cuda {

constexpr int DRAW_THREADS = 128, ATTEND_THREADS = 256;

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

// A query as signed bytes, dimensions 4 i .. 4 i + 3 in word i, its scale and its sum: number `at`, from half a warp to the
// block. Run by a warp.
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
DEVICE float key_score(int sum, float scale, float total, const View4& s, int at) {
    const float raw = static_cast<float>(sum) * scale;
    return fmaf(raw, half_to_float(s.k_scale[at]), total * half_to_float(s.k_minimum[at]));
}
// The score of one place, by one thread.
DEVICE float score_place(SHARED_ARRAY(int, quads), SHARED_ARRAY(float, numbers), const View4& s, int at) {
    const auto* k = reinterpret_cast<const int*>(s.k + at / 16 * 512 + at % 16 * 4);
    int sum = 0;
    for (int i = 0; i < 8; ++i) {
        const int both = k[16 * i];
        sum = dp4a(both & 0x0F0F0F0F, quads[i], sum);
        sum = dp4a(both >> 4 & 0x0F0F0F0F, quads[8 + i], sum);
    }
    return key_score(sum, numbers[0], numbers[1], s, at);
}
DEVICE bool hidden_place(const View4& s, int at) {
    const auto behind = static_cast<unsigned>(at - s.hidden_from), hidden = static_cast<unsigned>(s.hidden);
    return behind < hidden || behind + static_cast<unsigned>(s.window) < hidden;
}
DEVICE float dot_heads(const Head& a, const Head& b) {
    float sum = a.v[0] * b.v[0];
    for (int j = 1; j < 4; ++j) sum = fmaf(a.v[j], b.v[j], sum);
    return sum16(sum);
}
// logits (G, s.width()), rows `stride` apart, of G heads that share their keys, by the whole block: a thread takes four
// places at a time, 16 bytes to a load. `heads`: the queries in every half warp, and as bytes in `quads` and `numbers`.
template <int G>
DEVICE void scores(const Head (&heads)[G], SHARED_ARRAY(int, quads), SHARED_ARRAY(float, numbers), const View4& s, float* logits, int stride) {
    const int thread = static_cast<int>(thread_index()), threads = static_cast<int>(block_size());
    for (int four = 4 * thread; four < s.ring; four += 4 * threads) {
        int sums[G][4] = {};
        const uint8_t* k = s.k + four / 16 * 512 + four % 16 * 4;
        for (int i = 0; i < 8; ++i) {
            const Quad both = load16(k + 64 * i);
            for (int g = 0; g < G; ++g) {
                const int low = quads[g * 16 + i], high = quads[g * 16 + 8 + i];
                for (int t = 0; t < 4; ++t) {
                    sums[g][t] = dp4a(static_cast<int>(both.v[t] & 0x0F0F0F0Fu), low, sums[g][t]);
                    sums[g][t] = dp4a(static_cast<int>(both.v[t] >> 4 & 0x0F0F0F0Fu), high, sums[g][t]);
                }
            }
        }
        for (int t = 0; t < 4; ++t) {
            const int at = four + t;
            const bool seen = at < s.places && !hidden_place(s, at);
            for (int g = 0; g < G; ++g) logits[g * stride + at] = seen ? key_score(sums[g][t], numbers[2 * g], numbers[2 * g + 1], s, at) : LOWEST;
        }
    }
    for (int two = thread / 32 * 2; two < s.n_staged; two += threads / 16) {  // a token for half a warp
        const int i = two + thread / 16 % 2, valid = i < s.n_staged;
        const Head key = load_staged(s.staged + static_cast<size_t>(valid ? i : 0) * s.staged_stride);
        for (int g = 0; g < G; ++g) {
            const float dot = dot_heads(heads[g], key);
            if (valid && lane16() == 0) logits[g * stride + s.ring + i] = dot;
        }
    }
    for (int at = s.ring + s.n_staged + thread; at < s.width(); at += threads)
        for (int g = 0; g < G; ++g) logits[g * stride + at] = LOWEST;
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

// A staged key (which = 0) or value (1), in half a warp, to its ring place; quantise4 of kv4.h.
DEVICE void put4(const View& w, int slot, int layer_head, int which, const Head& h, int place, bool write) {
    const float low = first_least(h, 1.0f), high = -first_least(h, -1.0f);
    const uint16_t half_minimum = float_to_half(low);
    const float minimum = half_to_float(half_minimum);
    const uint16_t half_scale = float_to_half((high - minimum) / 15.0f);
    const float smallest_normal = 6.103515625e-5f, scale = half_to_float(half_scale), step = scale > smallest_normal ? scale : smallest_normal;
    if (!write) return;
    unsigned levels[4];
    for (int j = 0; j < 4; ++j) {
        const float q = nearbyintf((h.v[j] - minimum) / step);
        levels[j] = static_cast<unsigned>(q < 0 ? 0 : q > 15 ? 15 : q);
    }
    const size_t at = static_cast<size_t>(slot) * w.layer_heads + layer_head;
    uint8_t* to = (which ? w.v : w.k) + at * w.places * 32;
    for (int j = 0; j < 2; ++j) {
        const int i = lane16() + 16 * j;
        to[which ? place / 4 * 128 + i * 4 + place % 4 : place / 16 * 512 + i / 4 * 64 + place % 16 * 4 + i % 4] =
            static_cast<uint8_t>(levels[j] | levels[j + 2] << 4);
    }
    if (lane16()) return;
    uint16_t* scales = w.scales + (at * 4 + 2 * which) * w.places;
    scales[place] = half_scale;
    scales[w.places + place] = half_minimum;
}

// A head of a row in half a warp, the same row in both halves: norm, turn, stage; END of a finished step goes on into the
// ring. `write`: the other halves only take part in the shuffles.
DEVICE void turn_head(const View& w, int row, int head, const float* q_norm, const float* k_norm, int layer, int width, bool write) {
    const PassRow& r = w.rows[row];
    const int n_heads = static_cast<int>(w.config.n_heads), n_kv = static_cast<int>(w.config.n_kv_heads);
    float* at = w.heads + row * width + head * 64;
    Head h = load_head(at), turned = h;  // a value is not turned, but its shuffles are the warp's
    norm_head(turned, head < n_heads ? q_norm : k_norm);
    place_head(turned, w.turn + row * 64);
    hadamard(h);
    const bool query = head < n_heads, value = head >= n_heads + n_kv;
    const int layer_head = layer * n_kv + (query ? 0 : (head - n_heads) % n_kv);
    Head staged;
    for (int j = 0; j < 4; ++j) staged.v[j] = half_to_float(float_to_half(value ? h.v[j] : turned.v[j]));
    if (write && query) {
        for (int j = 0; j < 4; ++j) at[lane16() + 16 * j] = turned.v[j] * 0.125f;
    } else if (write) {
        uint16_t* to = staged_at(w, r.slot, r.stage, r.index, layer_head) + (value ? 64 : 0);
        for (int j = 0; j < 4; ++j) to[lane16() + 16 * j] = float_to_half(staged.v[j]);
    }
    if (r.commit)
        put4(w, r.slot, layer_head, value, staged, static_cast<int>(r.position % static_cast<int64_t>(w.config.window)), write && !query);
}
// Blocks of a multiple of 32, half a warp per head.
KERNEL turn_heads(View w, const float* q_norm, const float* k_norm, int layer, int width) {
    const int row = static_cast<int>(block_index()), head = static_cast<int>(thread_index() / 16);
    const int all = static_cast<int>(w.config.n_heads + 2 * w.config.n_kv_heads);
    if (row < *w.n_rows) turn_head(w, row, head < all ? head : all - 1, q_norm, k_norm, layer, width, head < all);
}

// G heads from `first` on that share keys and values, by a block of THREADS: 16 bytes of either serve all of them.
//
// The window is split over the block's threads. What is added as floats is added in the native engine's order: exponentials
// and minima in sixteen lanes, values as integers over 64 places, then 64 by 64, then the staged tokens.
template <int G, int THREADS> DEVICE void attend_heads(const View& w, int row, int first, int layer, int width) {
    constexpr int EACH = THREADS / G;  // threads per head, where each has one
    SHARED(int, quads, G * 16);
    SHARED(float, numbers, G * 2);
    SHARED(float, box, THREADS / 32);
    SHARED(float, totals, G);
    SHARED(float, offsets, G);
    SHARED(float, mixed, G * 64);
    const int n_heads = static_cast<int>(w.config.n_heads), n_kv = static_cast<int>(w.config.n_kv_heads), kv = first / (n_heads / n_kv);
    const int thread = static_cast<int>(thread_index()), lane = thread % 32, own = thread / EACH;
    const View4 s = see(w, w.rows[row], layer * n_kv + kv, w.rows[row].position);
    Head queries[G];
    for (int g = 0; g < G; ++g) {
        queries[g] = load_head(w.heads + row * width + (first + g) * 64);
        if (thread < 32) put_query(queries[g], quads, numbers, g, thread < 16);
    }
    block_sync();
    float* logits = w.logits + (static_cast<size_t>(row) * (n_heads + 1) + first) * w.logits_width;
    scores<G>(queries, quads, numbers, s, logits, w.logits_width);
    block_sync();
    // Softmax, a head each.
    float* mine = logits + own * w.logits_width;
    float top = LOWEST;
    for (int i = thread % EACH; i < s.width(); i += EACH) top = top > mine[i] ? top : mine[i];
    top = warp_largest(top);
    if (lane == 0) box[thread / 32] = top;
    block_sync();
    for (int i = own * EACH / 32; i < (own + 1) * EACH / 32; ++i) top = top > box[i] ? top : static_cast<float>(box[i]);
    for (int i = thread % EACH; i < s.width(); i += EACH) mine[i] = exp_or_zero(mine[i] - top);
    block_sync();
    if (thread % EACH < 32) {
        float sum = 0, offset = 0;
        for (int i = lane16(); i < s.width(); i += 16) sum = sum + mine[i];
        for (int i = lane16(); i < s.ring; i += 16) offset = fmaf(mine[i], half_to_float(s.v_minimum[i]), offset);
        sum = sum16(sum);
        offset = sum16(offset);
        if (thread % EACH == 0) {
            totals[own] = sum;
            offsets[own] = offset;
        }
    }
    // 64 places share a scale and become bytes, in the order of the values: a warp each.
    const int blocks = s.ring / 64, most = w.places / 64;
    const size_t at = static_cast<size_t>(row) * n_heads + first;
    for (int b = thread / 32; b < blocks * G; b += THREADS / 32) {
        const int g = b / blocks, places = b % blocks * 64;
        const float* weight = logits + g * w.logits_width + places;
        const float low = weight[lane] * half_to_float(s.v_scale[places + lane]), high = weight[32 + lane] * half_to_float(s.v_scale[places + 32 + lane]);
        const float largest = warp_largest(low > high ? low : high), by = largest > FAINT ? 127.0f / largest : 0.0f;
        int8_t* bytes = w.weights + (at + g) * w.places + places;
        bytes[lane] = static_cast<int8_t>(nearbyintf(low * by));
        bytes[32 + lane] = static_cast<int8_t>(nearbyintf(high * by));
        if (lane == 0) w.tops[(at + g) * most + places / 64] = largest;
    }
    block_sync();
    // Eight threads to 64 places: four bytes of the group, that is eight dimensions, each. High nibbles count sixteen times
    // where they are: with one head it is cheaper to divide the sum than to shift each.
    constexpr bool IN_PLACE = G == 1;
    for (int b = thread / 8; b < blocks; b += THREADS / 8) {
        const int column = thread % 8 * 4;
        int low[G][4] = {}, high[G][4] = {};
        for (int four = 0; four < 16; ++four) {
            const Quad both = load16(s.v + (b * 16 + four) * 128 + column * 4);
            for (int g = 0; g < G; ++g) {
                const int weights = reinterpret_cast<const int*>(w.weights + (at + g) * w.places)[b * 16 + four];
                for (int i = 0; i < 4; ++i) {
                    low[g][i] = dp4a(static_cast<int>(both.v[i] & 0x0F0F0F0Fu), weights, low[g][i]);
                    high[g][i] = IN_PLACE ? dp4a(both.v[i] & 0xF0F0F0F0u, weights, high[g][i])
                                          : dp4a(static_cast<int>(both.v[i] >> 4 & 0x0F0F0F0Fu), weights, high[g][i]);
                }
            }
        }
        for (int g = 0; g < G; ++g)
            for (int i = 0; i < 4; ++i) {
                int* to = w.partial + ((at + g) * most + b) * 64 + column + i;
                to[0] = low[g][i];
                to[32] = IN_PLACE ? high[g][i] / 16 : high[g][i];
            }
    }
    block_sync();
    for (int i = thread; i < G * 64; i += THREADS) {
        const int g = i / 64, dimension = i % 64;
        const int* partial = w.partial + (at + g) * most * 64 + dimension;
        const float *tops = w.tops + (at + g) * most, *weights = logits + g * w.logits_width + s.ring;
        float sum = 0;
        for (int b = 0; b < blocks; ++b) sum = fmaf(static_cast<float>(partial[b * 64]), tops[b] / 127.0f, sum);
        sum = sum + offsets[g];
        for (int t = 0; t < s.n_staged; ++t)
            sum = fmaf(half_to_float(s.staged[static_cast<size_t>(t) * s.staged_stride + 64 + dimension]), weights[t], sum);
        mixed[i] = sum * (1.0f / totals[g]);
    }
    block_sync();
    if (thread >= 32) return;
    for (int g = 0; g < G; ++g) {
        Head out;
        for (int j = 0; j < 4; ++j) out.v[j] = mixed[g * 64 + lane16() + 16 * j];
        hadamard(out);
        if (thread < 16)
            for (int j = 0; j < 4; ++j) w.attended[(row * n_heads + first + g) * 64 + lane16() + 16 * j] = out.v[j];
    }
}
// Grid (rows, n_heads / G).
template <int G> KERNEL attend(View w, int layer, int width) {
    const int row = static_cast<int>(block_index());
    if (row < *w.n_rows) attend_heads<G, ATTEND_THREADS>(w, row, static_cast<int>(block_row()) * G, layer, width);
}

}  // namespace gamegen::cuda
