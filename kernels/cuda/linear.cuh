// Matrix products in 8 bits, and what stands before and behind them: norms, gates, embedding.
#pragma once
#include "lanes.cuh"

namespace gamegen::cuda {

// Half a warp turns a row, whose elements its lanes wrote themselves, into bytes; `k` numbers, padded to 4.
DEVICE void quantise_row(const float* x, int k, int8_t* bytes, float* scale, bool write) {
    float top = 0;
    for (int i = lane16(); i < k; i += 16) {
        const float a = fabs_of(x[i]);
        top = top > a ? top : a;
    }
    const float largest = largest16(top), by = largest > FAINT ? 127.0f / largest : 0.0f;
    if (!write) return;
    for (int i = lane16(); i < (k + 3) / 4 * 4; i += 16)
        bytes[i] = i < k ? static_cast<int8_t>(nearbyintf(x[i] * by)) : int8_t{0};
    if (lane16() == 0) *scale = largest / 127.0f;
}
DEVICE bool skipped(const View& w, int row, const int* wanted) { return row >= *w.n_rows || (wanted && !wanted[row]); }

// Kernels of one row: 32 threads, of which the upper half repeats the lower one's numbers and writes nothing.
KERNEL quantise(View w, const int* wanted, const float* x, int stride, int k) {
    const int row = static_cast<int>(block_index());
    if (skipped(w, row, wanted)) return;
    quantise_row(x + row * stride, k, w.bytes + row * w.bytes_stride, w.scales_of_rows + row, thread_index() < 16);
}
// x += add first, if there is any; then out = norm(x), as floats and bytes.
KERNEL normalise(View w, const int* wanted, float* x, int x_stride, const float* add, int add_stride, const float* gain, float* out) {
    const int row = static_cast<int>(block_index()), d = static_cast<int>(w.config.d_model);
    if (skipped(w, row, wanted)) return;
    x += row * x_stride;
    out += row * d;
    const bool write = thread_index() < 16;
    if (add && write)
        for (int i = lane16(); i < d; i += 16) x[i] += add[row * add_stride + i];
    warp_sync();
    float squares = 0;
    for (int i = lane16(); i < d; i += 16) squares = fmaf(x[i], x[i], squares);
    const float by = 1.0f / sqrtf(sum16(squares) / static_cast<float>(d) + 1.1920929e-7f);
    if (write)
        for (int i = lane16(); i < d; i += 16) out[i] = x[i] * by * gain[i];
    warp_sync();
    quantise_row(out, d, w.bytes + row * w.bytes_stride, w.scales_of_rows + row, write);
}
// out (n) = silu(gate) * up, or silu(gate) where `up` is null; as floats and bytes.
KERNEL gate(View w, const int* wanted, const float* x, int stride, int up_at, int n, float* out) {
    const int row = static_cast<int>(block_index());
    if (skipped(w, row, wanted)) return;
    x += row * stride;
    out += row * n;
    if (thread_index() < 16)
        for (int i = lane16(); i < n; i += 16) out[i] = up_at ? silu(x[i]) * x[up_at + i] : silu(x[i]);
    warp_sync();
    quantise_row(out, n, w.bytes + row * w.bytes_stride, w.scales_of_rows + row, thread_index() < 16);
}
// out (rows, m.width) = bytes @ m + bias, or added to `out` (rows, stride) where `add`. 64 threads: one block of outputs.
KERNEL product(View w, const int* wanted, LinearView m, float* out, int stride, bool add) {
    const int row = static_cast<int>(block_row()), quads = (m.k + 3) / 4, n = static_cast<int>(block_index() * 64 + thread_index());
    if (skipped(w, row, wanted)) return;
    const auto* x = reinterpret_cast<const int*>(w.bytes + row * w.bytes_stride);
    const auto* weights = reinterpret_cast<const int*>(m.w8) + static_cast<size_t>(block_index()) * quads * 64 + thread_index();
    int sum = 0;
    for (int q = 0; q < quads; ++q) sum = dp4a(x[q], weights[q * 64], sum);
    const float y = fmaf(static_cast<float>(sum), m.scale[n] * w.scales_of_rows[row], m.bias[n]);
    if (!add) out[row * stride + n] = y;
    else if (n < m.n_out) out[row * stride + n] += y;
}
// One output of a float matrix.
DEVICE float product_f32(const LinearView& m, const float* x, int n) {
    float sum = 0;
    for (int i = 0; i < m.k; ++i) sum = fmaf(x[i], m.w[(static_cast<size_t>(n / 64) * m.k + i) * 64 + n % 64], sum);
    return sum + m.bias[n];
}

// Starts of the features in the small table, as Forward::embed has them.
KERNEL embed(View w) {
    const int row = static_cast<int>(block_index());
    if (row >= *w.n_rows) return;
    const PassRow& r = w.rows[row];
    const Token t = r.token;
    const Grammar& g = w.config.grammar;
    const int m = g.map_cells, c = g.cell_size, s = g.side(), d = static_cast<int>(w.config.d_model);
    const int view = 5 + 2 * m, origin = view + 2 * m, fine = origin + 2 * m, direction = fine + 2 * c,
              button = direction + N_DIRECTIONS, scroll = button + g.n_actions / N_DIRECTIONS, reward = scroll + 2 * s;
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
    const int thread = static_cast<int>(thread_index());
    for (int i = thread; i < d; i += static_cast<int>(block_size())) {
        float sum = 0;
        for (int f : features) sum += w.small[static_cast<size_t>(f) * d + i];
        if (t.cell()) sum += w.code[static_cast<size_t>(t.b) * d + i];
        w.x[row * d + i] = sum;
    }
    if (thread < 64) w.turn[row * 64 + thread] = rotary(w, t, r.position, thread % 32, thread / 32);
    if (thread == 0) w.stage_codes[(r.slot * 2 + r.stage) * w.stage_tokens + r.index] = static_cast<int16_t>(t.cell() ? t.b : -1);
}

}  // namespace gamegen::cuda
