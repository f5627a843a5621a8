// Does an instruction set multiply as plain C++ does? Asked once of those that no machine at hand could run.
#pragma once
#include <cstring>

#include "ops.h"

namespace gamegen {

// A product of 8-bit weights whose rows fill more than a tile and whose k ends within one: the same bits from both?
inline bool multiplies_like(const Ops& tried, const Ops& sure) {
    constexpr size_t ROWS = 21, K = 164;
    uint32_t state = 1;
    const auto draw = [&] { return (state = state * 1664525u + 1013904223u) >> 24; };
    Linear m;
    m.n_out = 2 * BLOCK, m.k = K, m.blocks = 2;
    m.w8.resize(m.width() * K);
    for (auto& w : m.w8) w = static_cast<int8_t>(static_cast<int>(draw()) - 128);
    m.scale.assign(m.width(), 0.01f);
    m.offset.assign(m.width(), 7);
    m.bias.assign(m.width(), 0.5f);
    std::vector<float> x(ROWS * K), expected(ROWS * m.width()), got(ROWS * m.width());
    for (auto& v : x) v = static_cast<float>(draw()) - 127.5f;
    std::vector<uint8_t> bytes(ROWS * scratch_bytes(K));
    sure.linear(m, x.data(), ROWS, K, expected.data(), bytes.data());
    tried.linear(m, x.data(), ROWS, K, got.data(), bytes.data());
    return std::memcmp(expected.data(), got.data(), expected.size() * sizeof(float)) == 0;
}

}  // namespace gamegen
