// A whole step of one slot in one kernel: blocks that stay, walk through the operations of a pass in phases, and wait for
// each other after every phase. A pass has 5 phases per layer and 6 besides (`gamegen plan` counts the grid_syncs below).
//
// What a kernel of its own does elsewhere is done here by every block that needs it, for itself: norms, gates and the
// bytes that a product reads. Blocks without work in a phase bring what later ones read into the L2 cache.
//
// Much is a DEVICE_CALL for its registers: what a function makes of thread numbers would, inline, be worked out once
// before the loops and kept, or spilled, for as long as they last.
#pragma once
#include "loop.cuh"
#include "together.h"

namespace gamegen::cuda {

constexpr int STAY_THREADS = 512, STAY_WARPS = STAY_THREADS / 32;
constexpr int STAY_ROWS = 2;               // of a pass: END of the step before, and the last token
constexpr size_t AHEAD = size_t{4} << 20;  // bytes, some of what memory delivers while a few blocks attend

DEVICE int own_index() { return static_cast<int>(block_index()); }
DEVICE bool leads() { return block_index() == 0; }

// unit(i) by a whole block, for every i < n that is this block's.
template <class Fn> DEVICE void share_out(int n, Fn unit) {
    for (int i = own_index(); i < n; i += static_cast<int>(grid_size())) {
        unit(i);
        block_sync();
    }
}
// Blocks that have none of `units` fetch.
DEVICE_CALL void fetch_ahead(int units, const void* from, size_t bytes) {
    const int number = own_index() - units, idle = static_cast<int>(grid_size()) - units;
    constexpr size_t SECTOR = 32;
    for (size_t at = (static_cast<size_t>(number) * STAY_THREADS + thread_index()) * SECTOR; number >= 0 && at < bytes;
         at += static_cast<size_t>(idle) * STAY_THREADS * SECTOR)
        prefetch(static_cast<const uint8_t*>(from) + at);
}
template <int BITS> DEVICE void fetch_ahead(int units, const LinearView& m) {
    const size_t bytes = static_cast<size_t>(m.width) * m.quads * 4 * BITS / 8;
    fetch_ahead(units, BITS == 4 ? static_cast<const void*>(m.w4) : m.w8, bytes < AHEAD ? bytes : AHEAD);
}

DEVICE ByteRows own_bytes(const Stay& s) {
    const int first = own_index() * STAY_ROWS;
    return {s.bytes.bytes + first * s.bytes.stride, s.bytes.scales + first, s.bytes.stride};
}
// Rows (stride apart) on their way into a product, in every block that has one of `units`; `k`: numbers of a row.
struct Rows {
    const float* x;
    int n, stride, k;
};
DEVICE_CALL void stay_quantise(const Stay& s, int units, Rows rows) {
    if (own_index() >= units) return;
    for (int row = 0; row < rows.n; ++row) quantise_row(own_bytes(s), row, rows.k, [&](int i) { return rows.x[row * rows.stride + i]; });
    block_sync();
}
// As `normalise`; `out` is written by block 0.
DEVICE_CALL void stay_normalise(const Stay& s, int units, Rows rows, const float* add, const int* which, const float* gain, float* out) {
    if (own_index() >= units) return;
    for (int row = 0; row < rows.n; ++row)
        normalise_row(own_bytes(s), row, rows.x + row * rows.stride, add ? add + which[row] * rows.k : add, gain, rows.k,
                      out && leads() ? out + row * rows.k : nullptr);
    block_sync();
}
// As `gate`.
DEVICE_CALL void stay_gate(const Stay& s, int units, Rows rows, int up_at) {
    if (own_index() >= units) return;
    for (int row = 0; row < rows.n; ++row) gate_row(own_bytes(s), row, rows.x + row * rows.stride, up_at, rows.k);
    block_sync();
}

// The block's tiles of its own bytes from `tile` on, WARPS warps to each; weights of BITS.
template <int BITS, int WARPS>
DEVICE_CALL void stay_tile(const Stay& s, int rows, const LinearView& m, int tile, float* out, int stride, bool add, SHARED_ARRAY(int, box)) {
    if constexpr (BITS == 4) product_tile4<WARPS, FEW_ROWS>(own_bytes(s), 0, rows, m, tile, {out, stride, add}, box);
    else product_tile8<WARPS, FEW_ROWS>(own_bytes(s), 0, rows, m, tile, {out, stride, add}, box);
}
DEVICE int tiles(const LinearView& m) { return m.width / TILE_OUTPUTS; }
// All tiles of a product, of weights of BITS; or of several with 8 bits, of the same rows.
template <int BITS> DEVICE void stay_product(const Stay& s, int rows, const LinearView& m, float* out, int stride, bool add, SHARED_ARRAY(int, box)) {
    share_out(tiles(m), [&](int tile) { stay_tile<BITS, STAY_WARPS>(s, rows, m, tile, out, stride, add, box); });
}
struct Product {
    const LinearView& m;
    float* out;
};
template <class... More> DEVICE int tiles(const Product& product, const More&... more) {
    if constexpr (sizeof...(more) > 0) return tiles(product.m) + tiles(more...);
    else return tiles(product.m);
}
template <class... More>
DEVICE void stay_tile_of(const Stay& s, int rows, int tile, SHARED_ARRAY(int, box), const Product& product, const More&... more) {
    if (tile < tiles(product.m)) return stay_tile<8, STAY_WARPS>(s, rows, product.m, tile, product.out, product.m.width, false, box);
    if constexpr (sizeof...(more) > 0) stay_tile_of(s, rows, tile - tiles(product.m), box, more...);
}
template <class... All> DEVICE void stay_products(const Stay& s, int rows, SHARED_ARRAY(int, box), const All&... products) {
    share_out(tiles(products...), [&](int tile) { stay_tile_of(s, rows, tile, box, products...); });
}

// A warp for each row.
DEVICE_CALL void stay_turn(const View& w, int rows, int head, const LayerView& l, int layer, int width) {
    const int row = static_cast<int>(thread_index()) / 32;
    if (row < rows) turn_head(w, row, head, l.q_norm, l.k_norm, layer, width, thread_index() % 32 < 16);
}
DEVICE_CALL void stay_attend(const View& w, int row, int head, int layer, int width) {
    attend_heads<1, STAY_THREADS>(w, row, head, layer, width);
}
template <int BITS> DEVICE void stay_forward(const View& w, const Stay& s, SHARED_ARRAY(int, box)) {
    const Config& c = w.config;
    const int rows = *w.n_rows, d = static_cast<int>(c.d_model), ff = static_cast<int>(c.d_ff), n_layers = static_cast<int>(c.n_layers);
    const int n_heads = static_cast<int>(c.n_heads), n_kv = static_cast<int>(c.n_kv_heads), spread = n_heads * static_cast<int>(HEAD);
    const int heads = n_heads + 2 * n_kv, width = heads * static_cast<int>(HEAD);
    const Rows x{w.x, rows, d, d};
    for (int i = 0; i < n_layers; ++i) {
        const LayerView& l = s.layers[i];
        // A head is two tiles, then turned by a warp for each row.
        stay_normalise(s, heads, x, nullptr, nullptr, l.attention_norm, nullptr);
        share_out(heads, [&](int head) {
            stay_tile<BITS, STAY_WARPS / 2>(s, rows, l.qkv, 2 * head, w.heads, width, false, box);
            block_sync();
            stay_turn(w, rows, head, l, i, width);
        });
        const size_t ring = static_cast<size_t>(n_kv) * w.places * 32, at = (static_cast<size_t>(w.rows[0].slot) * n_layers + i) * ring;
        fetch_ahead(heads, w.k + at, ring);
        fetch_ahead(heads, w.v + at, ring);
        grid_sync(s.barrier);
        share_out(rows * n_heads, [&](int unit) { stay_attend(w, unit / n_heads, unit % n_heads, i, width); });
        fetch_ahead<BITS>(rows * n_heads, l.out);
        fetch_ahead<BITS>(rows * n_heads, l.gate_up);
        grid_sync(s.barrier);
        stay_quantise(s, tiles(l.out), {w.attended, rows, spread, spread});
        stay_product<BITS>(s, rows, l.out, w.x, d, true, box);
        grid_sync(s.barrier);
        stay_normalise(s, tiles(l.gate_up), x, nullptr, nullptr, l.ff_norm, nullptr);
        stay_product<BITS>(s, rows, l.gate_up, w.wide, l.gate_up.width, false, box);
        grid_sync(s.barrier);
        stay_gate(s, tiles(l.down), {w.wide, rows, l.gate_up.width, ff}, ff);
        stay_product<BITS>(s, rows, l.down, w.x, d, true, box);
        if (i + 1 < n_layers) fetch_ahead<BITS>(tiles(l.down), (&l)[1].qkv);
        grid_sync(s.barrier);
    }
}

// The events of the pass and, where one is an update, what its code is drawn from. By one block.
DEVICE_CALL void stay_choose(const View& w) {
    for (int row = 0; row < *w.n_rows; ++row) {
        if (w.config.ballistics && w.rows[row].decides) add_paths_row<STAY_THREADS>(w, row);
        block_sync();
        draw_event_row(w, row);
        block_sync();
    }
    if (thread_index() < 32) choose_rows(w);
    block_sync();
    for (int number = 0; number < *w.n_code_rows; ++number) describe_row(w, number);
}
DEVICE_CALL void stay_aim(const View& w) {
    for (int row = 0; row < *w.n_rows; ++row) {
        remember_row(w, row);
        if (w.rows[row].decides) aim_row(w, row);
    }
}
DEVICE_CALL void stay_draw(const View& w) {
    for (int number = 0; number < *w.n_code_rows; ++number) draw_code_row(w, number);
}
DEVICE void stay_decide(const View& w, const Stay& s, SHARED_ARRAY(int, box)) {
    const Config& c = w.config;
    const int rows = *w.n_rows, d = static_cast<int>(c.d_model);
    const Product events{w.event_head, w.events}, queries{w.ballistic_query, w.queries};
    stay_normalise(s, tiles(events, queries), {w.x, rows, d, d}, nullptr, nullptr, w.norm, w.hidden);
    stay_products(s, rows, box, events, queries);
    if (c.ballistics && leads()) stay_aim(w);
    grid_sync(s.barrier);
    if (leads()) stay_choose(w);
    grid_sync(s.barrier);
    const int some = *w.n_code_rows;
    if (some == 0) return;
    stay_quantise(s, tiles(w.code_in), {w.described, some, 2 * d, 2 * d});
    stay_product<8>(s, some, w.code_in, w.inner, w.code_in.width, false, box);
    grid_sync(s.barrier);
    stay_gate(s, tiles(w.code_out), {w.inner, some, w.code_in.width, 2 * d}, 0);
    stay_product<8>(s, some, w.code_out, w.query, w.code_out.width, false, box);
    grid_sync(s.barrier);
    const Product codes{w.code_logits, w.code_scores}, turned{w.pointer_query, w.turned}, moves{w.motion_head, w.moves};
    stay_normalise(s, tiles(codes, turned, moves), {w.query, some, w.code_out.width, d}, w.hidden, w.code_rows, w.code_norm, nullptr);
    stay_products(s, some, box, codes, turned, moves);
    grid_sync(s.barrier);
    if (leads()) stay_draw(w);
}
// The rows of the next pass. By one block.
DEVICE_CALL void stay_begin(const View& w, bool first) {
    block_sync();
    if (thread_index() < 32) next_rows(w, Condition{}, first);
    block_sync();
    for (int row = 0; row < *w.n_rows; ++row) embed_row(w, row);
}

// BITS: of the layers' weights; those of the heads have 8.
template <int BITS> KERNEL_OF(STAY_THREADS) stay_for_step(GIVEN View w, GIVEN Stay s) {
    SHARED(int, box, STAY_WARPS * FEW_ROWS * TILE_OUTPUTS);
    if (leads()) stay_begin(w, true);
    grid_sync(s.barrier);
    while (*w.n_playing > 0) {
        stay_forward<BITS>(w, s, box);
        stay_decide(w, s, box);
        if (leads()) stay_begin(w, false);
        grid_sync(s.barrier);
    }
    share_out(w.layer_heads, [&](int layer_head) { commit_head(w, w.asked[0], layer_head); });
    grid_sync(s.barrier);
    if (!leads()) return;
    if (thread_index() < 32) answer_all(w);
    block_sync();
    finish_slot(w, 0, true);
}

}  // namespace gamegen::cuda
