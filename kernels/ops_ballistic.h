// Ballistic attention: how near every cell is to where paths lead.
#pragma once
#include "ops_basic.h"

namespace gamegen {

template <class L> struct Ballistic : Basic<L> {
    using F = typename L::F;
    using Basic<L>::exp;

    // softmax over the cells of one axis (32 lanes, the first n of use) of how near they are to `place`
    static void near(float place, float precision, size_t n, F* out) {
        const F period = L::set1(static_cast<float>(n)), inverse = L::set1(1.0f / static_cast<float>(n));
        float cells[16], sums = 0;
        for (size_t half = 0; half < 2; ++half) {
            for (size_t i = 0; i < 16; ++i) cells[i] = static_cast<float>(16 * half + i);
            const F apart = L::sub(L::load(cells), L::set1(place));
            const F d = L::fma(L::round(L::mul(apart, inverse)), L::sub(L::zero(), period), apart);
            float e[16];
            L::store(e, exp(L::mul(L::mul(d, d), L::set1(-0.5f * precision))));
            for (size_t i = 0; i < 16; ++i) {
                if (16 * half + i >= n) e[i] = 0;
                sums += e[i];
            }
            out[half] = L::load(e);
        }
        const F by = L::set1(sums > 0 ? 1.0f / sums : 0.0f);
        for (size_t half = 0; half < 2; ++half) out[half] = L::mul(out[half], by);
    }

    static void ballistic(const PathsView& p, float* logits) {
        const size_t m = p.map_cells;
        F led[32][2];
        for (size_t r = 0; r < m; ++r) led[r][0] = led[r][1] = L::zero();
        for (size_t h = 0; h < p.n_heads; ++h) {
            const float* aim = p.aim + 4 * h;
            for (size_t k = 0; k < p.n_paths; ++k) {
                const float weight = p.weight[h * p.n_paths + k];
                if (weight == 0) continue;
                F row[2], col[2];
                near(p.place[2 * k] + aim[0], aim[2], m, row);
                near(p.place[2 * k + 1] + aim[1], aim[2], m, col);
                float by[32];
                for (size_t half = 0; half < 2; ++half) L::store(by + 16 * half, L::mul(row[half], L::set1(weight * aim[3])));
                for (size_t r = 0; r < m; ++r) {
                    const F w = L::set1(by[r]);
                    led[r][0] = L::fma(w, col[0], led[r][0]);
                    led[r][1] = L::fma(w, col[1], led[r][1]);
                }
            }
        }
        for (size_t r = 0; r < m; ++r) {
            float v[32];
            L::store(v, led[r][0]);
            L::store(v + 16, led[r][1]);
            for (size_t c = 0; c < m; ++c) logits[r * m + c] += v[c];
        }
    }
};

}  // namespace gamegen
