#include "engine.h"

#include <algorithm>
#include <stdexcept>

namespace gamegen {

constexpr size_t AT_ONCE = 24;  // games that one thread decodes side by side
constexpr size_t KEPT_TOKENS = 16;  // room for staged tokens that a slot keeps; what a dense step needed is given back

Engine::Engine(const Config& config, const Tensors& tensors, const Options& o, std::vector<float> table, const Integers& n)
    : model_(config, tensors, o.int8), ops_(ops_for(o.isa)), half_(o.half), slots_(o.slots), threads_(o.threads) {
    const auto n_cells = static_cast<size_t>(config.grammar.n_cells());
    for (size_t i = 0; i < o.slots; ++i) {
        Slot& s = slots_[i];
        s.allocate(model_.config, o.half);
        s.codes = n.codes + i * n_cells;
        s.origin = n.origin + 2 * i;
        s.seed = n.seed + i;
        s.position = n.position + i;
        s.time = n.time + i;
        s.since_keyframe = n.since_keyframe + i;
    }
    for (size_t i = 0; i < o.threads; ++i)
        workers_.push_back(std::make_unique<Worker>(model_, ops_, o.half, table, o.temperature));
}

Row Engine::end_row(Slot& s) const {
    const int64_t position = *s.position - 1;
    return {&s, *s.pending, position, position - static_cast<int64_t>(s.pending_index), &s.previous, s.pending_index, true};
}

void Engine::settle(size_t index) {
    Slot& s = slots_[index];
    if (!s.pending) return;
    const Row row = end_row(s);
    workers_.front()->forward.run(&row, 1);
    forget_end(s);
}

void Engine::forget_end(Slot& s) {
    s.pending.reset();
    if (s.previous.codes.size() > KEPT_TOKENS) s.previous.release();
}

void Engine::commit(Slot& s, Stage& stage, int64_t start, size_t count) {
    const Config& c = model_.config;
    for (size_t i = 0; i < count; ++i) {
        const size_t place = (static_cast<size_t>(start) + i) % c.window;
        s.held[place] = stage.codes[i];
        for (size_t h = 0; h < c.n_layers * c.n_kv_heads; ++h) s.commit(h, stage.at(i, h), place);
    }
}

void Engine::prefill(size_t index, const std::vector<Token>& tokens) {
    settle(index);
    Slot& s = slots_[index];
    Worker& worker = *workers_.front();
    const int64_t start = *s.position;
    s.stage.ensure(tokens.size());
    std::vector<Row> rows;
    for (size_t first = 0; first < tokens.size(); first += rows.size()) {
        rows.clear();
        for (size_t i = first; i < std::min(first + MAX_ROWS, tokens.size()); ++i)
            rows.push_back({&s, tokens[i], start + static_cast<int64_t>(i), start, &s.stage, i, false});
        worker.forward.run(rows.data(), rows.size());
        worker.decider.remember(rows.data(), 0, rows.size());
    }
    commit(s, s.stage, start, tokens.size());
    s.stage.release();
    if (s.latest.size() > REACH) s.latest.erase(s.latest.begin(), s.latest.end() - REACH);
}

std::vector<Outcome> Engine::step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
    const Grammar& g = model_.config.grammar;
    if (slots.size() != actions.size())
        throw std::invalid_argument("actions: expected " + std::to_string(slots.size()) + ", got " + std::to_string(actions.size()));
    std::vector<bool> seen(slots_.size());
    std::vector<Outcome> outcomes(slots.size());
    std::vector<Active> queue;
    for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i] >= slots_.size() || seen[slots[i]])
            throw std::invalid_argument("slots: expected distinct numbers in 0.." + std::to_string(slots_.size() - 1));
        if (actions[i] < 0 || actions[i] >= g.n_actions)
            throw std::invalid_argument("action token: expected 0.." + std::to_string(g.n_actions - 1) + ", got " +
                                        std::to_string(actions[i]));
        seen[slots[i]] = true;
        Slot& s = slots_[slots[i]];
        if (*s.position == 0)
            throw std::invalid_argument("slot " + std::to_string(slots[i]) + ": expected a reset before the first step");
        const Token act{ACT, actions[i], 0, static_cast<int32_t>(s.origin[0]), static_cast<int32_t>(s.origin[1]), *s.time};
        queue.push_back({&s, &outcomes[i], act, 1});
    }
    std::atomic<size_t> next{0};
    const size_t workers = std::min(threads_.count(), queue.size());
    const size_t at_once = workers ? std::min(AT_ONCE, (queue.size() + workers - 1) / workers) : 0;
    threads_.run(workers, [&](size_t i) { decode(*workers_[i], queue, next, at_once); });
    for (size_t i = 0; i < workers; ++i) {
        passes_ += workers_[i]->passes;
        workers_[i]->passes = 0;
    }
    return outcomes;
}

