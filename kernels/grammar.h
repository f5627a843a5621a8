// What may follow what: gamegen_env/stream.py in C++.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "hd.h"

namespace gamegen {

enum Kind : int32_t { KEY, ACT, SCROLL, UPD, END };

struct Token {
    // x, y: origin; b of an update that moves the picture: code + n_codes * (motion + 1); of a keyframe's cell that differs
    // from its anchor (gamegen_env/anchor.py): code + n_codes.
    int32_t kind, a, b, x, y;
    int64_t time;
    GAMEGEN_HD bool cell() const { return kind == KEY || kind == UPD; }
    GAMEGEN_HD bool operator==(const Token& o) const {
        return kind == o.kind && a == o.a && b == o.b && x == o.x && y == o.y && time == o.time;
    }
};

struct Grammar {
    int32_t map_cells, view_cells, max_scroll, cell_size, n_codes, n_actions;
    GAMEGEN_HD int32_t n_cells() const { return map_cells * map_cells; }
    GAMEGEN_HD int32_t size() const { return map_cells * cell_size; }  // of the torus, pixels
    GAMEGEN_HD int32_t side() const { return 2 * max_scroll + 1; }
    GAMEGEN_HD int32_t n_events() const { return n_cells() + side() * side() + 1; }
    GAMEGEN_HD int32_t end_event() const { return n_events() - 1; }
    GAMEGEN_HD int32_t code(const Token& cell) const { return cell.b % n_codes; }
    GAMEGEN_HD int32_t motion(const Token& cell) const { return cell.b / n_codes - 1; }  // -1: repainted
    GAMEGEN_HD bool astray(const Token& cell) const { return cell.kind == KEY && cell.b >= n_codes; }  // from its anchor
    // How a step's scroll is told by the next action.
    GAMEGEN_HD int32_t camera(int32_t dx, int32_t dy) const { return (dy + max_scroll) * side() + dx + max_scroll; }
    GAMEGEN_HD int32_t still_event() const { return n_cells() + camera(0, 0); }  // a scroll by (0, 0)

    // Does a row (or column) of cells show a pixel, the origin on this axis being `origin`?
    GAMEGEN_HD bool shown(int32_t line, int32_t origin) const {
        const int32_t place = (line - origin / cell_size + map_cells) % map_cells;
        return place < view_cells + (origin % cell_size > 0);
    }
    // Set logits of events that may not follow `last` to -inf.
    void mask(const Token& last, float* logits) const {
        const float never = -__builtin_inff();
        const int32_t first = last.kind == UPD ? last.a + 1 : 0;
        for (int32_t row = 0, cell = 0; row < map_cells; ++row) {
            const bool row_shown = shown(row, last.y);
            for (int32_t col = 0; col < map_cells; ++col, ++cell)
                if (cell < first || !row_shown || !shown(col, last.x)) logits[cell] = never;
        }
        if (last.kind != ACT)
            for (int32_t event = n_cells(); event < end_event(); ++event) logits[event] = never;
        logits[still_event()] = never;
    }
    // The token that an event makes; a and b of UPD and END are not decided yet.
    GAMEGEN_HD Token after(const Token& last, int32_t event) const {
        Token next = last;
        next.b = 0;
        if (event < n_cells()) {
            next.kind = UPD;
            next.a = event;
        } else if (event == end_event()) {
            next.kind = END;
            next.a = 0;
        } else {
            next.kind = SCROLL;
            next.a = (event - n_cells()) % side();
            next.b = (event - n_cells()) / side();
            next.x = (last.x + next.a - max_scroll + size()) % size();
            next.y = (last.y + next.b - max_scroll + size()) % size();
        }
        return next;
    }
};

}  // namespace gamegen
