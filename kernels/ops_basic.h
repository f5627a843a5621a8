// What the operations share: parts of sixteen lanes, the exponential, and their own inline.
// Included by one isa_*.cpp per instruction set, by way of ops_impl.h.
#pragma once
#include "ops.h"

#define INLINE [[gnu::always_inline]] inline

namespace gamegen {

// fn<R>() for R = rows, at most the R given.
template <int R, class Fn> INLINE void with_rows(size_t rows, const Fn& fn) {
    if constexpr (R > 1) {
        if (rows < static_cast<size_t>(R)) return with_rows<R - 1>(rows, fn);
    }
    fn.template operator()<R>();
}

template <class L> struct Basic {
    using F = typename L::F;
    static constexpr float LOWEST = -__builtin_inff();
    // A row whose largest number is not above this counts as zero: 127 / largest must stay finite.
    static constexpr float FAINT = 1e-30f;
    static constexpr size_t CHUNK = 240;  // rows whose scales a product keeps at a time

    // The last n % 16 numbers, zeros behind them.
    static F load_part(const float* p, size_t n, float fill = 0) {
        float v[16];
        for (size_t i = 0; i < 16; ++i) v[i] = i < n ? p[i] : fill;
        return L::load(v);
    }
    static void store_part(float* p, F x, size_t n) {
        float v[16];
        L::store(v, x);
        for (size_t i = 0; i < n; ++i) p[i] = v[i];
    }
    // Apply fn to all of x (n), sixteen at a time: out may be x.
    template <class Fn> static void map(const float* x, size_t n, float* out, Fn fn) {
        size_t i = 0;
        for (; i + 16 <= n; i += 16) L::store(out + i, fn(L::load(x + i), i));
        if (i < n) store_part(out + i, fn(load_part(x + i, n - i), i), n - i);
    }

    // --- exp: 2 ulp for -87 <= x <= 88, 0 below ---

    INLINE static F exp(F x) { return exp_within(L::max(L::min(x, L::set1(88.0f)), L::set1(-87.3f))); }
    // exp(x) for x <= 0, exactly 0 for -inf.
    INLINE static F exp_or_zero(F x) { return L::where_above(x, -86.5f, exp_within(L::max(x, L::set1(-87.3f)))); }

private:
    INLINE static F exp_within(F x) {
        const F n = L::round(L::mul(x, L::set1(1.44269504f)));
        F r = L::fma(n, L::set1(-0.693359375f), x);
        r = L::fma(n, L::set1(2.12194440e-4f), r);
        F p = L::set1(1.9875691500e-4f);
        for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
            p = L::fma(p, r, L::set1(c));
        p = L::fma(L::mul(p, r), r, L::add(r, L::set1(1.0f)));
        return L::times_pow2(p, n);
    }
};

}  // namespace gamegen
