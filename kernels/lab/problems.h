// Random inputs of every operation, the same on every machine.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "half.h"
#include "ops.h"

namespace gamegen::lab {

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    uint64_t bits() {  // splitmix64, public domain
        uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    size_t below(size_t n) { return bits() % n; }
    float uniform(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 40) / 16777216.0f; }

private:
    uint64_t state_;
};

// What n floats look like.
enum class Values { SMOOTH, OUTLIER, TIES, ZEROS, TINY };
inline constexpr Values ALL_VALUES[] = {Values::SMOOTH, Values::OUTLIER, Values::TIES, Values::ZEROS, Values::TINY};

inline std::vector<float> floats(Random& random, size_t n, Values values = Values::SMOOTH) {
    std::vector<float> x(n);
    for (auto& v : x) {
        v = random.uniform(-3, 3);
        if (values == Values::TIES) v = std::nearbyint(v * 4) / 4;  // signed zeros and halves: rounding and maxima tie
        if (values == Values::ZEROS) v = random.below(2) ? 0.0f : -0.0f;
        if (values == Values::TINY) v *= 1e-40f;  // subnormal
    }
    if (values == Values::OUTLIER && n) x[random.below(n)] = 3e4f;
    return x;
}

enum class Weights { FLOAT, INT8, INT4 };

inline Linear linear(Random& random, size_t n_out, size_t k, Weights weights) {
    Linear m;
    m.n_out = n_out;
    m.k = k;
    m.blocks = round_up(n_out, BLOCK) / BLOCK;
    const auto bias = floats(random, m.width());
    m.bias.assign(bias.begin(), bias.end());
    if (weights == Weights::INT4) {
        const size_t groups = round_up(k, GROUP4) / GROUP4;
        m.w4.resize(m.blocks * BLOCK / STRIP * groups * RECORD4);
        for (size_t i = 0; i < m.w4.size(); ++i) m.w4[i] = static_cast<uint8_t>(random.bits());
        for (size_t i = STRIP * GROUP4 / 2; i < m.w4.size(); i += RECORD4)
            for (size_t n = 0; n < STRIP; ++n) {
                const uint16_t half = float_to_half(random.uniform(-0.1f, 0.1f));
                std::memcpy(m.w4.data() + i + 2 * n, &half, 2);
            }
        return m;
    }
    if (weights == Weights::FLOAT) {
        const auto w = floats(random, m.blocks * k * BLOCK);
        m.w.assign(w.begin(), w.end());
        return m;
    }
    const size_t quads = (k + 3) / 4;
    m.w8.resize(m.blocks * quads * BLOCK * 4);
    m.offset.assign(m.width(), 0);
    for (size_t i = 0; i < m.width(); ++i) m.scale.push_back(random.uniform(0, 0.1f));
    for (size_t i = 0; i < m.w8.size(); ++i) {
        if (i / (BLOCK * 4) % quads * 4 + i % 4 >= k) continue;  // padding
        m.w8[i] = static_cast<int8_t>(static_cast<int>(random.below(255)) - 127);
        m.offset[i / (BLOCK * 4 * quads) * BLOCK + i / 4 % BLOCK] += 128 * m.w8[i];
    }
    return m;
}

// A cache of one layer and KV head with staged tokens behind it.
struct Attention {
    Lined<uint8_t> k, v;
    Lined<uint16_t> numbers[4];
    std::vector<float> staged, query;
    Seen seen;

    Attention(Random& random, size_t heads, size_t window, size_t places, size_t n_staged, bool half, bool exact,
              Values values = Values::SMOOTH) {
        const size_t padded = round_up(window, BLOCK), bytes = padded * (half ? HEAD * 2 : HEAD / 2);
        for (auto* cache : {&k, &v}) {
            cache->resize(bytes);
            for (auto& byte : *cache) byte = static_cast<uint8_t>(random.bits());
            for (size_t i = 0; half && i < bytes; i += 2) {
                const uint16_t h = float_to_half(random.uniform(-2, 2));
                (*cache)[i] = static_cast<uint8_t>(h);
                (*cache)[i + 1] = static_cast<uint8_t>(h >> 8);
            }
        }
        for (int i = 0; i < 4; ++i)  // scales are positive
            for (size_t at = 0; at < padded; ++at)
                numbers[i].push_back(float_to_half(i % 2 ? random.uniform(-2, 0) : random.uniform(0, 0.3f)));
        staged = floats(random, (n_staged + 1) * 3 * HEAD);
        query = floats(random, heads * HEAD, values);
        for (auto& q : query) q *= 0.125f;
        seen = {{k.data(), v.data(), numbers[0].data(), numbers[1].data(), numbers[2].data(), numbers[3].data()},
                half, exact, places, window, random.below(window), random.below(window / 4 + 1),
                staged.data(), 3 * HEAD, n_staged};
    }
};

}  // namespace gamegen::lab
