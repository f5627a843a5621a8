// Operations on numbers one by one, on rows and on heads.
#pragma once
#include "half.h"
#include "noise.h"
#include "ops_basic.h"

namespace gamegen {

template <class L> struct Elements : Basic<L> {
    using F = typename L::F;
    using Basic<L>::load_part;
    using Basic<L>::store_part;
    using Basic<L>::map;
    using Basic<L>::LOWEST;

    static void rms_norm(const float* x, const float* gain, size_t n, float* out) {
        F squares = L::zero();
        size_t i = 0;
        for (; i + 16 <= n; i += 16) squares = L::fma(L::load(x + i), L::load(x + i), squares);
        if (i < n) squares = L::fma(load_part(x + i, n - i), load_part(x + i, n - i), squares);
        const float mean = L::sum(squares) / static_cast<float>(n) + 1.1920929e-7f;
        const F by = L::set1(1.0f / __builtin_sqrtf(mean));
        map(x, n, out, [&](F v, size_t at) {
            return L::mul(L::mul(v, by), n - at < 16 ? load_part(gain + at, n - at) : L::load(gain + at));
        });
    }
    INLINE static F silu_of(F x) { return L::div(x, L::add(L::set1(1.0f), Basic<L>::exp(L::sub(L::zero(), x)))); }
    static void silu_times(const float* gate, const float* up, size_t n, float* out) {
        map(gate, n, out, [&](F v, size_t at) {
            return L::mul(silu_of(v), n - at < 16 ? load_part(up + at, n - at) : L::load(up + at));
        });
    }
    static void silu(float* x, size_t n) { map(x, n, x, [](F v, size_t) { return silu_of(v); }); }
    static void add(float* x, const float* y, size_t n) {
        map(x, n, x, [&](F v, size_t at) { return L::add(v, n - at < 16 ? load_part(y + at, n - at) : L::load(y + at)); });
    }
    static void round_half(float* x, size_t n) {
        for (size_t i = 0; i < n; i += 16) L::store(x + i, L::round_half(L::load(x + i)));
    }
    static void scale(float* x, size_t n, float by) { map(x, n, x, [=](F v, size_t) { return L::mul(v, L::set1(by)); }); }

    // Sums and differences of lanes h apart: lane i is x[i] + x[i + h], lane i + h is x[i] - x[i + h].
    template <int h> INLINE static F butterfly(F x) {
        static constexpr auto signs = [] {
            struct { alignas(64) float v[16]; } s{};
            for (int i = 0; i < 16; ++i) s.v[i] = i & h ? -1.0f : 1.0f;
            return s;
        }();
        return L::fma(x, L::load(signs.v), L::template swap<h>(x));
    }
    INLINE static F hadamard16(F x) { return butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(x)))); }
    INLINE static void hadamard64(F& a, F& b, F& c, F& d) {
        a = hadamard16(a), b = hadamard16(b), c = hadamard16(c), d = hadamard16(d);
        const F s = L::add(a, b), t = L::sub(a, b), u = L::add(c, d), v = L::sub(c, d), eighth = L::set1(0.125f);
        a = L::mul(L::add(s, u), eighth), b = L::mul(L::add(t, v), eighth);
        c = L::mul(L::sub(s, u), eighth), d = L::mul(L::sub(t, v), eighth);
    }
    static void hadamard(float* x) {
        F a = L::load(x), b = L::load(x + 16), c = L::load(x + 32), d = L::load(x + 48);
        hadamard64(a, b, c, d);
        L::store(x, a), L::store(x + 16, b), L::store(x + 32, c), L::store(x + 48, d);
    }
    static void place(float* x, const float* rotary, float by) {
        F a = L::load(x), b = L::load(x + 16), c = L::load(x + 32), d = L::load(x + 48);
        turn(a, c, L::load(rotary), L::load(rotary + 32));
        turn(b, d, L::load(rotary + 16), L::load(rotary + 48));
        hadamard64(a, b, c, d);
        const F last = L::set1(by);
        L::store(x, L::mul(a, last)), L::store(x + 16, L::mul(b, last));
        L::store(x + 32, L::mul(c, last)), L::store(x + 48, L::mul(d, last));
    }
    INLINE static void turn(F& a, F& b, F cosine, F sine) {
        const F turned = L::sub(L::mul(a, cosine), L::mul(b, sine));
        b = L::add(L::mul(b, cosine), L::mul(a, sine));
        a = turned;
    }

    static float maximum(const float* x, size_t n) {
        F top = L::set1(LOWEST), second = top, third = top, fourth = top;  // one would wait for itself
        size_t i = 0;
        for (; i + 64 <= n; i += 64) {
            top = L::max(top, L::load(x + i)), second = L::max(second, L::load(x + i + 16));
            third = L::max(third, L::load(x + i + 32)), fourth = L::max(fourth, L::load(x + i + 48));
        }
        for (; i + 16 <= n; i += 16) top = L::max(top, L::load(x + i));
        if (i < n) top = L::max(top, load_part(x + i, n - i, LOWEST));
        return L::largest(L::max(L::max(top, second), L::max(third, fourth)));
    }
    static float exponentials(float* x, size_t n, float maximum) {
        F sum = L::zero();
        const F top = L::set1(maximum);
        size_t i = 0;
        for (; i + 16 <= n; i += 16) {
            const F e = Basic<L>::exp_or_zero(L::sub(L::load(x + i), top));
            L::store(x + i, e);
            sum = L::add(sum, e);
        }
        if (i < n) {
            const F e = Basic<L>::exp_or_zero(L::sub(load_part(x + i, n - i, LOWEST), top));
            store_part(x + i, e, n - i);
            sum = L::add(sum, e);
        }
        return L::sum(sum);
    }

    // As kv4.h's quantise4, to the bit.
    static void quantise4(const float* x, uint8_t* nibbles, uint16_t* scale, uint16_t* minimum) {
        const F v[4] = {L::load(x), L::load(x + 16), L::load(x + 32), L::load(x + 48)};
        float high = L::largest(L::max(L::max(v[0], v[1]), L::max(v[2], v[3])));
        const F least = L::min(L::min(v[0], v[1]), L::min(v[2], v[3]));
        float low = -L::largest(L::sub(L::zero(), least));
        if (low == 0)  // the sign of the first zero is kept
            for (size_t i = HEAD; i-- > 0;)
                if (x[i] == 0) low = x[i];
        if (high == 0) high = low;  // as far as a sign can matter
        *minimum = float_to_half(low);
        const float from = half_to_float(*minimum), smallest_normal = 6.103515625e-5f;
        *scale = float_to_half((high - from) / 15.0f);
        const float step = half_to_float(*scale);
        const F by = L::set1(step > smallest_normal ? step : smallest_normal);
        int8_t levels[HEAD];
        for (size_t i = 0; i < 4; ++i) {
            const F level = L::round(L::div(L::sub(v[i], L::set1(from)), by));
            L::store_s8(levels + 16 * i, L::min(L::max(level, L::zero()), L::set1(15.0f)));
        }
        for (size_t i = 0; i < HEAD / 2; ++i) nibbles[i] = static_cast<uint8_t>(levels[i] | levels[i + HEAD / 2] << 4);
    }

    // GCC turns one hash after the other into scalar code; in a vector of its own it may not.
    using Sixteen = uint32_t __attribute__((vector_size(64)));
    static constexpr Sixteen COUNT = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

    // The first class whose logit / temperature + noise is the largest, of those not below `least`; `none` without any.
    static size_t draw(const float* logits, size_t n, float least, float temperature, const float* table, uint32_t key, size_t none) {
        float best = LOWEST;
        size_t chosen = none;
        for (size_t first = 0; first < n; first += 16) {
            const size_t some = n - first < 16 ? n - first : 16;
            const F x = some < 16 ? load_part(logits + first, some, LOWEST) : L::load(logits + first);
            if (!(L::largest(x) >= least)) continue;
            const Sixteen at = noise_at(key, static_cast<uint32_t>(first) + COUNT);
            float noise[16], scores[16];
            for (int i = 0; i < 16; ++i) noise[i] = table[at[i]];
            const F score = L::add(L::div(x, L::set1(temperature)), L::load(noise));
            if (!(L::largest(score) > best)) continue;
            L::store(scores, score);
            for (size_t i = 0; i < some; ++i)
                if (scores[i] > best && logits[first + i] >= least) {
                    best = scores[i];
                    chosen = first + i;
                }
        }
        return chosen;
    }
};

}  // namespace gamegen
