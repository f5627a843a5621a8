// Sixteen lanes in AVX2, FMA and F16C: two halves.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gamegen {

struct Avx2 {
    struct F { __m256 lo, hi; };
    struct I { __m256i lo, hi; };
    using B = I;
    static constexpr const char* name = "avx2";
    static constexpr int tile = 1, int8_tile = 1, int4_tile = 1;
    static constexpr int score_vectors = 1;

    static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x.lo); _mm256_storeu_ps(p + 8, x.hi); }
    static F load_half(const uint16_t* p) {
        const auto* q = reinterpret_cast<const __m128i*>(p);
        return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
    }
    static __m256 half1(__m256 x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
    static F round_half(F x) { return {half1(x.lo), half1(x.hi)}; }
    static F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
    static F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
    static F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
    static F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
    static F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
    static F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
    static F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
    template <int h> static F swap(F x) {
        if constexpr (h == 8) return {x.hi, x.lo};
        if constexpr (h == 4) return {_mm256_permute2f128_ps(x.lo, x.lo, 1), _mm256_permute2f128_ps(x.hi, x.hi, 1)};
        constexpr int pairs = h == 2 ? 0x4E : 0xB1;
        return {_mm256_permute_ps(x.lo, pairs), _mm256_permute_ps(x.hi, pairs)};
    }
    static F abs(F a) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
    }
    static __m256 round1(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F round(F a) { return {round1(a.lo), round1(a.hi)}; }
    static __m256 pow2_1(__m256 n) {
        const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    }
    static F times_pow2(F x, F n) { return {_mm256_mul_ps(x.lo, pow2_1(n.lo)), _mm256_mul_ps(x.hi, pow2_1(n.hi))}; }
    static F where_above(F x, float limit, F y) {
        const __m256 least = _mm256_set1_ps(limit);
        return {_mm256_and_ps(_mm256_cmp_ps(x.lo, least, _CMP_GT_OQ), y.lo),
                _mm256_and_ps(_mm256_cmp_ps(x.hi, least, _CMP_GT_OQ), y.hi)};
    }

    static float sum(F x) {
        const __m256 eight = _mm256_add_ps(x.lo, x.hi);
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static float largest(F x) {
        const __m256 eight = _mm256_max_ps(x.lo, x.hi);
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }

    static I izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static I iset1(int32_t x) { return bset1(x); }
    static I iload(const int32_t* p) { return bload(p); }
    static I isub(I a, I b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
    static I nibble(B x, int shift) {
        const __m256i mask = _mm256_set1_epi32(15);
        return {_mm256_and_si256(_mm256_srli_epi32(x.lo, shift), mask), _mm256_and_si256(_mm256_srli_epi32(x.hi, shift), mask)};
    }
    static F to_float(I x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
    static __m128i as_s8(F x) {
        const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
        const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
        return _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    }
    static void store_s8(int8_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), as_s8(x)); }
    static void store_biased(uint8_t* p, F x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(as_s8(x), _mm_set1_epi8(-128)));
    }

    template <class T> static void pin(T&) {}
    static B bload(const void* p) {
        const auto* q = static_cast<const __m256i*>(p);
        return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
    }
    static B bset1(int32_t four) { return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)}; }
    static B low_nibbles(B x) {
        const __m256i mask = _mm256_set1_epi8(15);
        return {_mm256_and_si256(x.lo, mask), _mm256_and_si256(x.hi, mask)};
    }
    static B high_nibbles(B x) { return low_nibbles({_mm256_srli_epi16(x.lo, 4), _mm256_srli_epi16(x.hi, 4)}); }
    // In 16 bits for even and odd bytes apart: maddubs would saturate.
    static __m256i dp4_1(__m256i acc, __m256i u, __m256i s) {
        const __m256i even_u = _mm256_and_si256(u, _mm256_set1_epi16(255)), odd_u = _mm256_srli_epi16(u, 8);
        const __m256i even_s = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8), odd_s = _mm256_srai_epi16(s, 8);
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(even_u, even_s));
        return _mm256_add_epi32(acc, _mm256_madd_epi16(odd_u, odd_s));
    }
    static I dp4(I acc, B u, B s) { return {dp4_1(acc.lo, u.lo, s.lo), dp4_1(acc.hi, u.hi, s.hi)}; }
};

}  // namespace gamegen
