// One game: what its future depends on, apart from the integers that it shares with Python.
#pragma once
#include <optional>

#include "drafts.h"
#include "kv4.h"
#include "model.h"

namespace gamegen {

// The latest updates, whose paths ballistic attention follows.
struct Update {
    int64_t position;
    int32_t cell;
    int64_t time;
    float motion[MOTION];
};

// Keys and values of a step's tokens while it is decoded, rounded to 16 bits: (tokens, layers, KV heads, 2, 64).
struct Stage {
    Lined<float> values;
    std::vector<int16_t> codes;  // that the tokens carry, -1 where none
    size_t stride = 0;           // floats per token

    void ensure(size_t tokens) {
        if (codes.size() < tokens) codes.resize(round_up(tokens, 8));
        if (values.size() < tokens * stride) values.resize(codes.size() * stride);
    }
    void release() {  // give the memory back
        values = Lined<float>();
        codes = std::vector<int16_t>();
    }
    float* at(size_t token, size_t layer_head) { return values.data() + token * stride + layer_head * 2 * HEAD; }
};

class Slot {
public:
    // Shared with Python, one number or row per slot.
    int64_t *codes = nullptr, *anchor = nullptr, *origin = nullptr, *camera = nullptr, *seed = nullptr, *position = nullptr,
            *time = nullptr, *since_keyframe = nullptr;

    std::vector<int16_t> held;      // codes that the ring's tokens carry, -1 where none
    std::vector<Update> latest;     // at most REACH when a step begins, oldest first
    Stage stage, previous;          // of the step being decoded; of the step whose END is pending
    std::optional<Token> pending;   // END of the last step: decided, its keys and values not yet computed
    size_t pending_index = 0;       // its place in its step
    Trail trail;                    // what guesses go by; no part of the game's state

    void allocate(const Config& config, bool half);
    HeadCache cache(size_t layer_head) const;
    // Commit a staged token to its ring place, in one layer and KV head.
    void commit(const Ops& ops, size_t layer_head, const float* key_value, size_t place);
    // The ring in the format of README.md, (2, layers * KV heads, window) groups, and back.
    void read_nibbles(uint8_t* nibbles, uint16_t* scale_minimum) const;
    void write_nibbles(const uint8_t* nibbles, const uint16_t* scale_minimum);
    void read_halves(uint16_t* halves) const;
    void write_halves(const uint16_t* halves);
    void clear();
    size_t bytes() const;

private:
    void put(size_t layer_head, size_t which, size_t place, const Group4& group);
    bool half_ = false;
    size_t window_ = 0, places_ = 0, layer_heads_ = 0, head_bytes_ = 0;
    mutable Lined<uint8_t> memory_;  // per layer and KV head: keys, values, then scales and minima
};

}  // namespace gamegen
