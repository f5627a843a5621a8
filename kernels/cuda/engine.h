// Slots on a GPU that step together. Same tokens and states as gamegen::Engine in int8 or int4 with 4-bit keys and values.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../model.h"

namespace gamegen::cuda {

struct Outcome {
    int32_t scroll_x, scroll_y, reward_class, done, tokens;
    std::vector<int64_t> cells, codes, motions;  // motions: -1 where a cell is repainted
};
// Integers of every slot, shared with Python; as gamegen::Integers.
struct Integers {
    int64_t *codes, *anchor, *origin, *camera, *seed, *position, *time, *since_keyframe;
};
// What a snapshot holds beside the integers, in the format of kernels/README.md.
struct Context {
    std::vector<uint8_t> nibbles;         // (2, layer_heads, window, 32)
    std::vector<uint16_t> scale_minimum;  // (2, layer_heads, window, 2)
    std::vector<int16_t> held;            // (window)
    std::vector<int64_t> latest_rows;     // (REACH, 3): position, cell, time, or -1
    std::vector<float> latest_motion;     // (REACH, MOTION)
};

// Who turns the token loop: the device where it can, the device, or the host (graph.h); or one kernel that stays for a whole
// step (persistent.cuh), of one slot.
enum class Turns { AUTO, BY_DEVICE, BY_HOST, PERSISTENT };

class Engine {
public:
    // Throws std::invalid_argument on a bad model, std::runtime_error where driver, GPU or memory is missing.
    Engine(const Config& config, const Tensors& tensors, Precision precision, size_t slots, float temperature, const std::vector<float>& gumbel,
           const Integers& integers, Turns turns);
    ~Engine();
    void clear(size_t slot);
    void prefill(size_t slot, const std::vector<Token>& tokens);
    void renew(size_t slot);  // the host has changed the slot's codes
    std::vector<Outcome> step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions);
    Context save(size_t slot);
    void load(size_t slot, const Context& context);
    size_t size() const;
    size_t bytes() const;      // of device memory
    int64_t passes() const;

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace gamegen::cuda
