// Matrix products in 8 bits and 4, and what stands before and behind them: norms, gates, embedding.
#pragma once
#include "lanes.cuh"

namespace gamegen::cuda {

constexpr int PRODUCT_THREADS = 128;
constexpr int TILE_ROWS = 16, TILE_OUTPUTS = 32;  // of one block
constexpr int FEW_ROWS = 4;                       // up to so many, dp4a; above, tensor cores
constexpr int CHUNK_QUADS = 16;                   // fours along k that a warp takes at a time

// Kernels of one row. `count` says on the device how many rows there are.
constexpr int ROW_THREADS = 128;

// The block turns numbers 0 .. k - 1, which `number` gives, into bytes, padded with zeros to 64.
template <class Fn> DEVICE void quantise_row(const ByteRows& to, int row, int k, Fn number) {
    SHARED(float, box, MOST_WARPS);
    const int thread = static_cast<int>(thread_index()), threads = static_cast<int>(block_size());
    float top = 0;
    for (int i = thread; i < k; i += threads) {
        const float a = fabs_of(number(i));
        top = top > a ? top : a;
    }
    const float largest = block_largest(top, box), by = largest > FAINT ? 127.0f / largest : 0.0f;
    int8_t* bytes = to.bytes + row * to.stride;
    for (int i = thread; i < (k + 63) / 64 * 64; i += threads) bytes[i] = i < k ? static_cast<int8_t>(nearbyintf(number(i) * by)) : int8_t{0};
    if (thread == 0) to.scales[row] = largest / 127.0f;
}
// norm(x) * gain, or norm(x + add) * gain where there is an `add`: as bytes, and as floats where there is an `out`.
DEVICE void normalise_row(const ByteRows& to, int row, const float* x, const float* add, const float* gain, int d, float* out) {
    SHARED(float, inverse, 1);
    const int thread = static_cast<int>(thread_index());
    const auto at = [&](int i) { return add ? x[i] + add[i] : x[i]; };
    if (thread < 32) {  // sixteen lanes, as everywhere; the upper half of the warp repeats them
        float squares = 0;
        for (int i = lane16(); i < d; i += 16) squares = fmaf(at(i), at(i), squares);
        squares = sum16(squares);
        if (thread == 0) inverse[0] = 1.0f / sqrtf(squares / static_cast<float>(d) + 1.1920929e-7f);
    }
    block_sync();
    const float by = inverse[0];
    if (out)
        for (int i = thread; i < d; i += static_cast<int>(block_size())) out[i] = at(i) * by * gain[i];
    quantise_row(to, row, d, [&](int i) { return at(i) * by * gain[i]; });
}
// silu(gate) * up (n), or silu(gate) where `up_at` is 0.
DEVICE void gate_row(const ByteRows& to, int row, const float* x, int up_at, int n) {
    quantise_row(to, row, n, [&](int i) { return up_at ? silu(x[i]) * x[up_at + i] : silu(x[i]); });
}

KERNEL quantise(View w, const int* count, const float* x, int stride, int k) {
    const int row = static_cast<int>(block_index());
    if (row < *count) quantise_row(w.bytes, row, k, [&](int i) { return x[row * stride + i]; });
}
// `which`: the row of `add` that belongs to each of x; `add` has rows of `d_model`.
KERNEL normalise(View w, const int* count, const float* x, int stride, const float* add, const int* which, const float* gain, float* out) {
    const int row = static_cast<int>(block_index()), d = static_cast<int>(w.config.d_model);
    if (row >= *count) return;
    normalise_row(w.bytes, row, x + row * stride, add ? add + which[row] * d : add, gain, d, out ? out + row * d : out);
}
KERNEL gate(View w, const int* count, const float* x, int stride, int up_at, int n) {
    const int row = static_cast<int>(block_index());
    if (row < *count) gate_row(w.bytes, row, x + row * stride, up_at, n);
}

// --- Products: 32 outputs of up to 16 rows are a tile, which some warps of a block share ---
//
// Lane (group = lane / 4, quad = lane % 4) loads 16 bytes of weights at a time: outputs 4 group .. 4 group + 3 at one four
// along k. Those four outputs are column `group` of four tensor core tiles, so that one load serves both ways to
// multiply; and since a tile sums over k in any order, a lane's four fours along k may lie side by side in the rows.

// Where the numbers go, or to what they are added.
struct Target {
    float* out;  // (rows, stride)
    int stride;
    bool add;
};
DEVICE void put(const Target& to, const LinearView& m, int row, int n, float y) {
    if (!to.add) to.out[row * to.stride + n] = y;
    else if (n < m.n_out) to.out[row * to.stride + n] += y;
}

// Of the running thread: which of the block's tiles it works for, and its place there.
struct Place {
    int tile, thread, warp, group, quad;
};
template <int WARPS> DEVICE Place place_in_tile() {
    const int thread = static_cast<int>(thread_index());
    return {thread / (WARPS * 32), thread % (WARPS * 32), thread / 32 % WARPS, thread % 32 / 4, thread % 4};
}
DEVICE int sum_at(int row, int output) { return row * TILE_OUTPUTS + output; }
// What a warp's tensor core tiles hold, to shared memory from `at` on.
DEVICE void put_tiles(const int (&sums)[4][4], const Place& p, SHARED_ARRAY(int, box), int at) {
    for (int t = 0; t < 4; ++t)
        for (int i = 0; i < 4; ++i) box[at + sum_at(p.group + i / 2 * 8, 4 * (2 * p.quad + i % 2) + t)] = sums[t][i];
}
// The same of sums over a lane's own fours, rows by outputs: added over the quads first. A quad gives away the outputs that
// are not its own, two and then one, so that three exchanges add four numbers.
DEVICE void put_few(const int (&sums)[FEW_ROWS][4], int rows, const Place& p, SHARED_ARRAY(int, box), int at) {
    const bool upper = p.quad & 2, odd = p.quad & 1;
    for (int r = 0; r < FEW_ROWS; ++r) {
        if (r >= rows) break;
        const int(&s)[4] = sums[r];
        const int even = (upper ? s[2] : s[0]) + shuffle_xor(upper ? s[0] : s[2], 2);
        const int uneven = (upper ? s[3] : s[1]) + shuffle_xor(upper ? s[1] : s[3], 2);
        box[at + sum_at(r, 4 * p.group + p.quad)] = (odd ? uneven : even) + shuffle_xor(odd ? even : uneven, 1);
    }
}
DEVICE Quad load_row(const int8_t* x, int at, bool there) { return there ? load16(x + at) : Quad{}; }

// The block's tiles from `tile` on, each by WARPS of its warps, of `rows` rows from `first` on, of which there are at most
// ROWS: x @ m + bias. `box`: ROWS * TILE_OUTPUTS for each warp of the block.
template <int WARPS, int ROWS>
DEVICE void product_tile8(const ByteRows& in, int first, int rows, const LinearView& m, int tile, const Target& to, SHARED_ARRAY(int, box)) {
    const Place p = place_in_tile<WARPS>();
    tile += p.tile;
    const int8_t* x = in.bytes + static_cast<size_t>(first) * in.stride;
    const int8_t* weights = m.w8 + (static_cast<size_t>(tile / 2) * m.quads * 64 + tile % 2 * TILE_OUTPUTS + 4 * p.group) * 4;
    const int sums_of_tile = p.tile * WARPS * ROWS, at_warp = sum_at(sums_of_tile + p.warp * ROWS, 0);
    if (ROWS <= FEW_ROWS || rows <= FEW_ROWS) {
        int sums[FEW_ROWS][4] = {};
        for (int chunk = p.warp * CHUNK_QUADS; chunk < m.quads; chunk += WARPS * CHUNK_QUADS) {
            Quad b[4];
            for (int j = 0; j < 4; ++j) b[j] = load16(weights + static_cast<size_t>(chunk + 4 * p.quad + j) * 256);
            for (int r = 0; r < FEW_ROWS; ++r) {
                if (r >= rows) break;
                const Quad a = load16(x + r * in.stride + (chunk + 4 * p.quad) * 4);
                for (int j = 0; j < 4; ++j)
                    for (int o = 0; o < 4; ++o) sums[r][o] = dp4a(static_cast<int>(a.v[j]), static_cast<int>(b[j].v[o]), sums[r][o]);
            }
        }
        put_few(sums, rows, p, box, at_warp);
    } else if constexpr (ROWS == TILE_ROWS) {
        int sums[4][4] = {};
        for (int chunk = p.warp * CHUNK_QUADS; chunk < m.quads; chunk += WARPS * CHUNK_QUADS) {
            Quad b[4];
            for (int j = 0; j < 4; ++j) b[j] = load16(weights + static_cast<size_t>(chunk + 4 * p.quad + j) * 256);
            const int at = (chunk + 4 * p.quad) * 4;
            const Quad upper = load_row(x, p.group * in.stride + at, p.group < rows),
                       lower = load_row(x, (p.group + 8) * in.stride + at, p.group + 8 < rows);
            for (int s = 0; s < 4; s += 2) {
                const unsigned a[4] = {upper.v[s], lower.v[s], upper.v[s + 1], lower.v[s + 1]};
                for (int t = 0; t < 4; ++t) {
                    const unsigned both[2] = {b[s].v[t], b[s + 1].v[t]};
                    mma_s8(sums[t], a, both);
                }
            }
        }
        put_tiles(sums, p, box, at_warp);
    }
    block_sync();
    for (int i = p.thread; i < rows * TILE_OUTPUTS; i += WARPS * 32) {
        const int r = i / TILE_OUTPUTS, row = first + r, n = tile * TILE_OUTPUTS + i % TILE_OUTPUTS;
        int sum = 0;
        for (int warp = 0; warp < WARPS; ++warp) sum += box[sum_at(sums_of_tile + warp * ROWS + r, i % TILE_OUTPUTS)];
        put(to, m, row, n, fmaf(static_cast<float>(sum), m.scale[n] * in.scales[row], m.bias[n]));
    }
}

// Nibbles stand for themselves minus 8: as signed bytes, four at a time.
DEVICE unsigned signed_nibbles(unsigned x) { return ((x & 0x0F0F0F0Fu) + 0x78787878u) ^ 0x80808080u; }

// The same with weights of 4 bits. Sums of 32 along k are exact; they are added as floats in the order of k, so warps
// make a batch of them and threads, an output each, add it.
template <int WARPS, int ROWS>
DEVICE void product_tile4(const ByteRows& in, int first, int rows, const LinearView& m, int tile, const Target& to, SHARED_ARRAY(int, box)) {
    constexpr int THREADS = WARPS * 32, EACH = (ROWS * TILE_OUTPUTS + THREADS - 1) / THREADS;  // outputs per thread
    const Place p = place_in_tile<WARPS>();
    tile += p.tile;
    const int groups = m.quads / 8, sums_of_tile = p.tile * WARPS * ROWS;
    const int8_t* x = in.bytes + static_cast<size_t>(first) * in.stride;
    const uint8_t* weights = m.w4 + static_cast<size_t>(tile) * groups * RECORD4;
    const bool few = ROWS <= FEW_ROWS || rows <= FEW_ROWS;
    const int height = few ? FEW_ROWS : ROWS, batch = WARPS * ROWS / height;
    float sums[EACH] = {};
    for (int base = 0; base < groups; base += batch) {
        for (int g = base + p.warp; g < base + batch && g < groups; g += WARPS) {
            const Quad both = load16(weights + static_cast<size_t>(g) * RECORD4 + p.quad * 128 + p.group * 16);
            const int at = g * 32 + p.quad * 4, at_group = sum_at(sums_of_tile + (g - base) * height, 0);
            const auto word = [&](int row, int further) -> unsigned {
                return row < rows ? *reinterpret_cast<const unsigned*>(x + row * in.stride + at + further) : 0;
            };
            if (few) {
                int part[FEW_ROWS][4] = {};
                for (int r = 0; r < FEW_ROWS; ++r) {
                    if (r >= rows) break;
                    const int low = static_cast<int>(word(r, 0)), high = static_cast<int>(word(r, 16));
                    for (int o = 0; o < 4; ++o) {
                        part[r][o] = dp4a(low, static_cast<int>(signed_nibbles(both.v[o])), part[r][o]);
                        part[r][o] = dp4a(high, static_cast<int>(signed_nibbles(both.v[o] >> 4)), part[r][o]);
                    }
                }
                put_few(part, rows, p, box, at_group);
            } else if constexpr (ROWS == TILE_ROWS) {
                int part[4][4] = {};
                const unsigned a[4] = {word(p.group, 0), word(p.group + 8, 0), word(p.group, 16), word(p.group + 8, 16)};
                for (int t = 0; t < 4; ++t) {
                    const unsigned b[2] = {signed_nibbles(both.v[t]), signed_nibbles(both.v[t] >> 4)};
                    mma_s8(part[t], a, b);
                }
                put_tiles(part, p, box, at_group);
            }
        }
        block_sync();
        for (int g = base; g < base + batch && g < groups; ++g) {
            const auto* scales = reinterpret_cast<const uint16_t*>(weights + static_cast<size_t>(g) * RECORD4 + STRIP * GROUP4 / 2);
            for (int e = 0; e < EACH; ++e) {
                const int i = p.thread + e * THREADS;
                if (i < rows * TILE_OUTPUTS)
                    sums[e] = fmaf(static_cast<float>(box[sum_at(sums_of_tile + (g - base) * height, i)]), half_to_float(scales[i % TILE_OUTPUTS]), sums[e]);
            }
        }
        block_sync();
    }
    for (int e = 0; e < EACH; ++e) {
        const int i = p.thread + e * THREADS;
        if (i >= rows * TILE_OUTPUTS) break;
        const int row = first + i / TILE_OUTPUTS, n = tile * TILE_OUTPUTS + i % TILE_OUTPUTS;
        put(to, m, row, n, fmaf(sums[e], in.scales[row], m.bias[n]));
    }
}

// out (rows, stride) = bytes @ m + bias, or added to `out` where `add`. Grid (width / 32, tiles of rows).
KERNEL product8(View w, const int* count, LinearView m, float* out, int stride, bool add) {
    const int first = static_cast<int>(block_row()) * TILE_ROWS, left = *count - first;
    if (left <= 0) return;
    SHARED(int, box, PRODUCT_THREADS / 32 * TILE_ROWS * TILE_OUTPUTS);
    product_tile8<PRODUCT_THREADS / 32, TILE_ROWS>(w.bytes, first, left < TILE_ROWS ? left : TILE_ROWS, m, static_cast<int>(block_index()),
                                                   {out, stride, add}, box);
}
KERNEL product4(View w, const int* count, LinearView m, float* out, int stride, bool add) {
    const int first = static_cast<int>(block_row()) * TILE_ROWS, left = *count - first;
    if (left <= 0) return;
    SHARED(int, box, PRODUCT_THREADS / 32 * TILE_ROWS * TILE_OUTPUTS);
    product_tile4<PRODUCT_THREADS / 32, TILE_ROWS>(w.bytes, first, left < TILE_ROWS ? left : TILE_ROWS, m, static_cast<int>(block_index()),
                                                   {out, stride, add}, box);
}

// One output of a float matrix.
DEVICE float product_f32(const LinearView& m, const float* x, int n) {
    float sum = 0;
    for (int i = 0; i < m.k; ++i) sum = fmaf(x[i], m.w[(static_cast<size_t>(n / 64) * m.k + i) * 64 + n % 64], sum);
    return sum + m.bias[n];
}

// Starts of the features in the small table, as Forward::embed has them.
DEVICE void embed_row(const View& w, int row) {
    const PassRow& r = w.rows[row];
    const Token t = r.token;
    const Grammar& g = w.config.grammar;
    const int m = g.map_cells, c = g.cell_size, s = g.side(), d = static_cast<int>(w.config.d_model);
    const int view = 5 + 2 * m, origin = view + 2 * m, fine = origin + 2 * m, direction = fine + 2 * c,
              button = direction + N_DIRECTIONS, scroll = button + g.n_actions / N_DIRECTIONS, reward = scroll + 2 * s, motion = reward + 5;
    const int at_row = t.y / c, at_col = t.x / c;
    int features[7] = {t.kind, 0, 0, origin + at_row, origin + m + at_col, fine + t.y % c, fine + c + t.x % c};
    if (t.cell()) {
        features[1] = 5 + t.a / m;
        features[2] = 5 + m + t.a % m;
        features[3] = view + (t.a / m - at_row + m) % m;
        features[4] = view + m + (t.a % m - at_col + m) % m;
    } else {
        features[1] = t.kind == ACT ? direction + t.a % N_DIRECTIONS : t.kind == SCROLL ? scroll + t.a : reward + t.a;
        features[2] = t.kind == ACT ? button + t.a / N_DIRECTIONS : t.kind == SCROLL ? scroll + s + t.b : reward + 3 + t.b;
    }
    // What repaints has the motion that no update can have, (0, 0); an action has the camera's.
    const int reach = w.config.max_motion, across = 2 * reach + 1, vectors = across * across, motion_of = t.kind == UPD ? g.motion(t) : -1, moved = motion_of < 0 ? vectors / 2 : motion_of % vectors;
    const int thread = static_cast<int>(thread_index());
    for (int i = thread; i < d; i += static_cast<int>(block_size())) {
        float sum = 0;
        const auto add = [&](int feature) { sum += w.small[static_cast<size_t>(feature) * d + i]; };
        for (int f : features) add(f);
        if (reach) {
            add(t.kind == ACT ? scroll + t.b % s : motion + moved % across);
            add(t.kind == ACT ? scroll + s + t.b / s : motion + across + moved / across);
            if (w.config.anchor) add(motion + 2 * across + g.astray(t));
            if (w.config.sprites) add(motion + 2 * across + 2 + (motion_of < 0 ? 0 : motion_of / vectors));
        }
        if (t.cell()) sum += w.code[static_cast<size_t>(g.code(t)) * d + i];
        w.x[row * d + i] = sum;
    }
    if (thread < 64) w.turn[row * 64 + thread] = rotary(w, t, r.position, thread % 32, thread / 32);
    if (thread == 0) w.stage_codes[(r.slot * 2 + r.stage) * w.stage_tokens + r.index] = static_cast<int16_t>(t.cell() ? g.code(t) : -1);
}
KERNEL embed(View w) {
    const int row = static_cast<int>(block_index());
    if (row < *w.n_rows) embed_row(w, row);
}

}  // namespace gamegen::cuda
