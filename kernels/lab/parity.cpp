// Does every instruction set give the bits of the scalar lanes, in every operation?
//
//   cmake -S kernels/lab -B build/lab && cmake --build build/lab && build/lab/parity
//   kernels/lab/check_neon.sh            NEON, on any machine, by cross compiler and emulator
//
// Sizes that fill no lane, one lane or a lane and one; windows short of a block and round the ring's end; smooth,
// outlying, tied, zero and subnormal numbers. Exit status 1 on the first difference of an operation.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>

#include "lanes_scalar.h"
#include "ops_amx.h"
#include "problems.h"
#include "tiles.h"
#include "trial.h"

using namespace gamegen;
using namespace gamegen::lab;

namespace {

const size_t SIZES[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 256, 1000};
using Run = std::function<void(const Ops&, std::vector<float>&)>;

struct Tally {
    size_t cases = 0, wrong = 0;
};

class Check {
public:
    explicit Check(const Ops& ops) : ops_(ops), reference_(ops_for("scalar")) {}

    // `run` fills `out`, which begins as `before`.
    void operator()(const char* op, const std::vector<float>& before, const Run& run) {
        std::vector<float> expected = before, got = before;
        run(reference_, expected);
        run(ops_, got);
        Tally& tally = tallies_[op];
        ++tally.cases;
        for (size_t i = 0; i < expected.size(); ++i)
            if (std::memcmp(&expected[i], &got[i], 4) != 0) {
                if (tally.wrong++ == 0)
                    std::printf("%s %s, case %zu: number %zu of %zu: expected %a, got %a\n", ops_.name, op, tally.cases, i,
                                expected.size(), static_cast<double>(expected[i]), static_cast<double>(got[i]));
                break;
            }
    }
    bool report() const {
        size_t cases = 0, wrong = 0;
        for (const auto& [op, tally] : tallies_) {
            cases += tally.cases;
            wrong += tally.wrong;
            if (tally.wrong) std::printf("%s %s: %zu of %zu cases differ\n", ops_.name, op.c_str(), tally.wrong, tally.cases);
        }
        std::printf("%s: %zu operations, %zu checks, %zu failures\n", ops_.name, tallies_.size(), cases, wrong);
        return wrong == 0;
    }

private:
    const Ops &ops_, &reference_;
    std::map<std::string, Tally> tallies_;
};

void check_linear(Check& check, Random& random, Values values) {
    const std::pair<Weights, const char*> kinds[] = {
        {Weights::FLOAT, "linear_f32"}, {Weights::INT8, "linear_i8"}, {Weights::INT4, "linear_i4"}};
    for (const auto& [weights, name] : kinds)
        for (size_t k : SIZES)
            for (size_t n_out : {1, 64, 70, 130}) {
                const Linear m = linear(random, n_out, k, weights);
                for (size_t rows : {1, 2, 3, 5, 6, 7, 13, 16, 17, 35}) {
                    const size_t stride = k + random.below(3);
                    const auto x = floats(random, rows * stride, values);
                    std::vector<uint8_t> bytes(rows * scratch_bytes(k));
                    check(name, std::vector<float>(rows * m.width()),
                          [&](const Ops& ops, std::vector<float>& out) { ops.linear(m, x.data(), rows, stride, out.data(), bytes.data()); });
                }
            }
    // The largest sums that bytes can give.
    for (size_t k : {64, 1024}) {
        Linear m = linear(random, 64, k, Weights::INT8);
        for (auto& w : m.w8) w = -127;
        for (auto& o : m.offset) o = static_cast<int32_t>(k) * -127 * 128;
        const std::vector<float> x(k, 2.0f);
        std::vector<uint8_t> bytes(scratch_bytes(k));
        check("linear_i8", std::vector<float>(m.width()),
              [&](const Ops& ops, std::vector<float>& out) { ops.linear(m, x.data(), 1, k, out.data(), bytes.data()); });
    }
}

void check_elements(Check& check, Random& random, Values values) {
    const auto noise = floats(random, 65536, values == Values::TIES ? Values::TIES : Values::SMOOTH);
    for (size_t n : SIZES) {
        const auto x = floats(random, n, values), y = floats(random, n);
        check("rms_norm", x, [&](const Ops& ops, std::vector<float>& out) { ops.rms_norm(x.data(), y.data(), n, out.data()); });
        check("silu_times", x, [&](const Ops& ops, std::vector<float>& out) { ops.silu_times(x.data(), y.data(), n, out.data()); });
        check("silu", x, [&](const Ops& ops, std::vector<float>& out) { ops.silu(out.data(), n); });
        check("add", x, [&](const Ops& ops, std::vector<float>& out) { ops.add(out.data(), y.data(), n); });
        for (float least : {-2.0f, 2.9f})
            check("draw", {0}, [&](const Ops& ops, std::vector<float>& out) {
                out[0] = static_cast<float>(ops.draw(x.data(), n, least, 0.9f, noise.data(), static_cast<uint32_t>(n), n));
            });
        check("scale", x, [&](const Ops& ops, std::vector<float>& out) { ops.scale(out.data(), n, 0.37f); });
        check("maximum", {0}, [&](const Ops& ops, std::vector<float>& out) { out[0] = ops.maximum(x.data(), n); });
        for (float spread : {1.0f, 40.0f}) {
            auto logits = x;
            for (auto& v : logits) v *= spread;
            if (n > 2) logits[n / 2] = -__builtin_inff();
            logits.push_back(0);  // the sum
            check("exponentials", logits, [&](const Ops& ops, std::vector<float>& out) {
                out[n] = ops.exponentials(out.data(), n, ops.maximum(out.data(), n));
            });
        }
    }
    const auto head = floats(random, HEAD, values), turn = floats(random, HEAD);
    check("hadamard", head, [](const Ops& ops, std::vector<float>& out) { ops.hadamard(out.data()); });
    check("place", head, [&](const Ops& ops, std::vector<float>& out) { ops.place(out.data(), turn.data(), 0.37f); });
    check("quantise4", std::vector<float>(10), [&](const Ops& ops, std::vector<float>& out) {
        uint16_t numbers[2];
        ops.quantise4(head.data(), reinterpret_cast<uint8_t*>(out.data()), numbers, numbers + 1);
        out[8] = numbers[0], out[9] = numbers[1];
    });
    auto halves = floats(random, 256, values);
    for (size_t i = 0; i < 64; ++i) {  // what lies between halves, and beyond them
        halves[i] = half_to_float(static_cast<uint16_t>(random.below(0x7C00))) * (1 + 0x1p-11f);
        halves[64 + i] *= 0x1p-14f;
    }
    halves[255] = 70000;
    check("round_half", halves, [](const Ops& ops, std::vector<float>& out) { ops.round_half(out.data(), 256); });
}

void check_attention(Check& check, Random& random, Values values) {
    const struct { const char *scores, *mix; bool half, exact; } kinds[] = {
        {"scores_i4", "mix_i4", false, false}, {"scores_f4", "mix_f4", false, true}, {"scores_half", "mix_half", true, false}};
    for (const auto& kind : kinds)
        for (size_t window : {96, 200})
            for (size_t places : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{63}, size_t{64}, size_t{65}, window})
                for (size_t heads : {1, 2, 3, 4, 5, 8}) {
                    const Attention a(random, heads, window, places, 1 + random.below(20), kind.half, kind.exact, values);
                    std::vector<float> logits(heads * a.seen.width());
                    check(kind.scores, logits, [&](const Ops& ops, std::vector<float>& out) {
                        ops.scores(a.query.data(), heads, a.seen, out.data());
                    });
                    ops_for("scalar").scores(a.query.data(), heads, a.seen, logits.data());
                    check(kind.mix, std::vector<float>(heads * HEAD), [&](const Ops& ops, std::vector<float>& out) {
                        auto weights = logits;
                        ops.mix(weights.data(), heads, a.seen, out.data());
                    });
                }
}

