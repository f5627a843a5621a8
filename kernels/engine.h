// Slots that step together: the token loop, from actions to updates, rewards and terminations.
#pragma once
#include <atomic>

#include "decide.h"
#include "threads.h"

namespace gamegen {

// One slot's finished step.
struct Outcome {
    int32_t scroll_x = 0, scroll_y = 0, reward_class = 0, done = 0, tokens = 0;
    std::vector<int64_t> cells, codes, motions;  // motions: -1 where a cell is repainted
};

// Integers of every slot, shared with Python: (slots, n_cells) twice, (slots, 2) and (slots).
struct Integers {
    int64_t *codes, *anchor, *origin, *camera, *seed, *position, *time, *since_keyframe;
};

struct Options {
    size_t slots;
    float temperature;
    bool half;             // 16-bit cache instead of 4-bit
    Precision precision;
    std::string isa;       // "auto" or one of available_ops()
    size_t threads;
};

class Engine {
public:
    Engine(const Config& config, const Tensors& tensors, const Options& options, std::vector<float> gumbel_table,
           const Integers& integers);

    // Decode one step of distinct slots, whose integers move on. Throws std::invalid_argument before anything moves.
    std::vector<Outcome> step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions);
    // The same in two halves: `send` lets steps begin, `receive` decodes until at least `count` of those under way are
    // finished and returns all that are, with their slots. The others stay as they are, half decoded; a slot whose step
    // is under way is busy. Throws std::invalid_argument before anything moves.
    void send(const std::vector<size_t>& slots, const std::vector<int32_t>& actions);
    std::vector<std::pair<size_t, Outcome>> receive(size_t count);
    bool busy(size_t slot) const { return busy_[slot]; }
    // Append known tokens of one keyframe or one step at the slot's position, which stays.
    // `scores`, if wanted: what the heads say at every token of what comes after it.
    void prefill(size_t slot, const std::vector<Token>& tokens, Scores* scores = nullptr);
    // Compute what is decided but not yet in the cache, so that the slot can be saved.
    void settle(size_t slot);

    Slot& slot(size_t index) { return slots_[index]; }
    size_t size() const { return slots_.size(); }
    const Model& model() const { return model_; }
    const char* isa() const { return ops_.name; }
    bool half() const { return half_; }
    size_t threads() const { return threads_.count(); }
    // Since the start, summed over slots: passes in which a slot's step went on, drafted tokens, those that were right.
    struct Counts {
        int64_t passes = 0, drafted = 0, right = 0;
    };
    Counts counts() const { return counts_; }
    // When steps are drafted: where it pays, never, or always. The games are the same.
    enum class Drafting { AUTO, NEVER, ALWAYS };
    void set_drafting(Drafting drafting) { drafting_ = drafting; }

private:
    // What one thread needs.
    struct Worker {
        Forward forward;
        Decider decider;
        Drafts drafts;
        Counts counts;
        Worker(const Model& model, const Ops& ops, bool half, const std::vector<float>& table, float temperature)
            : forward(model, ops, half), decider(forward, table, temperature) {}
    };
    // A step under way.
    struct Active {
        Slot* slot;
        size_t index;  // of the slot
        Outcome outcome;
        std::vector<Token> tokens;  // so far, ACT first
        const Token& last() const { return tokens.back(); }
    };
    // Steps that workers share until `wanted` are finished.
    struct Round {
        std::vector<Active> queue;
        size_t at_once, wanted;
        std::atomic<size_t> next{0}, finished{0};
    };
    std::vector<Active> begin(const std::vector<size_t>& slots, const std::vector<int32_t>& actions);
    // Decode steps until `wanted` are finished: those go to `done`; return the others, the oldest first.
    std::vector<Active> decode(std::vector<Active> steps, size_t wanted, std::vector<Active>& done);
    void work(Worker& worker, Round& round, std::vector<Active>& games, std::vector<Active>& done);
    // `drafts`: what learns from a finished step, or null.
    bool take(Active& game, const Decision& decision, Drafts* drafts);
    void finish(Active& game, Drafts* drafts);
    void commit(Slot& slot, Stage& stage, int64_t start, size_t count);
    Row end_row(Slot& slot) const;
    static void forget_end(Slot& slot);

    const Model model_;
    const Ops& ops_;
    const bool half_;
    std::vector<Slot> slots_;
    Threads threads_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<Active> under_way_;  // sent, not yet received
    std::vector<bool> busy_;         // slots of those
    Counts counts_;
    Drafting drafting_ = Drafting::AUTO;
};

}  // namespace gamegen
