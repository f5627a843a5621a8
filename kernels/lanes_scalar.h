// Sixteen lanes in plain C++: the definition that every other lanes_*.h must equal to the bit.
//
//   F  16 floats      I  16 int32      B  64 bytes (16 groups of 4)
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace gamegen {

struct Scalar {
    struct F { float v[16]; };
    struct I { int32_t v[16]; };
    struct B { uint8_t v[64]; };
    static constexpr const char* name = "scalar";
    static constexpr int tile = 2, int8_tile = 2, int4_tile = 2;  // rows that a matrix product takes at once, by its weights
    static constexpr int score_vectors = 1;  // sixteen keys each, that attention compares at once

    template <class Fn> static F each(Fn fn) { F r; for (int i = 0; i < 16; ++i) r.v[i] = fn(i); return r; }

    static F zero() { return each([](int) { return 0.0f; }); }
    static F set1(float x) { return each([=](int) { return x; }); }
    static F load(const float* p) { F r; std::memcpy(r.v, p, 64); return r; }
    static void store(float* p, F x) { std::memcpy(p, x.v, 64); }
    static F load_half(const uint16_t* p) { return each([=](int i) { return half_to_float(p[i]); }); }
    static F round_half(F x) { return each([&](int i) { return half_to_float(float_to_half(x.v[i])); }); }
    static F add(F a, F b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
    static F sub(F a, F b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
    static F mul(F a, F b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
    static F div(F a, F b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
    static F fma(F a, F b, F c) { return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
    static F max(F a, F b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
    static F min(F a, F b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
    // Lane i gets lane i ^ h; h is 1, 2, 4 or 8.
    template <int h> static F swap(F x) { return each([&](int i) { return x.v[i ^ h]; }); }
    static F abs(F a) { return each([&](int i) { return std::fabs(a.v[i]); }); }
    static F round(F a) { return each([&](int i) { return std::nearbyintf(a.v[i]); }); }  // half to even
    // x * 2^n for whole n in -126..127, neither x nor the product subnormal
    static F times_pow2(F x, F n) {
        return each([&](int i) {
            const int32_t bits = (static_cast<int32_t>(n.v[i]) + 127) << 23;
            float r;
            std::memcpy(&r, &bits, 4);
            return x.v[i] * r;
        });
    }
    // y where x > limit, else 0
    static F where_above(F x, float limit, F y) { return each([&](int i) { return x.v[i] > limit ? y.v[i] : 0.0f; }); }

    // Over the lanes: i with i + 8, then i + 4, i + 2, i + 1.
    static float sum(F x) {
        for (int w = 8; w; w /= 2)
            for (int i = 0; i < w; ++i) x.v[i] += x.v[i + w];
        return x.v[0];
    }
    static float largest(F x) {
        for (int w = 8; w; w /= 2)  // as a tree too: +0 and -0 tie, and the second is taken
            for (int i = 0; i < w; ++i) x.v[i] = x.v[i] > x.v[i + w] ? x.v[i] : x.v[i + w];
        return x.v[0];
    }

    static I izero() { return I{}; }
    static I iset1(int32_t x) { I r; for (auto& v : r.v) v = x; return r; }
    static I iload(const int32_t* p) { I r; std::memcpy(r.v, p, 64); return r; }
    static I isub(I a, I b) { for (int i = 0; i < 16; ++i) a.v[i] -= b.v[i]; return a; }
    // The nibble that starts at bit `shift` of each group of four bytes.
    static I nibble(B x, int shift) {
        I r;
        std::memcpy(r.v, x.v, 64);
        for (auto& v : r.v) v = (v >> shift) & 15;
        return r;
    }
    static F to_float(I x) { return each([&](int i) { return static_cast<float>(x.v[i]); }); }
    // Whole numbers in -128..127, written as bytes.
    static void store_s8(int8_t* p, F x) { for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(x.v[i]); }
    // The same + 128.
    static void store_biased(uint8_t* p, F x) { for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(static_cast<int32_t>(x.v[i]) + 128); }

    template <class T> static void pin(T&) {}  // keep in a register, where a compiler needs to be told
    static B bload(const void* p) { B r; std::memcpy(r.v, p, 64); return r; }
    static B bset1(int32_t four) { B r; for (int i = 0; i < 16; ++i) std::memcpy(r.v + 4 * i, &four, 4); return r; }
    static B low_nibbles(B x) { for (auto& b : x.v) b &= 15; return x; }
    static B high_nibbles(B x) { for (auto& b : x.v) b >>= 4; return x; }
    // acc[i] += u[4i] s[4i] + ... + u[4i+3] s[4i+3], u unsigned, s signed, exact
    static I dp4(I acc, B u, B s) {
        for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 4; ++j) acc.v[i] += static_cast<int32_t>(u.v[4 * i + j]) * static_cast<int8_t>(s.v[4 * i + j]);
        return acc;
    }
};

}  // namespace gamegen
