// What the bindings share: how arrays, configurations and tokens come in and go out, checked.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>

#include "cells.h"

namespace gamegen {
namespace {

namespace nb = nanobind;

using Ints = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using ConstInts = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

template <class T> using Array = nb::ndarray<nb::numpy, T, nb::c_contig>;

// Give a vector to Python as an array of its own.
template <class T> Array<T> lend(std::vector<T> values, std::vector<size_t> shape) {
    auto* owned = new std::vector<T>(std::move(values));
    const nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Array<T>(owned->data(), shape.size(), shape.data(), owner);
}

inline void expect(bool ok, const std::string& message) {
    if (!ok) throw std::invalid_argument(message);
}

inline std::string spell(const std::vector<size_t>& shape) {
    std::string text = "(";
    for (size_t n : shape) text += std::to_string(n) + ", ";
    return text + ")";
}

template <class A> void expect_shape(const A& array, const std::string& name, const std::vector<size_t>& shape) {
    std::vector<size_t> got;
    for (size_t i = 0; i < array.ndim(); ++i) got.push_back(array.shape(i));
    expect(got == shape, name + ": expected shape " + spell(shape) + ", got " + spell(got));
}

template <class T> T number(const nb::dict& d, const char* name) {
    expect(d.contains(name), std::string("config: expected ") + name + ", got none");
    try {
        return nb::cast<T>(d[name]);
    } catch (const nb::cast_error&) {
        throw std::invalid_argument(std::string("config: ") + name + ": expected another type");
    }
}

inline Config read_config(const nb::dict& d) {
    Config c{};
    c.grammar = {number<int32_t>(d, "map_cells"), number<int32_t>(d, "view_cells"), number<int32_t>(d, "max_scroll"),
                 number<int32_t>(d, "cell_size"), number<int32_t>(d, "n_codes"), number<int32_t>(d, "n_actions")};
    c.n_layers = number<size_t>(d, "n_layers");
    c.d_model = number<size_t>(d, "d_model");
    c.n_heads = number<size_t>(d, "n_heads");
    c.n_kv_heads = number<size_t>(d, "n_kv_heads");
    c.d_ff = number<size_t>(d, "d_ff");
    c.window = number<size_t>(d, "window");
    c.pointer = number<bool>(d, "pointer");
    c.ballistics = number<bool>(d, "ballistics");
    c.anchor = number<bool>(d, "anchor");
    c.sprites = number<bool>(d, "sprites");
    c.things = number<bool>(d, "things");
    c.max_motion = number<int32_t>(d, "max_motion");
    return c;
}

inline Tensors read_tensors(const nb::dict& d) {
    Tensors tensors;
    for (const auto& [key, value] : d) {
        const auto name = nb::cast<std::string>(key);
        Floats array;
        expect(nb::try_cast(value, array), "weights: " + name + ": expected a contiguous float32 array");
        Tensor t{array.data(), {}};
        for (size_t i = 0; i < array.ndim(); ++i) t.shape.push_back(array.shape(i));
        tensors.emplace(name, std::move(t));
    }
    return tensors;
}

// The decoder of a tokenizer; `weights` are its tensors, sizes are those of their shapes.
inline CellDecoder read_decoder(const nb::dict& weights, size_t cell_size) {
    const Tensors tensors = read_tensors(weights);
    const auto shape = [&](const char* name) {
        const auto found = tensors.find(name);
        expect(found != tensors.end() && found->second.shape.size() == 2, std::string("weights: expected a matrix ") + name);
        return found->second.shape;
    };
    expect(cell_size > 0 && cell_size <= 64, "cell_size: expected 1 to 64, got " + std::to_string(cell_size));
    return {tensors, cell_size, shape("codebook")[0], shape("codebook")[1], shape("decoder.0.weight")[0]};
}

using Rows = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Tokens of one keyframe or step; throws std::invalid_argument on numbers out of range.
inline std::vector<Token> read_tokens(const Config& config, const Rows& rows) {
    const Grammar& g = config.grammar;
    expect(rows.shape(1) == 6 && rows.shape(0) <= config.max_step_tokens(), "rows: expected at most one step of (n, 6)");
    std::vector<Token> tokens;
    for (size_t i = 0; i < rows.shape(0); ++i) {
        const int64_t* r = rows.data() + 6 * i;
        const auto below = [&](int field, int64_t limit) {
            expect(r[field] >= 0 && r[field] < limit, "rows[" + std::to_string(i) + ", " + std::to_string(field) +
                                                          "]: expected 0.." + std::to_string(limit - 1) + ", got " +
                                                          std::to_string(r[field]));
        };
        below(0, 5);
        const bool cell = r[0] == KEY || r[0] == UPD;
        below(1, cell ? g.n_cells() : r[0] == ACT ? g.n_actions : r[0] == SCROLL ? g.side() : 3);
        const int64_t contents = g.n_codes * (1 + static_cast<int64_t>(config.n_motions()));
        below(2, r[0] == KEY ? g.n_codes * (1 + config.anchor) : r[0] == UPD ? contents : r[0] == ACT ? g.side() * g.side() : r[0] == SCROLL ? g.side() : 2);
        below(3, g.size());
        below(4, g.size());
        below(5, int64_t{1} << 62);
        tokens.push_back({static_cast<int32_t>(r[0]), static_cast<int32_t>(r[1]), static_cast<int32_t>(r[2]),
                          static_cast<int32_t>(r[3]), static_cast<int32_t>(r[4]), r[5]});
    }
    return tokens;
}

// Finished steps as the arrays of a StepBatch: updates of slot i are ptr[i]:ptr[i + 1].
template <class Outcome> nb::tuple ragged(const std::vector<Outcome>& outcomes) {
    const size_t n = outcomes.size();
    std::vector<int64_t> scroll, ptr{0}, cells, codes, motions, reward, done, tokens;
    for (const Outcome& o : outcomes) {
        scroll.insert(scroll.end(), {o.scroll_x, o.scroll_y});
        cells.insert(cells.end(), o.cells.begin(), o.cells.end());
        codes.insert(codes.end(), o.codes.begin(), o.codes.end());
        motions.insert(motions.end(), o.motions.begin(), o.motions.end());
        ptr.push_back(static_cast<int64_t>(cells.size()));
        reward.push_back(o.reward_class);
        done.push_back(o.done);
        tokens.push_back(o.tokens);
    }
    const size_t updates = cells.size();
    return nb::make_tuple(lend(std::move(scroll), {n, 2}), lend(std::move(ptr), {n + 1}), lend(std::move(cells), {updates}),
                          lend(std::move(codes), {updates}), lend(std::move(motions), {updates}), lend(std::move(reward), {n}),
                          lend(std::move(done), {n}), lend(std::move(tokens), {n}));
}

}  // namespace
}  // namespace gamegen
