// Guesses of what a step says next, learned from the game's own steps: n-grams of tokens, by place and by movement.
//
// A guess costs a row in a pass and saves a pass if it is right; it never changes what is decided (decide.cpp checks
// every one against the sampler). So nothing here belongs to a game's state.
#pragma once
#include <array>
#include <vector>

#include "grammar.h"

namespace gamegen {

class Drafts {
public:
    void clear() {
        *this = Drafts();
    }

    // Append what probably follows `step` (its tokens so far, ACT first), at most `most` updates.
    void propose(const Grammar& grammar, const std::vector<Token>& step, const int64_t* codes, size_t most,
                 std::vector<Token>& out) const {
        std::vector<Token> spelled = step;
        for (size_t n = 0; n < most; ++n) {
            const Guess* guess = likelier(spelled);
            if (!guess || guess->kind != UPD) return;
            Token next = spelled.back();
            next.kind = UPD;
            next.a = guess->cell + (guess->relative ? anchor(spelled) : 0);
            next.b = guess->code;
            const int32_t first = spelled.back().kind == UPD ? spelled.back().a + 1 : 0;
            if (next.a < first || next.a >= grammar.n_cells() || codes[next.a] == next.b) return;
            spelled.push_back(next);
            out.push_back(next);
        }
    }

    // Learn from a finished step, END included.
    void learn(const std::vector<Token>& step) {
        std::vector<Token> so_far;
        for (size_t i = 0; i + 1 < step.size(); ++i) {
            so_far.push_back(step[i]);
            const Token& next = step[i + 1];
            note(by_place_, place_key(so_far), {0, next.a, next.b, static_cast<int8_t>(next.kind), 0, false});
            note(by_movement_, movement_key(so_far),
                 {0, next.a - anchor(so_far), next.b, static_cast<int8_t>(next.kind), 0, true});
            note(by_code_, short_key(so_far),
                 {0, next.a - anchor(so_far), next.b, static_cast<int8_t>(next.kind), 0, true});
        }
        last_.assign(step.begin(), step.end());
    }

    // Guesses that were checked, and those that were right: drafting pauses where too few are.
    void count(size_t guessed, size_t right) {
        if (!guessed) return;
        const double share = static_cast<double>(right) / static_cast<double>(guessed);
        accepted_ += 0.1 * (share - accepted_);
        if (accepted_ < LEAST_ACCEPTED) pause_ = PAUSE, accepted_ = RESTART;
    }
    bool resting() { return pause_ > 0 && pause_-- > 0; }

private:
    static constexpr size_t SIZE = 512;
    static constexpr uint8_t SURE = 2, SUREST = 3;  // times that a guess was right
    static constexpr double LEAST_ACCEPTED = 0.6, RESTART = 0.8;
    static constexpr int PAUSE = 64;  // steps

    struct Guess {
        uint32_t key;
        int32_t cell, code;
        int8_t kind;
        uint8_t sure;
        bool relative;
    };
    using Table = std::array<Guess, SIZE>;

    static uint32_t hash(uint32_t h, int32_t value) {
        h = (h ^ static_cast<uint32_t>(value)) * 0x9E3779B1u;
        return h ^ (h >> 15);
    }
    const Token* first_update() const {
        for (const Token& token : last_)
            if (token.kind == UPD) return &token;
        return nullptr;
    }
    // What a movement starts from: the update before, or the first one of the step before.
    int32_t anchor(const std::vector<Token>& step) const {
        if (step.back().kind == UPD) return step.back().a;
        const Token* first = first_update();
        return first ? first->a : 0;
    }
    uint32_t place_key(const std::vector<Token>& step) const {
        uint32_t h = hash(1, step.front().a);
        const Token& token = step.back();
        h = hash(hash(hash(h, token.kind), token.a), token.b);
        if (token.kind != UPD)
            for (const Token& before : last_)
                if (before.kind == UPD) h = hash(hash(h, before.a), before.b);
        return h | 1;
    }
    uint32_t movement_key(const std::vector<Token>& step) const {
        const Token& token = step.back();
        uint32_t h = hash(2, token.kind);
        if (token.kind == UPD) {
            h = hash(h, token.b);
            const Token& before = step[step.size() - 2];
            if (before.kind == UPD) return hash(hash(h, token.a - before.a), before.b) | 1;
            return hash(h, step.front().a) | 1;
        }
        h = hash(h, step.front().a);
        for (const Token& before : last_)
            if (before.kind == UPD) h = hash(hash(h, before.a - anchor(step)), before.b);
        return h | 1;
    }
    // Less of what came before: met more often, right less often.
    uint32_t short_key(const std::vector<Token>& step) const {
        const Token& token = step.back();
        uint32_t h = hash(hash(3, token.kind), token.kind == UPD ? token.b : step.front().a);
        if (token.kind != UPD)
            if (const Token* first = first_update()) h = hash(h, first->b);
        return h | 1;
    }
    const Guess* likelier(const std::vector<Token>& step) const {
        const Guess* best = nullptr;
        const auto consider = [&](const Table& table, uint32_t key) {
            const Guess& guess = table[key % SIZE];
            if (guess.key == key && guess.sure >= SURE && (!best || guess.sure > best->sure)) best = &guess;
        };
        consider(by_place_, place_key(step));
        consider(by_movement_, movement_key(step));
        consider(by_code_, short_key(step));
        return best;
    }
    static void note(Table& table, uint32_t key, Guess seen) {
        Guess& guess = table[key % SIZE];
        seen.key = key;
        if (guess.key == key && guess.kind == seen.kind && guess.cell == seen.cell && guess.code == seen.code) {
            if (guess.sure < SUREST) ++guess.sure;
        } else if (guess.sure > 0 && (guess.key != key || guess.sure == SUREST)) {
            --guess.sure;
        } else {
            seen.sure = 1;
            guess = seen;
        }
    }

    Table by_place_{}, by_movement_{}, by_code_{};
    std::vector<Token> last_;  // tokens of the step before
    double accepted_ = RESTART;
    int pause_ = 0;
};

}  // namespace gamegen
