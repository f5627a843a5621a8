// From codes to pixels: the tokenizer's decoder (gamegen_env/tokenizer.py) with every sum in one order, so that a game
// looks the same, to the last pixel, on every CPU and GPU. A library's matrix product has an order of its own, and one
// pixel value in a few thousand then rounds to the other side.
#pragma once
#include <cmath>

#include "hd.h"
#include "model.h"

namespace gamegen {

// A number in -1..1 as a byte, rounded half to even.
GAMEGEN_HD inline uint8_t pixel(float x) {
    const float level = nearbyintf((x + 1.0f) * 127.5f);
    return static_cast<uint8_t>(level < 0.0f ? 0.0f : level > 255.0f ? 255.0f : level);
}

struct CellDecoder {
    size_t cell_size, n_codes, code_dim, d_hidden;
    std::vector<float> codebook;  // (n_codes, code_dim)
    Linear from_code, first, second, last;

    // Throws std::invalid_argument naming a tensor that is missing or of a wrong shape.
    CellDecoder(const Tensors& tensors, size_t cell_size, size_t n_codes, size_t code_dim, size_t d_hidden);
    size_t values() const { return cell_size * cell_size * 3; }  // of a cell: pixels and colours

    // patches (n, cell_size, cell_size, 3) of the middle of codes (n, 3, 3), all below n_codes.
    void decode(const Ops& ops, const int32_t* codes, size_t n, uint8_t* patches) const;
};

}  // namespace gamegen
