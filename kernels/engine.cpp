#include "engine.h"

#include <algorithm>
#include <stdexcept>

namespace gamegen {

constexpr size_t AT_ONCE = 64;  // games that one thread decodes side by side
constexpr size_t FEW_GAMES = 8;   // up to so many on one thread, guessing pays
constexpr double PASS_ROWS = 1.3;  // what a pass costs by itself, in rows (pocket, measured)
constexpr size_t MOST_DRAFTED = 6;
constexpr size_t KEPT_TOKENS = 16;  // room for staged tokens that a slot keeps; what a dense step needed is given back

Engine::Engine(const Config& config, const Tensors& tensors, const Options& o, std::vector<float> table, const Integers& n)
    : model_(config, tensors, o.precision), ops_(ops_for(o.isa)), half_(o.half), slots_(o.slots), threads_(o.threads),
      busy_(o.slots) {
    const auto n_cells = static_cast<size_t>(config.grammar.n_cells());
    for (size_t i = 0; i < o.slots; ++i) {
        Slot& s = slots_[i];
        s.allocate(model_.config, o.half);
        s.codes = n.codes + i * n_cells;
        s.anchor = n.anchor + i * n_cells;
        s.origin = n.origin + 2 * i;
        s.camera = n.camera + i;
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
        for (size_t h = 0; h < c.n_layers * c.n_kv_heads; ++h) s.commit(ops_, h, stage.at(i, h), place);
    }
}

void Engine::prefill(size_t index, const std::vector<Token>& tokens, Scores* scores) {
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
        if (scores) {
            const size_t after = first + 1;
            worker.decider.score(rows.data(), rows.size(), tokens.data() + after, std::min(rows.size(), tokens.size() - after), *scores);
        }
    }
    commit(s, s.stage, start, tokens.size());
    s.stage.release();
    if (s.latest.size() > REACH) s.latest.erase(s.latest.begin(), s.latest.end() - REACH);
}

std::vector<Engine::Active> Engine::begin(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
    const Grammar& g = model_.config.grammar;
    if (slots.size() != actions.size())
        throw std::invalid_argument("actions: expected " + std::to_string(slots.size()) + ", got " + std::to_string(actions.size()));
    std::vector<bool> seen(slots_.size());
    std::vector<Active> steps;
    for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i] >= slots_.size() || seen[slots[i]])
            throw std::invalid_argument("slots: expected distinct numbers in 0.." + std::to_string(slots_.size() - 1));
        if (busy_[slots[i]])
            throw std::invalid_argument("slot " + std::to_string(slots[i]) + ": expected no step under way, got one not yet received");
        if (actions[i] < 0 || actions[i] >= g.n_actions)
            throw std::invalid_argument("action token: expected 0.." + std::to_string(g.n_actions - 1) + ", got " +
                                        std::to_string(actions[i]));
        seen[slots[i]] = true;
        Slot& s = slots_[slots[i]];
        if (*s.position == 0)
            throw std::invalid_argument("slot " + std::to_string(slots[i]) + ": expected a reset before the first step");
        const Token act{ACT, actions[i], static_cast<int32_t>(*s.camera), static_cast<int32_t>(s.origin[0]),
                        static_cast<int32_t>(s.origin[1]), *s.time};
        steps.push_back({&s, slots[i], {}, {act}});
    }
    return steps;
}

std::vector<Outcome> Engine::step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
    std::vector<Active> done;
    decode(begin(slots, actions), slots.size(), done);
    std::vector<size_t> place(slots_.size());
    for (size_t i = 0; i < slots.size(); ++i) place[slots[i]] = i;
    std::vector<Outcome> outcomes(slots.size());
    for (Active& game : done) outcomes[place[game.index]] = std::move(game.outcome);
    return outcomes;
}

void Engine::send(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
    for (Active& game : begin(slots, actions)) {
        busy_[game.index] = true;
        under_way_.push_back(std::move(game));
    }
}

std::vector<std::pair<size_t, Outcome>> Engine::receive(size_t count) {
    if (count < 1 || count > under_way_.size())
        throw std::invalid_argument("count: expected 1.." + std::to_string(under_way_.size()) + ", the steps under way, got " +
                                    std::to_string(count));
    std::vector<Active> done;
    under_way_ = decode(std::move(under_way_), count, done);
    std::vector<std::pair<size_t, Outcome>> outcomes;
    for (Active& game : done) {
        busy_[game.index] = false;
        outcomes.emplace_back(game.index, std::move(game.outcome));
    }
    return outcomes;
}

std::vector<Engine::Active> Engine::decode(std::vector<Active> steps, size_t wanted, std::vector<Active>& done) {
    const size_t workers = std::min(threads_.count(), steps.size());
    if (!workers) return {};
    Round round{std::move(steps), 0, wanted};
    round.at_once = std::min(AT_ONCE, (round.queue.size() + workers - 1) / workers);
    std::vector<std::vector<Active>> left(workers), finished(workers);
    threads_.run(workers, [&](size_t i) { work(*workers_[i], round, left[i], finished[i]); });
    std::vector<Active> rest;
    const auto move_to = [](std::vector<Active>& to, auto first, auto last) {
        to.insert(to.end(), std::make_move_iterator(first), std::make_move_iterator(last));
    };
    for (size_t i = 0; i < workers; ++i) {
        Counts& counts = workers_[i]->counts;
        counts_.passes += counts.passes;
        counts_.drafted += counts.drafted;
        counts_.right += counts.right;
        counts = {};
        move_to(rest, left[i].begin(), left[i].end());
        move_to(done, finished[i].begin(), finished[i].end());
    }
    const auto begun = static_cast<std::ptrdiff_t>(std::min(round.next.load(), round.queue.size()));
    move_to(rest, round.queue.begin() + begun, round.queue.end());
    return rest;
}

