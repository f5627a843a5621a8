// Sixteen lanes in NEON (AArch64): four quarters. One text, three builds: plain ARMv8, with dot products (DotProd),
// with dot products of unsigned by signed bytes (I8MM).
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace gamegen {

enum class Dot { NONE, SIGNED, MIXED };

template <Dot dot> struct Neon {
    struct F { float32x4_t q[4]; };
    struct I { int32x4_t q[4]; };
    struct B { uint8x16_t q[4]; };
    static constexpr const char* name = dot == Dot::NONE ? "neon" : dot == Dot::SIGNED ? "neon_dot" : "neon_i8mm";
    static constexpr int tile = 2, int8_tile = 2, int4_tile = 2;
    static constexpr int score_vectors = 1;

    template <class R, class Fn> static R each(Fn fn) {
        R r;
        for (int i = 0; i < 4; ++i) r.q[i] = fn(i);
        return r;
    }

    static F zero() { return set1(0); }
    static F set1(float x) { return each<F>([=](int) { return vdupq_n_f32(x); }); }
    static F load(const float* p) { return each<F>([=](int i) { return vld1q_f32(p + 4 * i); }); }
    static void store(float* p, F x) { for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.q[i]); }
    static F load_half(const uint16_t* p) {
        return each<F>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
    }
    static F round_half(F x) { return each<F>([&](int i) { return vcvt_f32_f16(vcvt_f16_f32(x.q[i])); }); }
    static F add(F a, F b) { return each<F>([&](int i) { return vaddq_f32(a.q[i], b.q[i]); }); }
    static F sub(F a, F b) { return each<F>([&](int i) { return vsubq_f32(a.q[i], b.q[i]); }); }
    static F mul(F a, F b) { return each<F>([&](int i) { return vmulq_f32(a.q[i], b.q[i]); }); }
    static F div(F a, F b) { return each<F>([&](int i) { return vdivq_f32(a.q[i], b.q[i]); }); }
    static F fma(F a, F b, F c) { return each<F>([&](int i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); }); }
    // As the other lanes: the second where they do not compare.
    static F max(F a, F b) { return each<F>([&](int i) { return vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); }); }
    static F min(F a, F b) { return each<F>([&](int i) { return vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]); }); }
    template <int h> static F swap(F x) {
        if constexpr (h >= 4) return each<F>([&](int i) { return x.q[i ^ (h / 4)]; });
        if constexpr (h == 2) return each<F>([&](int i) { return vextq_f32(x.q[i], x.q[i], 2); });
        return each<F>([&](int i) { return vrev64q_f32(x.q[i]); });
    }
    static F abs(F a) { return each<F>([&](int i) { return vabsq_f32(a.q[i]); }); }
    static F round(F a) { return each<F>([&](int i) { return vrndnq_f32(a.q[i]); }); }
    static F times_pow2(F x, F n) {
        return each<F>([&](int i) {
            const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n.q[i]), vdupq_n_s32(127));
            return vmulq_f32(x.q[i], vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
        });
    }
    static F where_above(F x, float limit, F y) {
        return each<F>([&](int i) {
            const uint32x4_t above = vcgtq_f32(x.q[i], vdupq_n_f32(limit));
            return vreinterpretq_f32_u32(vandq_u32(above, vreinterpretq_u32_f32(y.q[i])));
        });
    }
    static float sum(F x) {
        const float32x4_t four = vaddq_f32(vaddq_f32(x.q[0], x.q[2]), vaddq_f32(x.q[1], x.q[3]));
        const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
    static float largest(F x) {
        float v[16];
        store(v, x);
        for (int w = 8; w; w /= 2)
            for (int i = 0; i < w; ++i) v[i] = v[i] > v[i + w] ? v[i] : v[i + w];
        return v[0];
    }

    static I izero() { return each<I>([](int) { return vdupq_n_s32(0); }); }
    static I iset1(int32_t x) { return each<I>([=](int) { return vdupq_n_s32(x); }); }
    static I iload(const int32_t* p) { return each<I>([=](int i) { return vld1q_s32(p + 4 * i); }); }
    static I isub(I a, I b) { return each<I>([&](int i) { return vsubq_s32(a.q[i], b.q[i]); }); }
    static I nibble(B x, int shift) {
        return each<I>([&](int i) {
            const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(x.q[i]), vdupq_n_s32(-shift));
            return vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32(15)));
        });
    }
    static F to_float(I x) { return each<F>([&](int i) { return vcvtq_f32_s32(x.q[i]); }); }
    static int8x16_t as_s8(F x) {
        const auto words = [&](int i) {
            return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.q[i])), vqmovn_s32(vcvtnq_s32_f32(x.q[i + 1])));
        };
        return vcombine_s8(vqmovn_s16(words(0)), vqmovn_s16(words(2)));
    }
    static void store_s8(int8_t* p, F x) { vst1q_s8(p, as_s8(x)); }
    static void store_biased(uint8_t* p, F x) { vst1q_u8(p, veorq_u8(vreinterpretq_u8_s8(as_s8(x)), vdupq_n_u8(0x80))); }

    template <class T> static void pin(T&) {}
    static B bload(const void* p) {
        const auto* bytes = static_cast<const uint8_t*>(p);
        return each<B>([=](int i) { return vld1q_u8(bytes + 16 * i); });
    }
    static B bset1(int32_t four) { return each<B>([=](int) { return vreinterpretq_u8_s32(vdupq_n_s32(four)); }); }
    static B low_nibbles(B x) { return each<B>([&](int i) { return vandq_u8(x.q[i], vdupq_n_u8(15)); }); }
    static B high_nibbles(B x) { return each<B>([&](int i) { return vshrq_n_u8(x.q[i], 4); }); }
    static int32x4_t dp4_1(int32x4_t acc, uint8x16_t u, int8x16_t s) {
        if constexpr (dot == Dot::MIXED) {
#ifdef __ARM_FEATURE_MATMUL_INT8
            return vusdotq_s32(acc, u, s);
#endif
        } else if constexpr (dot == Dot::SIGNED) {
#ifdef __ARM_FEATURE_DOTPROD
            // u s = (u - 128) s - (-128) s
            const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(u, vdupq_n_u8(0x80)));
            return vsubq_s32(vdotq_s32(acc, centred, s), vdotq_s32(vdupq_n_s32(0), s, vdupq_n_s8(-128)));
#endif
        } else {
            // A product of two bytes fits 16 bits, a sum of two does not.
            const int16x8_t low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(u))), vmovl_s8(vget_low_s8(s)));
            const int16x8_t high = vmulq_s16(vreinterpretq_s16_u16(vmovl_high_u8(u)), vmovl_high_s8(s));
            return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
        }
    }
    static I dp4(I acc, B u, B s) {
        return each<I>([&](int i) { return dp4_1(acc.q[i], u.q[i], vreinterpretq_s8_u8(s.q[i])); });
    }
};

}  // namespace gamegen