void check_ballistic(Check& check, Random& random) {
    for (size_t map_cells : {2, 5, 16, 17, 32})
        for (size_t n_paths : {0, 1, 7, 64}) {
            const size_t n_heads = 1 + random.below(4);
            auto place = floats(random, 2 * n_paths), weight = floats(random, n_heads * n_paths, Values::TIES),
                 aim = floats(random, 4 * n_heads);
            for (auto& p : place) p *= static_cast<float>(map_cells);
            for (size_t h = 0; h < n_heads; ++h) aim[4 * h + 2] = std::fabs(aim[4 * h + 2]);  // precision
            const PathsView paths{n_heads, n_paths, map_cells, place.data(), weight.data(), aim.data()};
            check("ballistic", floats(random, map_cells * map_cells),
                  [&](const Ops& ops, std::vector<float>& out) { ops.ballistic(paths, out.data()); });
        }
}

// What AMX computes, over tiles in plain C++: on any CPU.
bool check_tiles() {
    Ops ops = ops_for("scalar");
    ops.name = "amx, emulated";
    ops.linear = TileProducts<Scalar, Tiles>::linear;
    Check check(ops);
    Random random(2);
    for (Values values : ALL_VALUES) check_linear(check, random, values);
    const Linear m = linear(random, 130, 68, Weights::INT8);  // more rows than a chunk
    const auto x = floats(random, 251 * m.k);
    std::vector<uint8_t> bytes(251 * scratch_bytes(m.k));
    check("linear_i8", std::vector<float>(251 * m.width()),
          [&](const Ops& o, std::vector<float>& out) { o.linear(m, x.data(), 251, m.k, out.data(), bytes.data()); });
    return check.report();
}

// Tiles of a CPU that forgets the products where k ends within a tile.
struct WrongTiles : Tiles {
    template <int S, int A, int B> static void dp4() {
        if constexpr (A == 4) Tiles::dp4<S, A, B>();
    }
};

// The trial that the engine makes before it trusts AMX finds such a CPU, and no fault in a right one.
bool check_trial() {
    Ops right = ops_for("scalar"), wrong = right;
    right.linear = TileProducts<Scalar, Tiles>::linear;
    wrong.linear = TileProducts<Scalar, WrongTiles>::linear;
    const bool told = multiplies_like(right, ops_for("scalar")) && !multiplies_like(wrong, ops_for("scalar"));
    std::printf("trial of amx: %s\n", told ? "right" : "WRONG");
    return told;
}

}  // namespace

int main() {
    bool equal = check_tiles();
    equal &= check_trial();
    for (const auto& name : available_ops()) {
        if (name == "scalar") continue;
        Check check(ops_for(name));
        Random random(1);
        for (Values values : ALL_VALUES) {
            check_linear(check, random, values);
            check_elements(check, random, values);
            check_attention(check, random, values);
            check_ballistic(check, random);
        }
        equal &= check.report();
    }
    return equal && available_ops().size() > 1 ? 0 : 1;
}