void Engine::decode(Worker& worker, const std::vector<Active>& queue, std::atomic<size_t>& next, size_t at_once) {
    std::vector<Active> games;
    std::vector<Row> rows;
    std::vector<Sequence> sequences;
    std::vector<Decision> decisions;
    for (;;) {
        while (games.size() < at_once) {
            const size_t i = next.fetch_add(1);
            if (i >= queue.size()) break;
            games.push_back(queue[i]);
        }
        if (games.empty()) return;
        rows.clear();
        sequences.clear();
        for (Active& game : games) {
            Slot& s = *game.slot;
            if (s.pending) rows.push_back(end_row(s));
            sequences.push_back({rows.size(), 1, game.count - 1});
            rows.push_back({&s, game.last, *s.position + game.count - 1, *s.position, &s.stage,
                            static_cast<size_t>(game.count - 1), false});
        }
        worker.forward.run(rows.data(), rows.size());
        worker.passes += static_cast<int64_t>(games.size());
        for (Active& game : games)
            if (game.slot->pending) forget_end(*game.slot);
        worker.decider.remember(rows.data(), 0, rows.size());
        worker.decider.run(rows.data(), rows.size(), sequences, decisions);
        size_t kept = 0;
        for (size_t i = 0; i < games.size(); ++i)
            if (!take(games[i], decisions[i].decided)) games[kept++] = games[i];
        games.resize(kept);
    }
}

bool Engine::take(Active& game, const std::vector<Token>& decided) {
    Slot& s = *game.slot;
    for (const Token& token : decided) {
        game.last = token;
        ++game.count;
        if (token.kind == SCROLL) {
            game.outcome->scroll_x = token.a - model_.config.grammar.max_scroll;
            game.outcome->scroll_y = token.b - model_.config.grammar.max_scroll;
        } else if (token.kind == UPD) {
            game.outcome->cells.push_back(token.a);
            game.outcome->codes.push_back(token.b);
        }
    }
    if (game.last.kind != END) return false;
    game.outcome->reward_class = game.last.a;
    game.outcome->done = game.last.b;
    game.outcome->tokens = static_cast<int32_t>(game.count);
    for (size_t i = 0; i < game.outcome->cells.size(); ++i) s.codes[game.outcome->cells[i]] = game.outcome->codes[i];
    finish(s, game.last, game.count);
    return true;
}

void Engine::finish(Slot& s, const Token& end, int64_t count) {
    commit(s, s.stage, *s.position, static_cast<size_t>(count - 1));
    s.held[static_cast<size_t>(*s.position + count - 1) % model_.config.window] = -1;
    std::swap(s.stage, s.previous);
    s.pending = end;
    s.pending_index = static_cast<size_t>(count - 1);
    s.origin[0] = end.x;
    s.origin[1] = end.y;
    *s.position += count;
    *s.since_keyframe += count;
    ++*s.time;
    if (s.latest.size() > REACH) s.latest.erase(s.latest.begin(), s.latest.end() - REACH);
}

}  // namespace gamegen
