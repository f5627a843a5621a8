// Counter-based Gumbel noise, as in gamegen_env/sampling.py: a hash of seed, step, place, purpose and class.
#pragma once
#include <cstdint>
#include <vector>

#include "hd.h"

namespace gamegen {

enum Purpose : uint32_t { EVENT_NOISE, CODE_NOISE, REWARD_NOISE, DONE_NOISE };

// Of one 32-bit number, or of a vector of them.
template <class Bits> GAMEGEN_HD static inline Bits mix_bits(Bits x) {  // lowbias32, public domain
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}

GAMEGEN_HD static inline uint32_t noise_key(uint64_t seed, uint64_t step, uint64_t position, Purpose purpose) {
    uint32_t key = mix_bits(static_cast<uint32_t>(seed));
    for (uint64_t part : {seed >> 32, step & 0xFFFFFFFFu, step >> 32, position, static_cast<uint64_t>(purpose)})
        key = mix_bits(key + 0x9E3779B9u + static_cast<uint32_t>(part));
    return key;
}

// Noise of a class: the table holds it by the upper 16 bits of a hash.
template <class Bits> GAMEGEN_HD static inline Bits noise_at(uint32_t key, Bits of_class) {
    return mix_bits(key + of_class * 0x9E3779B9u) >> 16;
}
GAMEGEN_HD static inline float gumbel(const float* table, uint32_t key, uint32_t of_class) {
    return table[noise_at(key, of_class)];
}

}  // namespace gamegen
