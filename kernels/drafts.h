// Guesses of what a step says next, learned from the steps that a thread has decoded, of whatever games.
//
// Five contexts, from what the tile map shows around the last update to the key held down, remember what followed them;
// how often each is right is counted, and the likeliest speaks. A guess costs a row in a pass and saves a pass if it is
// right; it never changes what is decided (decide.cpp checks every one against the sampler). So nothing here belongs to a
// game's state.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "grammar.h"

namespace gamegen {

// The first updates of a game's last step and of the one before: where its next step is likely to begin.
struct Trail {
    struct Place {
        int32_t cell = 0, content = -1;
    };
    std::array<Place, 2> first;
};

class Drafts {
public:
    Drafts() { trust_.fill(0.5f); }

    // Append what probably follows `step` (its tokens so far, ACT first): at most `most` updates, as long as all of them
    // together are right with a probability of at least `least`. `codes`: the tile map before the step.
    void propose(const Grammar& grammar, const Trail& trail, std::vector<Token> step, const int64_t* codes, double least,
                 size_t most, std::vector<Token>& out) const {
        double together = 1;
        for (size_t n = 0; n < most && !memory_.empty(); ++n) {
            const Guess* best = nullptr;
            float surest = 0;
            int32_t anchor = 0;
            const Contexts contexts = contexts_of(grammar, trail, step, codes);
            for (size_t i = 0; i < CONTEXTS; ++i) {
                const Guess& guess = memory_[place(i, contexts[i].key)];
                if (guess.key != contexts[i].key) continue;
                const float share = trust_[trusted(i, step.back(), guess)];
                if (share <= surest) continue;
                best = &guess;
                surest = share;
                anchor = contexts[i].anchor;
            }
            if (!best || best->content < 0 || (together *= surest) < least) return;
            Token next = step.back();
            next.kind = UPD;
            next.a = best->cell + anchor;
            next.b = best->content;
            const int32_t first = step.back().kind == UPD ? step.back().a + 1 : 0;
            if (next.a < first || next.a >= grammar.n_cells() || codes[next.a] == next.b) return;
            step.push_back(next);
            out.push_back(next);
        }
    }

    // Learn from a finished step, END included, before `codes` and `trail` move on.
    void learn(const Grammar& grammar, Trail& trail, const std::vector<Token>& step, const int64_t* codes) {
        if (memory_.empty()) memory_.resize(CONTEXTS * SIZE);
        std::vector<Token> so_far;
        for (size_t n = 0; n + 1 < step.size(); ++n) {
            so_far.push_back(step[n]);
            const Token& next = step[n + 1];
            const Contexts contexts = contexts_of(grammar, trail, so_far, codes);
            for (size_t i = 0; i < CONTEXTS; ++i) {
                const bool update = next.kind == UPD;
                note(i, step[n], {contexts[i].key, update ? next.a - contexts[i].anchor : 0, update ? next.b : -1, 1});
            }
        }
        trail.first[1] = trail.first[0];
        for (const Token& token : step)
            if (token.kind == UPD) {
                trail.first[0] = {token.a, token.b};
                break;
            }
    }

private:
    static constexpr size_t CONTEXTS = 5, SIZE = 4096;
    static constexpr int32_t SUREST = 4;           // times in a row that a guess was right, as far as they are counted
    static constexpr float RATE = 1.0f / 32;       // of what is counted of a context, when it was right or wrong once more

    struct Context {
        uint32_t key;
        int32_t anchor;  // cells are guessed relative to it
    };
    using Contexts = std::array<Context, CONTEXTS>;
    struct Guess {
        uint32_t key = 0;
        int32_t cell = 0, content = -1;  // b of an update; -1: no update follows
        int32_t sure = 0;
    };

    template <class... Values> static uint32_t hash(uint32_t h, Values... values) {
        ((h = (h ^ static_cast<uint32_t>(values)) * 0x9E3779B1u, h ^= h >> 15), ...);
        return h;
    }

    static Contexts contexts_of(const Grammar& grammar, const Trail& trail, const std::vector<Token>& step, const int64_t* codes) {
        const Token& last = step.back();
        const int32_t action = step.front().a, m = grammar.map_cells, n = grammar.n_cells();
        const bool update = last.kind == UPD;
        const Trail::Place here = update ? Trail::Place{last.a, last.b} : trail.first[0];
        Trail::Place before = trail.first[1];
        if (update) {
            const Token& token = step[step.size() - 2];
            before = token.kind == UPD ? Trail::Place{token.a, token.b} : Trail::Place{last.a, -1 - action};
        }
        const uint32_t code = hash(last.kind, here.content);
        uint32_t looks = code;
        for (int32_t offset : {0, 1, m - 1, m, m + 1}) looks = hash(looks, codes[(here.cell + offset) % n]);
        return {{{looks | 1, here.cell},
                 {hash(looks, here.cell) | 1, 0},
                 {code | 1, here.cell},
                 {hash(code, before.content, here.cell - before.cell) | 1, here.cell},
                 {hash(code, action, here.cell) | 1, 0}}};
    }

    static size_t place(size_t context, uint32_t key) { return context * SIZE + key / 2 % SIZE; }

    static size_t trusted(size_t context, const Token& last, const Guess& guess) {
        return (2 * context + (last.kind == UPD)) * SUREST + static_cast<size_t>(guess.sure) - 1;
    }

    void note(size_t context, const Token& last, const Guess& seen) {
        Guess& guess = memory_[place(context, seen.key)];
        if (guess.key == seen.key) {
            const bool right = guess.cell == seen.cell && guess.content == seen.content;
            float& share = trust_[trusted(context, last, guess)];
            share += RATE * (static_cast<float>(right) - share);
            if (right)
                guess.sure = std::min(guess.sure + 1, SUREST);
            else if (guess.sure > 1)
                guess.sure /= 2;
            else
                guess = seen;
        } else if (--guess.sure <= 0) {
            guess = seen;
        }
    }

    std::vector<Guess> memory_;  // (CONTEXTS, SIZE), empty until something was learned
    std::array<float, CONTEXTS * 2 * SUREST> trust_;  // how often guesses were right: by what came last, and by how sure they are
};

}  // namespace gamegen
