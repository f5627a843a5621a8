// The transformer over a ragged batch of tokens: rows of many slots, and several rows of one slot.
#pragma once
#include "rotary.h"
#include "slot.h"

namespace gamegen {

constexpr size_t MAX_ROWS = 128;
constexpr float ROOT = 0.125f;  // head_dim ** -0.5, of queries

// One token in one pass. Rows of a slot follow each other in stream order.
struct Row {
    Slot* slot;
    Token token;
    int64_t position;   // in the stream
    int64_t committed;  // stream positions before this one are seen as committed, in the ring
    Stage* stage;       // of the token's step; the token is number `index` in it and sees those up to itself
    size_t index;
    bool commit;        // put into the ring in this pass: END of a finished step
};

class Forward {
public:
    Forward(const Model& model, const Ops& ops, bool half);

    // Compute up to MAX_ROWS rows; keys and values go to the stages.
    void run(const Row* rows, size_t n);
    // (n, d_model), normed: what the heads read of the last run.
    const float* hidden(size_t row) const { return hidden_.data() + row * model_.config.d_model; }
    // What an additional query at `position`, behind a row, sees of one layer and KV head.
    Seen seen(const Row& row, size_t layer_head, int64_t position) const;
    // cos (32) then sin (32) of the rotary embedding.
    void rotary(const Token& token, int64_t position, float* out) const;

    const Model& model() const { return model_; }
    const Ops& ops() const { return ops_; }

private:
    void embed(const Token& token, float* out) const;
    void attend(const Row* rows, size_t n, size_t layer);

    const Model& model_;
    const Ops& ops_;
    const bool half_;
    const Waves waves_;
    Lined<float> x_, normed_, heads_, attended_, projected_, wide_, hidden_, rotary_, logits_;
    std::vector<uint8_t> bytes_;
};

}  // namespace gamegen
