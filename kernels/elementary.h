// exp, log, log1p, cos and sin of floats, one definition for every machine: C libraries and GPUs round differently; and
// the part of an angle within one turn, exact.
//
// Each of the former is computed in double precision from +, -, * and / alone, which IEEE 754 fixes to the bit, and
// rounded to float once: off by less than ELEMENTARY_ULP units in the last place (lab/elementary.cpp looks at every
// float). Compilers must not fuse products with sums here: -ffp-contract=off, and nvcc -fmad=false. Not for loops that
// cost time; those use the lanes' own exponential (ops_impl.h).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hd.h"

namespace gamegen {

constexpr double ELEMENTARY_ULP = 0.5001;

// x to the nearest whole number, |x| < 2^51: adding 1.5 * 2^52 leaves no bits behind the point.
GAMEGEN_HD static inline double nearest(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

constexpr double TAU = 6.283185307179586476925;

// fmod(angle, TAU) for 0 <= angle < 2^45, all its bits. The nearest number of turns is at most one more than the whole
// ones. What is left after them is below 4 and a multiple of a unit in the last place of TAU or of the angle, so it fits
// a double, and a fused product and sum, which rounds once, does not round it at all; nor is it rounded by a turn more.
GAMEGEN_HD static inline double within_turn(double angle) {
    const double left = fma(-nearest(angle * (1.0 / TAU)), TAU, angle);
    return left < 0.0 ? left + TAU : left;
}

GAMEGEN_HD static inline float exp_of(float value) {
    if (!(value == value)) return value;
    double x = static_cast<double>(value);
    x = x < -110.0 ? -110.0 : x > 90.0 ? 90.0 : x;  // beyond: zero and infinity, as floats
    const double n = nearest(x * 0x1.71547652b82fep0);
    // n * ln 2 in two parts, the first of which is exact.
    const double r = (x - n * 0x1.62e42fefap-1) - n * 0x1.cf79abc9e3b3ap-40;
    double sum = 1.0 / 39916800.0;  // Taylor, |r| < 0.35: the next term is below 2^-46
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, 8);
    return static_cast<float>(sum * power);
}

// 2 atanh(s), |s| < 0.172: log of (1 + s) / (1 - s).
GAMEGEN_HD static inline double twice_atanh(double s) {
    const double q = s * s;
    double sum = 1.0 / 17.0;  // the next term is below 2^-49 of the whole
    sum = sum * q + 1.0 / 15.0;
    sum = sum * q + 1.0 / 13.0;
    sum = sum * q + 1.0 / 11.0;
    sum = sum * q + 1.0 / 9.0;
    sum = sum * q + 1.0 / 7.0;
    sum = sum * q + 1.0 / 5.0;
    sum = sum * q + 1.0 / 3.0;
    sum = sum * q + 1.0;
    return 2.0 * s * sum;
}
// log of a normal, positive, finite double.
GAMEGEN_HD static inline double log_of_normal(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    // A power of two apart, between sqrt(1/2) and sqrt(2).
    const int64_t n = static_cast<int64_t>(bits - 0x3FE6A09E667F3BCDu) >> 52;
    bits -= static_cast<uint64_t>(n) << 52;
    std::memcpy(&x, &bits, 8);
    return static_cast<double>(n) * 0x1.62e42fefa39efp-1 + twice_atanh((x - 1.0) / (x + 1.0));
}
// NaN below zero.
GAMEGEN_HD static inline float log_of(float x) {
    if (x == 0) return -__builtin_inff();
    if (!(x > 0)) return __builtin_nanf("");
    if (x > 3.4028234e38f) return x;
    return static_cast<float>(log_of_normal(static_cast<double>(x)));
}
// log(1 + x); NaN below -1.
GAMEGEN_HD static inline float log1p_of(float x) {
    if (x == -1) return -__builtin_inff();
    if (!(x > -1)) return __builtin_nanf("");
    if (x > 3.4028234e38f || x == 0) return x;
    const double v = static_cast<double>(x);
    return static_cast<float>(v > -0.25 && v < 0.4 ? twice_atanh(v / (2.0 + v)) : log_of_normal(1.0 + v));
}

// sin(x) and cos(x), |x| <= 100; a rotary angle is below 2 pi.
GAMEGEN_HD static inline float sine_or_cosine(float value, int quarter) {
    const double x = static_cast<double>(value), n = nearest(x * 0x1.45f306dc9c883p-1);
    // n quarter turns off, in two parts, the first of which is exact.
    const double r = (x - n * 0x1.921fb544p0) - n * 0x1.0b4611a626331p-34, q = r * r;
    quarter += static_cast<int>(n);
    double sum;  // Taylor, |r| < 0.79: the next terms are below 2^-46
    if (quarter & 1) {
        sum = -1.0 / 87178291200.0;
        sum = sum * q + 1.0 / 479001600.0;
        sum = sum * q - 1.0 / 3628800.0;
        sum = sum * q + 1.0 / 40320.0;
        sum = sum * q - 1.0 / 720.0;
        sum = sum * q + 1.0 / 24.0;
        sum = sum * q - 0.5;
        sum = sum * q + 1.0;
    } else {
        sum = 1.0 / 6227020800.0;
        sum = sum * q - 1.0 / 39916800.0;
        sum = sum * q + 1.0 / 362880.0;
        sum = sum * q - 1.0 / 5040.0;
        sum = sum * q + 1.0 / 120.0;
        sum = sum * q - 1.0 / 6.0;
        sum = (sum * q) * r + r;
    }
    return static_cast<float>(quarter & 2 ? -sum : sum);
}
GAMEGEN_HD static inline float sin_of(float x) { return sine_or_cosine(x, 0); }
GAMEGEN_HD static inline float cos_of(float x) { return sine_or_cosine(x, 1); }

}  // namespace gamegen
