// Sixteen lanes in AVX-512 (F, BW, VL, VNNI).
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gamegen {

struct Avx512 {
    using F = __m512;
    using I = __m512i;
    using B = __m512i;
    static constexpr const char* name = "avx512";
    static constexpr int tile = 6;
    static constexpr int int8_tile = 6, int4_tile = 4;
    static constexpr int score_vectors = 2;

    static F zero() { return _mm512_setzero_ps(); }
    static F set1(float x) { return _mm512_set1_ps(x); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F load_half(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static F round_half(F x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    template <int h> static F swap(F x) {
        constexpr int upper = h == 8 || h == 2 ? 0x4E : 0xB1;
        if constexpr (h >= 4) return _mm512_shuffle_f32x4(x, x, upper);
        return _mm512_permute_ps(x, upper);
    }
    static F abs(F a) { return _mm512_abs_ps(a); }
    static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F times_pow2(F x, F n) { return _mm512_scalef_ps(x, n); }
    static F where_above(F x, float limit, F y) {
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GT_OQ), y);
    }

    static __m256 low8(F x) { return _mm512_castps512_ps256(x); }
    static __m256 high8(F x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)); }
    static float sum(F x) {
        const __m256 eight = _mm256_add_ps(low8(x), high8(x));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static float largest(F x) {
        const __m256 eight = _mm256_max_ps(low8(x), high8(x));
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

    static I izero() { return _mm512_setzero_si512(); }
    static I iset1(int32_t x) { return _mm512_set1_epi32(x); }
    static I iload(const int32_t* p) { return _mm512_loadu_si512(p); }
    static I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
    static I nibble(B x, int shift) { return _mm512_and_si512(_mm512_srli_epi32(x, shift), _mm512_set1_epi32(15)); }
    static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
    static void store_s8(int8_t* p, F x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
    }
    static void store_biased(uint8_t* p, F x) {
        const I bytes = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(bytes));
    }

    // Keep it in a register: GCC would rather load it again for every product.
    static void pin(B& x) { asm("" : "+v"(x)); }
    static B bload(const void* p) { return _mm512_loadu_si512(p); }
    static B bset1(int32_t four) { return _mm512_set1_epi32(four); }
    static B low_nibbles(B x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
    static B high_nibbles(B x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
    static I dp4(I acc, B u, B s) { return _mm512_dpbusd_epi32(acc, u, s); }
};

}  // namespace gamegen
