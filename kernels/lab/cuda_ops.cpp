// Do the CUDA engine's operations, emulated, give the bits of the native engine's? Run by tests/test_cuda_ops.py:
//
//   g++ -std=c++20 -O2 -ffp-contract=off -U_FORTIFY_SOURCE -I kernels kernels/lab/cuda_ops.cpp kernels/isa_scalar.cpp
//   kernels/slot.cpp -o build/cuda_ops && build/cuda_ops
//
// Sizes that fill no tile, one or a tile and one; both ways to multiply; one, two and four heads that share loads; windows
// short of a block, and places that wrap; smooth, outlying, tied, zero and subnormal numbers. Exit status 1 on a difference.
#include "cuda/device.h"
#include "cuda/loop.cuh"
#include "cuda/weights.h"
#include "problems.h"
#include "slot.h"

#include <cstdio>
#include <map>

using namespace gamegen;
using namespace gamegen::cuda;
using lab::ALL_VALUES;
using lab::Random;
using lab::Values;

namespace gamegen {
extern const Ops scalar_ops;
}

namespace {

const Ops& native = scalar_ops;
Stream stream;

struct Tally {
    size_t cases = 0, wrong = 0;
};
std::map<std::string, Tally> tallies;

// Are `got` and `expected` (n) the same bytes?
template <class T> void compare(const char* op, const std::string& which, const T* got, const T* expected, size_t n) {
    Tally& tally = tallies[op];
    ++tally.cases;
    for (size_t i = 0; i < n; ++i)
        if (std::memcmp(got + i, expected + i, sizeof(T)) != 0) {
            if (tally.wrong++ == 0)
                std::printf("%s, %s: number %zu of %zu: expected %g, got %g\n", op, which.c_str(), i, n, static_cast<double>(expected[i]),
                            static_cast<double>(got[i]));
            return;
        }
}
template <class T> std::string spell(const char* name, T value) { return std::string(name) + " " + std::to_string(value) + " "; }

// Rows of `k` numbers on their way into a product: what kernels need of a View.
struct Rows {
    Memory memory{stream};
    View w{};
    int* count;
    Rows(size_t rows, size_t k) {
        const size_t stride = round_up(k, 64);
        w.bytes = {memory.zeros<int8_t>(rows * stride), memory.zeros<float>(rows), static_cast<int>(stride)};
        w.n_rows = count = memory.zeros<int>(1);
        *count = static_cast<int>(rows);
        w.config.d_model = k;
    }
};

void check_products(Random& random, Values values) {
    for (auto weights : {lab::Weights::INT8, lab::Weights::INT4})
        for (size_t k : {1, 31, 32, 33, 63, 64, 65, 100, 256, 300})
            for (size_t n_out : {1, 64, 70}) {
                const Linear m = lab::linear(random, n_out, k, weights);
                Memory memory(stream);
                const LinearView view = upload(memory, m);
                for (size_t rows : {1, 3, 4, 5, 8, 9, 16, 17, 21}) {
                    const auto x = lab::floats(random, rows * k, values);
                    std::vector<float> expected(rows * m.width());
                    std::vector<uint8_t> bytes(rows * scratch_bytes(k));
                    native.linear(m, x.data(), rows, k, expected.data(), bytes.data());
                    Rows r(rows, k);
                    const auto grid = static_cast<unsigned>(rows + 2);  // blocks without a row must do nothing
                    LAUNCH(stream, quantise, grid, ROW_THREADS, r.w, r.count, x.data(), static_cast<int>(k), static_cast<int>(k));
                    std::vector<float> got(rows * m.width()), sum(rows * n_out, 0.5f);
                    const dim3 tiles(static_cast<unsigned>(m.width() / TILE_OUTPUTS), grid / TILE_ROWS + 1);
                    const auto product = m.w4.empty() ? product8 : product4;
                    LAUNCH(stream, product, tiles, PRODUCT_THREADS, r.w, r.count, view, got.data(), static_cast<int>(m.width()), false);
                    LAUNCH(stream, product, tiles, PRODUCT_THREADS, r.w, r.count, view, sum.data(), static_cast<int>(n_out), true);
                    const std::string which = spell("rows", rows) + spell("k", k) + spell("outputs", n_out);
                    compare(m.w4.empty() ? "product8" : "product4", which, got.data(), expected.data(), got.size());
                    std::vector<float> added(rows * n_out);
                    for (size_t i = 0; i < added.size(); ++i) added[i] = 0.5f + expected[i / n_out * m.width() + i % n_out];
                    compare("product, added", which, sum.data(), added.data(), added.size());
                }
            }
}

void check_rows(Random& random, Values values) {
    for (size_t n : {1, 15, 16, 17, 64, 65, 100, 256}) {
        const size_t rows = 3;
        const auto x = lab::floats(random, rows * n, values), gain = lab::floats(random, n), more = lab::floats(random, 5 * n);
        const std::vector<int> which{4, 0, 2};
        for (bool adds : {false, true}) {
            Rows r(rows, n), again(rows, n);
            std::vector<float> got(rows * n), expected(rows * n);
            LAUNCH(stream, normalise, rows + 1, ROW_THREADS, r.w, r.count, x.data(), static_cast<int>(n), adds ? more.data() : nullptr, which.data(),
                   gain.data(), got.data());
            for (size_t i = 0; i < rows; ++i) {
                auto row = std::vector<float>(x.begin() + static_cast<ptrdiff_t>(i * n), x.begin() + static_cast<ptrdiff_t>((i + 1) * n));
                for (size_t j = 0; adds && j < n; ++j) row[j] += more[static_cast<size_t>(which[i]) * n + j];
                native.rms_norm(row.data(), gain.data(), n, expected.data() + i * n);
            }
            compare("normalise", spell("n", n), got.data(), expected.data(), got.size());
            LAUNCH(stream, quantise, rows, ROW_THREADS, again.w, again.count, expected.data(), static_cast<int>(n), static_cast<int>(n));
            compare("normalise, bytes", spell("n", n), r.w.bytes.bytes, again.w.bytes.bytes, rows * round_up(n, 64));
            compare("normalise, scales", spell("n", n), r.w.bytes.scales, again.w.bytes.scales, rows);
        }
        const auto both = lab::floats(random, rows * 2 * n, values);
        for (int up_at : {static_cast<int>(n), 0}) {
            Rows r(rows, n), again(rows, n);
            std::vector<float> expected(rows * n);
            LAUNCH(stream, gate, rows, ROW_THREADS, r.w, r.count, both.data(), static_cast<int>(2 * n), up_at, static_cast<int>(n));
            for (size_t i = 0; i < rows; ++i) {
                const float* x = both.data() + i * 2 * n;
                float* out = expected.data() + i * n;
                std::copy_n(x, n, out);
                if (up_at) native.silu_times(x, x + n, n, out);
                else native.silu(out, n);
            }
            LAUNCH(stream, quantise, rows, ROW_THREADS, again.w, again.count, expected.data(), static_cast<int>(n), static_cast<int>(n));
            compare("gate", spell("n", n) + spell("up", up_at), r.w.bytes.bytes, again.w.bytes.bytes, rows * round_up(n, 64));
            compare("gate, scales", spell("n", n) + spell("up", up_at), r.w.bytes.scales, again.w.bytes.scales, rows);
        }
    }
}

// One slot of one layer, its cache filled at random, beside a native one.
struct Game {
    Memory memory{stream};
    View w{};
    Slot slot;
    Config config{};
    Game(Random& random, size_t heads, size_t kv_heads, size_t window, size_t committed, size_t index) {
        config.grammar = {5, 4, 2, 4, 64, 9};
        config.n_layers = 1;
        config.n_heads = heads;
        config.n_kv_heads = kv_heads;
        config.window = window;
        slot.allocate(config, false);
        w.config = config;
        w.places = static_cast<int>(round_up(window, BLOCK));
        w.layer_heads = static_cast<int>(kv_heads);
        w.stage_tokens = static_cast<int>(index + 1);
        w.logits_width = w.places + static_cast<int>(round_up(index + 1, 16));
        const size_t places = static_cast<size_t>(w.places), bytes = kv_heads * places * 32;
        w.k = memory.zeros<uint8_t>(bytes);
        w.v = memory.zeros<uint8_t>(bytes);
        w.scales = memory.zeros<uint16_t>(kv_heads * places * 4);
        for (size_t i = 0; i < bytes; ++i) w.k[i] = static_cast<uint8_t>(random.bits()), w.v[i] = static_cast<uint8_t>(random.bits());
        for (size_t i = 0; i < kv_heads * places * 4; ++i)  // scales are positive
            w.scales[i] = float_to_half(i / places % 2 ? random.uniform(-2, 0) : random.uniform(0, 0.3f));
        for (size_t h = 0; h < kv_heads; ++h) {
            const HeadCache c = slot.cache(h);
            std::copy_n(w.k + h * places * 32, places * 32, c.k);
            std::copy_n(w.v + h * places * 32, places * 32, c.v);
            uint16_t* const numbers[4] = {c.k_scale, c.k_minimum, c.v_scale, c.v_minimum};
            for (size_t i = 0; i < 4; ++i) std::copy_n(w.scales + (h * 4 + i) * places, places, numbers[i]);
        }
        w.staged = memory.zeros<uint16_t>(2 * (index + 1) * kv_heads * 128);
        w.stage_codes = memory.zeros<int16_t>(2 * (index + 1));
        w.held = memory.zeros<int16_t>(window);
        for (size_t i = 0; i < 2 * (index + 1) * kv_heads * 128; ++i) w.staged[i] = float_to_half(random.uniform(-3, 3));
        w.rows = memory.zeros<PassRow>(1);
        w.rows[0].committed = static_cast<int64_t>(committed);
        w.rows[0].index = static_cast<int>(index);
        w.rows[0].position = static_cast<int64_t>(committed + index);
        w.n_rows = memory.zeros<int>(1);
        *w.n_rows = 1;
        w.heads = memory.zeros<float>((heads + 2 * kv_heads) * HEAD);
        w.turn = memory.zeros<float>(HEAD);
        w.attended = memory.zeros<float>(heads * HEAD);
        w.logits = memory.zeros<float>((heads + 1) * static_cast<size_t>(w.logits_width));
        w.partial = memory.zeros<int>(heads * places);
        w.tops = memory.zeros<float>(heads * places / 64);
        w.weights = memory.zeros<int8_t>(heads * places);
    }
    // The staged tokens, as the native engine keeps them.
    std::vector<float> floats(size_t stage) const {
        std::vector<float> all;
        const size_t n = static_cast<size_t>(w.stage_tokens * w.layer_heads) * 128;
        for (size_t i = 0; i < n; ++i) all.push_back(half_to_float(w.staged[stage * n + i]));
        return all;
    }
    void compare_rings(const char* op, const std::string& which) const {
        const size_t places = static_cast<size_t>(w.places);
        for (size_t h = 0; h < config.n_kv_heads; ++h) {
            const HeadCache c = slot.cache(h);
            compare(op, which + "keys", w.k + h * places * 32, c.k, places * 32);
            compare(op, which + "values", w.v + h * places * 32, c.v, places * 32);
            const uint16_t* const numbers[4] = {c.k_scale, c.k_minimum, c.v_scale, c.v_minimum};
            for (size_t i = 0; i < 4; ++i) compare(op, which + "numbers", w.scales + (h * 4 + i) * places, numbers[i], places);
        }
    }
};

void check_turn(Random& random, Values values) {
    const std::pair<size_t, size_t> shapes[] = {{1, 1}, {4, 1}, {4, 2}, {5, 5}, {9, 3}};
    for (const auto& [heads, kv] : shapes)
        for (int commits : {0, 1}) {
            Game g(random, heads, kv, 96, 130, 2);
            const size_t all = heads + 2 * kv;
            const auto x = lab::floats(random, all * HEAD, values), turn = lab::floats(random, HEAD), q_norm = lab::floats(random, HEAD),
                       k_norm = lab::floats(random, HEAD);
            std::copy(x.begin(), x.end(), g.w.heads);
            std::copy(turn.begin(), turn.end(), g.w.turn);
            g.w.rows[0].commit = commits;
            LAUNCH(stream, turn_heads, 1, static_cast<unsigned>(round_up(all * 16, 32)), g.w, q_norm.data(), k_norm.data(), 0, static_cast<int>(all * HEAD));
            std::vector<float> expected = x, staged(kv * 128);
            const auto place = [&](float* head, const float* norm) {
                native.rms_norm(head, norm, HEAD, head);
                for (size_t i = 0; i < 32; ++i) {
                    const float a = head[i], b = head[i + 32];
                    head[i] = a * turn[i] - b * turn[32 + i];
                    head[i + 32] = b * turn[i] + a * turn[32 + i];
                }
                native.hadamard(head);
            };
            for (size_t h = 0; h < heads; ++h) {
                place(expected.data() + h * HEAD, q_norm.data());
                for (size_t i = 0; i < HEAD; ++i) expected[h * HEAD + i] *= 0.125f;
            }
            for (size_t h = 0; h < kv; ++h) {
                float *key = expected.data() + (heads + h) * HEAD, *value = key + kv * HEAD;
                place(key, k_norm.data());
                native.hadamard(value);
                std::copy_n(key, HEAD, staged.data() + h * 128);
                std::copy_n(value, HEAD, staged.data() + h * 128 + 64);
            }
            native.round_half(staged.data(), staged.size());
            for (size_t h = 0; commits && h < kv; ++h) g.slot.commit(native, h, staged.data() + h * 128, 132 % 96);
            const std::string which = spell("heads", heads) + spell("kv", kv);
            compare("turn_heads", which, g.w.heads, expected.data(), heads * HEAD);
            compare("turn_heads, staged", which, g.floats(0).data() + 2 * kv * 128, staged.data(), staged.size());
            g.compare_rings("turn_heads, committed", which);
        }
}

template <int G> void attend_with(Random& random, Values values, size_t heads, size_t kv) {
    for (size_t window : {96, 200})
        for (size_t committed : {size_t{0}, size_t{1}, size_t{17}, size_t{63}, size_t{64}, size_t{65}, window, window + 5, 3 * window - 1})
            for (size_t index : {0, 1, 9, 21}) {
                Game g(random, heads, kv, window, committed, index);
                const auto query = lab::floats(random, heads * HEAD, values);
                for (size_t i = 0; i < query.size(); ++i) g.w.heads[i] = query[i] * 0.125f;
                LAUNCH(stream, attend<G>, dim3(1, static_cast<unsigned>(heads / G)), ATTEND_THREADS, g.w, 0, static_cast<int>((heads + 2 * kv) * HEAD));
                const auto staged = g.floats(0);
                std::vector<float> expected(heads * HEAD);
                for (size_t h = 0; h < kv; ++h) {
                    const Seen s{g.slot.cache(h), false, false, std::min(committed, window), window, committed % window,
                                 std::min(index + 1, window), staged.data() + h * 128, kv * 128, index + 1};
                    const size_t group = heads / kv;
                    std::vector<float> logits(group * s.width());
                    native.scores(g.w.heads + h * group * HEAD, group, s, logits.data());
                    native.mix(logits.data(), group, s, expected.data() + h * group * HEAD);
                }
                for (size_t h = 0; h < heads; ++h) native.hadamard(expected.data() + h * HEAD);
                compare(("attend<" + std::to_string(G) + ">").c_str(), spell("window", window) + spell("committed", committed) + spell("index", index),
                        g.w.attended, expected.data(), expected.size());
            }
}

void check_commit(Random& random) {
    for (size_t count : {0, 1, 2, 3, 9, 40})
        for (size_t kv : {1, 3}) {
            Game g(random, kv, kv, 97, 0, count);
            if (count > 2) std::fill_n(g.w.staged, 128 * kv, float_to_half(0.25f));  // one constant group, one of zeros
            if (count > 2) std::fill_n(g.w.staged + 128 * kv, 128 * kv, float_to_half(-0.0f));
            g.w.live = g.memory.zeros<Live>(1);
            g.w.live[0].position = 97 * 3 - 5;  // round the ring's end
            g.w.live[0].count = static_cast<int>(count) + 1;
            g.w.asked = g.memory.zeros<int>(2);
            g.w.n_asked = g.memory.zeros<int>(1);
            *g.w.n_asked = 1;
            LAUNCH(stream, commit, dim3(2, static_cast<unsigned>(kv)), 64, g.w);
            const auto staged = g.floats(0);
            for (size_t i = 0; i < count; ++i)
                for (size_t h = 0; h < kv; ++h) g.slot.commit(native, h, staged.data() + (i * kv + h) * 128, (97 * 3 - 5 + i) % 97);
            g.compare_rings("commit", spell("tokens", count));
        }
}

KERNEL draw(View w, const float* logits, int n, uint32_t key, int* drawn) {
    SHARED(float, box, DRAW_THREADS / 32);
    SHARED(int, who, DRAW_THREADS / 32);
    const int mine = block_draw(w, logits, n, key, w.temperature, box, who);
    drawn[thread_index()] = mine;
}
// As Decider::draw, spelled plainly.
int draw_plainly(const View& w, const std::vector<float>& logits, uint32_t key) {
    const size_t n = logits.size();
    const float top = native.maximum(logits.data(), n);
    size_t best = n - 1;
    float best_score = LOWEST;
    for (size_t i = n; w.temperature == 0 && i-- > 0;)
        if (logits[i] == top) best = i;
    for (size_t i = 0; w.temperature != 0 && i < n; ++i) {
        if (!(logits[i] >= top - w.span * w.temperature)) continue;
        const float score = logits[i] / w.temperature + gumbel(w.gumbel, key, static_cast<uint32_t>(i));
        if (score > best_score) best_score = score, best = i;
    }
    return static_cast<int>(best);
}
void check_sampler(Random& random, Values values) {
    std::vector<float> table(65536);
    for (size_t i = 0; i < table.size(); ++i) table[i] = -log_of(-log_of((static_cast<float>(i) + 0.5f) / 65536));
    for (size_t n : {1, 2, 31, 32, 33, 127, 128, 129, 577, 2048})
        for (float temperature : {0.0f, 0.7f, 5.0f})
            for (int masked : {0, 1, 2}) {  // none, some, all
                View w{};
                w.gumbel = table.data();
                w.temperature = temperature;
                w.span = table.back() - table.front() + 1;
                auto logits = lab::floats(random, n, values);
                for (size_t i = 0; i < n; ++i)
                    if (masked == 2 || (masked && random.below(3))) logits[i] = LOWEST;
                const auto key = static_cast<uint32_t>(random.bits());
                int drawn[DRAW_THREADS];
                LAUNCH(stream, draw, 1, DRAW_THREADS, w, logits.data(), static_cast<int>(n), key, drawn);
                const std::vector<int> expected(DRAW_THREADS, draw_plainly(w, logits, key));
                compare("block_draw", spell("n", n) + spell("temperature", temperature) + spell("masked", masked), drawn, expected.data(), DRAW_THREADS);
            }
}

}  // namespace

int main() {
    Random random(1);
    uint32_t seed = 0;
    for (Values values : ALL_VALUES) {
        simt::seed() = ++seed;
        check_products(random, values);
        check_rows(random, values);
        check_turn(random, values);
        attend_with<1>(random, values, 3, 1);
        attend_with<2>(random, values, 4, 2);
        attend_with<4>(random, values, 8, 1);
        check_commit(random);
        check_sampler(random, values);
    }
    size_t cases = 0, wrong = 0;
    for (const auto& [op, tally] : tallies) {
        cases += tally.cases;
        wrong += tally.wrong;
        if (tally.wrong) std::printf("%s: %zu of %zu cases differ\n", op.c_str(), tally.wrong, tally.cases);
    }
    std::printf("%zu operations, %zu checks, %zu failures\n", tallies.size(), cases, wrong);
    return wrong != 0;
}