void Engine::work(Worker& worker, Round& round, std::vector<Active>& games, std::vector<Active>& done) {
    std::vector<Row> rows;
    std::vector<Sequence> sequences;
    std::vector<Decision> decisions;
    std::vector<Token> tokens;
    while (round.finished < round.wanted) {
        while (games.size() < round.at_once) {
            const size_t i = round.next.fetch_add(1);
            if (i >= round.queue.size()) break;
            games.push_back(std::move(round.queue[i]));
        }
        if (games.empty()) return;
        rows.clear();
        sequences.clear();
        const bool pays = drafting_ == Drafting::ALWAYS || (drafting_ == Drafting::AUTO && games.size() <= FEW_GAMES);
        Drafts* const drafts = pays ? &worker.drafts : nullptr;
        // A guess costs a row. If right it saves a row and a share of a pass, which several games have in common.
        const auto sharing = static_cast<double>(games.size());
        const double least = drafting_ == Drafting::ALWAYS ? 0 : sharing / (sharing + PASS_ROWS);
        for (Active& game : games) {
            Slot& s = *game.slot;
            const size_t count = game.tokens.size();
            if (s.pending) rows.push_back(end_row(s));
            tokens.assign(1, game.last());
            if (drafts)
                drafts->propose(model_.config.grammar, s.trail, game.tokens, s.codes, least,
                                std::min(MOST_DRAFTED, MAX_ROWS / games.size() - 2), tokens);
            sequences.push_back({rows.size(), tokens.size(), static_cast<int64_t>(count) - 1});
            // Room for all of them first: a stage that grows moves.
            s.stage.ensure(count + tokens.size());
            for (size_t i = 0; i < tokens.size(); ++i)
                rows.push_back({&s, tokens[i], *s.position + static_cast<int64_t>(count - 1 + i), *s.position, &s.stage,
                                count - 1 + i, false});
        }
        worker.forward.run(rows.data(), rows.size());
        for (Active& game : games)
            if (game.slot->pending) forget_end(*game.slot);
        worker.decider.remember(rows.data(), 0, rows.size());
        worker.decider.run(rows.data(), rows.size(), sequences, decisions);
        size_t kept = 0;
        for (size_t i = 0; i < games.size(); ++i) {
            Slot& s = *games[i].slot;
            const size_t drafted = sequences[i].count - 1, right = decisions[i].decided.size() - 1;
            ++worker.counts.passes;
            worker.counts.drafted += static_cast<int64_t>(drafted);
            worker.counts.right += static_cast<int64_t>(right);
            // Updates of wrong guesses never were.
            const int64_t last = rows[sequences[i].first + right].position;
            while (!s.latest.empty() && s.latest.back().position > last) s.latest.pop_back();
            if (take(games[i], decisions[i], drafts)) {
                done.push_back(std::move(games[i]));
                ++round.finished;
            } else {
                if (kept != i) games[kept] = std::move(games[i]);
                ++kept;
            }
        }
        games.erase(games.begin() + static_cast<std::ptrdiff_t>(kept), games.end());
    }
}

bool Engine::take(Active& game, const Decision& decision, Drafts* drafts) {
    for (const Token& token : decision.decided) {
        game.tokens.push_back(token);
        if (token.kind == SCROLL) {
            game.outcome.scroll_x = token.a - model_.config.grammar.max_scroll;
            game.outcome.scroll_y = token.b - model_.config.grammar.max_scroll;
        } else if (token.kind == UPD) {
            game.outcome.cells.push_back(token.a);
            game.outcome.codes.push_back(model_.config.grammar.code(token));
            game.outcome.motions.push_back(model_.config.grammar.motion(token));
        }
    }
    if (game.last().kind != END) return false;
    finish(game, drafts);
    return true;
}

void Engine::finish(Active& game, Drafts* drafts) {
    Slot& s = *game.slot;
    Outcome& outcome = game.outcome;
    const Token& end = game.last();
    const size_t count = game.tokens.size();
    outcome.reward_class = end.a;
    outcome.done = end.b;
    outcome.tokens = static_cast<int32_t>(count);
    if (drafts) drafts->learn(model_.config.grammar, s.trail, game.tokens, s.codes);
    for (size_t i = 0; i < outcome.cells.size(); ++i) s.codes[outcome.cells[i]] = outcome.codes[i];
    commit(s, s.stage, *s.position, count - 1);
    s.held[(static_cast<size_t>(*s.position) + count - 1) % model_.config.window] = -1;
    std::swap(s.stage, s.previous);
    s.pending = end;
    s.pending_index = count - 1;
    s.origin[0] = end.x;
    s.origin[1] = end.y;
    *s.camera = model_.config.grammar.camera(outcome.scroll_x, outcome.scroll_y);
    *s.position += static_cast<int64_t>(count);
    *s.since_keyframe += static_cast<int64_t>(count);
    ++*s.time;
    if (s.latest.size() > REACH) s.latest.erase(s.latest.begin(), s.latest.end() - REACH);
}

}  // namespace gamegen
