// Sixteen lanes on a GPU: half a warp, one number per thread, added in the order of lanes_scalar.h.
#pragma once
#include <cmath>

#include "../elementary.h"
#include "simt.h"
#include "view.h"

namespace gamegen::cuda {

constexpr float LOWEST = -__builtin_inff();
constexpr float FAINT = 1e-30f;  // as in ops_impl.h
constexpr int MOST_WARPS = 16;   // of a block that works on one row

DEVICE int lane16() { return static_cast<int>(thread_index() & 15); }
DEVICE float sum16(float x) {
    for (int h = 8; h; h /= 2) x = x + shuffle_xor(x, h);
    return x;
}
// +0 and -0 tie, so the lanes may end with different zeros: all take lane 0's, as the tree has it.
DEVICE float largest16(float x) {
    for (int h = 8; h; h /= 2) {
        const float other = shuffle_xor(x, h);
        x = x > other ? x : other;
    }
    return shuffle(x, static_cast<int>(thread_index() & 16));
}

DEVICE float warp_largest(float x) {
    for (int h = 16; h; h /= 2) {
        const float other = shuffle_xor(x, h);
        x = x > other ? x : other;
    }
    return x;
}
// Over the block: the largest of everyone's numbers, known to everyone. `box`: MOST_WARPS.
DEVICE float block_largest(float x, SHARED_ARRAY(float, box)) {
    x = warp_largest(x);
    block_sync();
    if (thread_index() % 32 == 0) box[thread_index() / 32] = x;
    block_sync();
    x = box[0];
    for (unsigned i = 1; i < block_size() / 32; ++i) x = x > box[i] ? x : static_cast<float>(box[i]);
    return x;
}

// The exponential of ops_impl.h.
GAMEGEN_HD inline float exp_own(float x) {
    x = x < 88.0f ? x : 88.0f;
    x = x > -87.3f ? x : -87.3f;
    const float n = nearbyintf(x * 1.44269504f);
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p * r, r, r + 1.0f);
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}
DEVICE float exp_or_zero(float x) {
    float keep = x + 87.0f;
    keep = keep > 0.0f ? keep : 0.0f;
    keep = nearbyintf(keep < 1.0f ? keep : 1.0f);
    return exp_own(x) * keep;
}
GAMEGEN_HD inline float silu(float x) { return x / (1.0f + exp_own(0.0f - x)); }

// --- A head of 64 values in half a warp: value lane + 16 j in v[j] ---

struct Head {
    float v[4];
};
DEVICE Head load_head(const float* p) {
    Head h;
    for (int j = 0; j < 4; ++j) h.v[j] = p[lane16() + 16 * j];
    return h;
}
DEVICE Head load_staged(const uint16_t* p) {
    Head h;
    for (int j = 0; j < 4; ++j) h.v[j] = half_to_float(p[lane16() + 16 * j]);
    return h;
}
// Of half a warp's numbers the least (sign 1) or, negated, the largest (sign -1), as a loop over them finds it: of zeros
// that tie, the first.
DEVICE float first_least(const Head& h, float sign) {
    float best = sign * h.v[0];
    int at = lane16();
    for (int j = 1; j < 4; ++j)
        if (sign * h.v[j] < best) best = sign * h.v[j], at = lane16() + 16 * j;
    for (int apart = 8; apart; apart /= 2) {
        const float other = shuffle_xor(best, apart);
        const int other_at = shuffle_xor(at, apart);
        if (other < best || (other == best && other_at < at)) best = other, at = other_at;
    }
    return best;
}
DEVICE void norm_head(Head& h, const float* gain) {
    float squares = 0;
    for (int j = 0; j < 4; ++j) squares = fmaf(h.v[j], h.v[j], squares);
    const float by = 1.0f / sqrtf(sum16(squares) / 64.0f + 1.1920929e-7f);
    for (int j = 0; j < 4; ++j) h.v[j] = h.v[j] * by * gain[lane16() + 16 * j];
}
DEVICE void hadamard(Head& h) {
    for (int j = 0; j < 4; ++j)
        for (int apart = 1; apart < 16; apart *= 2) {
            const float other = shuffle_xor(h.v[j], apart);
            h.v[j] = other + h.v[j] * (lane16() & apart ? -1.0f : 1.0f);
        }
    const float s = h.v[0] + h.v[1], t = h.v[0] - h.v[1], u = h.v[2] + h.v[3], v = h.v[2] - h.v[3];
    h.v[0] = (s + u) * 0.125f;
    h.v[1] = (t + v) * 0.125f;
    h.v[2] = (s - u) * 0.125f;
    h.v[3] = (t - v) * 0.125f;
}
// Turn by a rotary embedding, cos (32) then sin (32), and into Hadamard space.
template <class Turn> DEVICE void place_head(Head& h, const Turn& turn) {
    for (int j = 0; j < 2; ++j) {
        const float a = h.v[j], b = h.v[j + 2], cosine = turn[lane16() + 16 * j], sine = turn[32 + lane16() + 16 * j];
        h.v[j] = a * cosine - b * sine;
        h.v[j + 2] = b * cosine + a * sine;
    }
    hadamard(h);
}
DEVICE float fabs_of(float x) { return x < 0 ? -x : x; }

// cos or sin number i (0..31) of a token's rotary embedding, part 0 or 1.
DEVICE float rotary(const View& w, const Token& t, int64_t position, int i, int part) {
    const int m = w.config.grammar.map_cells, cell = t.cell() ? t.a : 0, wave = i % 8;
    const double angle = i < 8 ? static_cast<double>(position) * w.waves.by_position[wave]
                         : i < 16 ? static_cast<double>(t.time) * w.waves.by_time[wave]
                         : i < 24 ? cell / m * w.waves.by_place[wave] : cell % m * w.waves.by_place[wave];
    const float turn = static_cast<float>(within_turn(angle));
    return part ? sin_of(turn) : cos_of(turn);
}

}  // namespace gamegen::cuda
