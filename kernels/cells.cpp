#include "cells.h"

#include <algorithm>

namespace gamegen {
namespace {
constexpr size_t AT_ONCE = 16;  // rows per product: the matrices are read once for all of them
}

CellDecoder::CellDecoder(const Tensors& tensors, size_t cell_size_, size_t n_codes_, size_t code_dim_, size_t d_hidden_)
    : cell_size(cell_size_), n_codes(n_codes_), code_dim(code_dim_), d_hidden(d_hidden_),
      codebook(read_tensor(tensors, "codebook", {n_codes, code_dim})),
      from_code(read_linear(tensors, "from_code", values(), code_dim)),
      first(read_linear(tensors, "decoder.0", d_hidden, 9 * code_dim)),
      second(read_linear(tensors, "decoder.2", d_hidden, d_hidden)),
      last(read_linear(tensors, "decoder.4", values(), d_hidden)) {}

void CellDecoder::decode(const Ops& ops, const int32_t* codes, size_t n, uint8_t* patches) const {
    const size_t k = 9 * code_dim, width = first.width();
    std::vector<float> latents(AT_ONCE * k), a(AT_ONCE * width), b(AT_ONCE * width), own(AT_ONCE * from_code.width()),
        around(AT_ONCE * last.width());
    for (size_t start = 0; start < n; start += AT_ONCE, codes += 9 * AT_ONCE) {
        const size_t rows = n - start < AT_ONCE ? n - start : AT_ONCE;
        for (size_t i = 0; i < 9 * rows; ++i)
            std::copy_n(codebook.begin() + codes[i] * static_cast<int64_t>(code_dim), code_dim, latents.begin() + static_cast<int64_t>(i * code_dim));
        ops.linear(first, latents.data(), rows, k, a.data(), nullptr);
        ops.silu(a.data(), rows * width);
        ops.linear(second, a.data(), rows, width, b.data(), nullptr);
        ops.silu(b.data(), rows * width);
        ops.linear(last, b.data(), rows, width, around.data(), nullptr);
        ops.linear(from_code, latents.data() + 4 * code_dim, rows, k, own.data(), nullptr);
        for (size_t r = 0; r < rows; ++r)
            for (size_t i = 0; i < values(); ++i) *patches++ = pixel(own[r * from_code.width() + i] + around[r * last.width() + i]);
    }
}

}  // namespace gamegen
