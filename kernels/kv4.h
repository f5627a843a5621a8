// The 4-bit KV format (README.md draws it): one group of 64 values to and from nibbles.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "half.h"

namespace gamegen {

struct Group4 {
    uint8_t nibbles[32];  // byte i: value i low, value i + 32 high
    uint16_t scale, minimum;  // halves
};

// values: 64 floats, finite, below 65504 in magnitude.
GAMEGEN_HD inline Group4 quantise4(const float* values) {
    Group4 g;
    float low = values[0], high = values[0];
    for (size_t i = 1; i < 64; ++i) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    g.minimum = float_to_half(low);
    const float minimum = half_to_float(g.minimum);
    g.scale = float_to_half((high - minimum) / 15.0f);
    // A constant group has scale 0: every nibble is 0 and the minimum is the value.
    const float smallest_normal = 6.103515625e-5f;
    const float scale = half_to_float(g.scale), step = scale > smallest_normal ? scale : smallest_normal;
    const auto level = [&](float v) {
        const float q = std::nearbyint((v - minimum) / step);
        return static_cast<uint8_t>(q < 0 ? 0 : q > 15 ? 15 : q);
    };
    for (size_t i = 0; i < 32; ++i) g.nibbles[i] = static_cast<uint8_t>(level(values[i]) | level(values[i + 32]) << 4);
    return g;
}

}  // namespace gamegen
