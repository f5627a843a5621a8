// From hidden states to next tokens: heads, grammar mask, pointer memory, ballistic attention, sampler.
#pragma once
#include "forward.h"

namespace gamegen {

// The rows of one slot in a pass whose next token is wanted: the last decided token, then drafted ones.
struct Sequence {
    size_t first, count;   // rows
    int64_t step_index;    // of the first row's token in its step: 0 for ACT
};

// What comes after each row of a sequence, as far as its drafts were right: `decided` has 1 to count tokens.
struct Decision {
    std::vector<Token> decided;
};

// What the heads say, row by row, before anything is drawn.
struct Scores {
    // (rows, n_events), masked; (updates that come next, n_codes + n_motions); (rows, 3 + 2)
    std::vector<float> events, codes, ends;
};

class Decider {
public:
    // gumbel_table: (65536), from gamegen_env/sampling.py; temperature: 0 takes the best.
    Decider(Forward& forward, std::vector<float> gumbel_table, float temperature);

    // Decide after `rows`, which `forward` has just run.
    void run(const Row* rows, size_t n, const std::vector<Sequence>& sequences, std::vector<Decision>& decisions);
    // Append scores of what comes after `rows`, which `forward` has just run; `next`: what does come, of all rows or
    // of all but the last. Of codes and motions, where a pointer mixes them, the logarithms of their probabilities.
    void score(const Row* rows, size_t n, const Token* next, size_t n_next, Scores& scores);
    // Remember the updates among rows for ballistic attention: motion is read off the last run.
    void remember(const Row* rows, size_t first, size_t count);

private:
    struct Job {  // a row whose event is an update of a cell: which code?
        size_t row;
        int32_t cell;
        size_t sequence, place;
    };
    void events(const Row* rows, size_t n);
    void add_paths(const Row& row, size_t at, float* logits);
    // Of up to CODE_ROWS jobs: queries, the vocabulary's logits, the pointer's queries, the motions' logits.
    void code_logits(const Row* rows, const Job* jobs, size_t n);
    void draw_codes(const Row* rows, const std::vector<Sequence>& sequences, const Job* jobs, size_t n,
                    std::vector<Decision>& decisions);
    // Mix the vocabulary's logits with what the window holds: `logits` becomes P(code), `moves` P(motion).
    void mix(const Row& row, const Token& update, const float* query, float* logits, float* moves);
    // Draw a code other than the present one, or n_codes + a motion.
    int draw_mixed(const float* codes, const float* moves, int64_t present, uint32_t key) const;
    // The code that looks most like what a cell's surroundings, before the step, show there; the lowest of equals.
    int moved_code(const Row& row, int cell, int motion);
    int draw(const float* logits, size_t n, uint32_t key, float temperature) const;

    Forward& forward_;
    const Model& model_;
    const Ops& ops_;
    const std::vector<float> table_;
    const float temperature_, span_;
    std::vector<float> events_, aims_, motions_, queries_, described_, inner_, query_, codes_, turned_, ends_, window_, weights_, moves_, matches_;
    std::vector<uint8_t> bytes_;
};

}  // namespace gamegen
