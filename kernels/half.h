// IEEE half precision in integers: the same bits with and without hardware for it.
#pragma once
#include <cstdint>
#include <cstring>

#include "hd.h"

namespace gamegen {

GAMEGEN_HD static inline float half_to_float(uint16_t h) {
#if defined(__CUDA_ARCH__)  // one instruction, exact
    float converted;
    asm("cvt.f32.f16 %0, %1;" : "=f"(converted) : "h"(h));
    return converted;
#else
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7F800000 | (mantissa << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {  // zero or subnormal: mantissa * 2^-24, exact
        const float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
        std::memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float r;
    std::memcpy(&r, &bits, 4);
    return r;
#endif
}

// Round to nearest, half to even; beyond the range: infinity.
GAMEGEN_HD static inline uint16_t float_to_half(float x) {
#if defined(__CUDA_ARCH__)  // the same rounding; not a number becomes another one
    uint16_t converted;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(converted) : "f"(x));
    return converted;
#else
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = (bits >> 16) & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
    if (bits >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
    if (bits < 0x38800000) {  // subnormal: let an addition do the rounding
        float value;
        std::memcpy(&value, &bits, 4);
        value += 0.5f;
        uint32_t shifted;
        std::memcpy(&shifted, &value, 4);
        return static_cast<uint16_t>(sign | (shifted - 0x3F000000));
    }
    const uint32_t odd = (bits >> 13) & 1;
    return static_cast<uint16_t>(sign | ((bits - 0x38000000 + 0xFFF + odd) >> 13));
#endif
}

}  // namespace gamegen
