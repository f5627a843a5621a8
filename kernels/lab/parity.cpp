// Every operation in every instruction set of this CPU, against plain C++: equal to the bit, at awkward sizes.
//
//   cmake -S kernels/lab -B build/lab && cmake --build build/lab && build/lab/parity
//   kernels/lab/check_neon.sh            NEON, on any machine, by cross compiler and emulator
#include <cstdio>
#include <cstring>
#include <random>

#include "../ops.h"

using namespace gamegen;

namespace {

std::mt19937 generator(0);

std::vector<float> noise(size_t n, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> v(n);
    for (float& x : v) x = normal(generator);
    return v;
}

size_t failures = 0, checks = 0;

void check(const char* what, const Ops& ops, size_t size, const std::vector<float>& expected, const std::vector<float>& got) {
    ++checks;
    for (size_t i = 0; i < expected.size(); ++i)
        if (std::memcmp(&expected[i], &got[i], 4) != 0) {
            std::printf("%s %s, size %zu: [%zu] expected %.9g, got %.9g\n", ops.name, what, size, i, expected[i], got[i]);
            ++failures;
            return;
        }
}

Linear matrix(size_t n_out, size_t k, bool quantised) {
    Linear m;
    m.n_out = n_out;
    m.k = k;
    m.blocks = round_up(n_out, BLOCK) / BLOCK;
    m.bias = noise(m.width());
    if (!quantised) {
        m.w = noise(m.blocks * k * BLOCK);
        return m;
    }
    const size_t quads = (k + 3) / 4;
    m.w8.resize(m.blocks * quads * BLOCK * 4);
    m.offset.resize(m.width());
    m.scale = noise(m.width(), 0.01f);
    for (size_t i = 0; i < m.w8.size(); ++i) {
        m.w8[i] = i / (BLOCK * 4) % quads * 4 + i % 4 < k ? static_cast<int8_t>(static_cast<int>(generator() % 255) - 127) : int8_t{0};
        m.offset[i / (quads * BLOCK * 4) * BLOCK + i % (BLOCK * 4) / 4] += 128 * m.w8[i];
    }
    return m;
}

void linears(const Ops& a, const Ops& b) {
    for (bool quantised : {false, true})
        for (size_t k : {1, 3, 16, 37, 256})
            for (size_t n_out : {5, 64, 200})
                for (size_t rows : {1, 2, 5, 7, 13}) {
                    const Linear m = matrix(n_out, k, quantised);
                    auto x = noise(rows * (k + 3));
                    if (rows > 1) std::fill(x.begin(), x.begin() + static_cast<long>(k), 0.0f);
                    std::vector<float> expected(rows * m.width()), got(rows * m.width());
                    std::vector<uint8_t> bytes(rows * round_up(k, 4) + 16);
                    a.linear(m, x.data(), rows, k + 3, expected.data(), bytes.data());
                    b.linear(m, x.data(), rows, k + 3, got.data(), bytes.data());
                    check(quantised ? "linear int8" : "linear float", b, k, expected, got);
                }
}

void vectors(const Ops& a, const Ops& b) {
    for (size_t n : {1, 15, 16, 17, 64, 255, 8192})
        for (float scale : {1e-6f, 1.0f, 40.0f}) {
            const auto x = noise(n, scale), y = noise(n, scale);
            std::vector<float> expected(n), got(n);
            a.rms_norm(x.data(), y.data(), n, expected.data()), b.rms_norm(x.data(), y.data(), n, got.data());
            check("rms_norm", b, n, expected, got);
            a.silu_times(x.data(), y.data(), n, expected.data()), b.silu_times(x.data(), y.data(), n, got.data());
            check("silu_times", b, n, expected, got);
            expected = got = x;
            a.silu(expected.data(), n), b.silu(got.data(), n);
            check("silu", b, n, expected, got);
            expected = got = x;
            const float top = a.maximum(x.data(), n);
            check("maximum", b, n, {top}, {b.maximum(x.data(), n)});
            expected[n / 2] = got[n / 2] = -__builtin_inff();
            const float sum = a.exponentials(expected.data(), n, top), other = b.exponentials(got.data(), n, top);
            check("exponentials", b, n, expected, got);
            check("sum of exponentials", b, n, {sum}, {other});
            a.scale(expected.data(), n, 0.3f), b.scale(got.data(), n, 0.3f);
            check("scale", b, n, expected, got);
        }
    for (float scale : {1e-7f, 1e-3f, 1.0f, 1e4f}) {
        auto expected = noise(HEAD, scale), got = expected;
        a.hadamard(expected.data()), b.hadamard(got.data());
        check("hadamard", b, HEAD, expected, got);
        a.round_half(expected.data(), HEAD), b.round_half(got.data(), HEAD);
        check("round_half", b, HEAD, expected, got);
    }
}

void attention(const Ops& a, const Ops& b) {
    for (size_t window : {64, 96, 500})
        for (size_t places : {size_t{0}, size_t{1}, size_t{17}, window - 1, window})
            for (size_t heads : {1, 2, 4, 5, 8})
                for (int mode = 0; mode < 3; ++mode) {
                    const size_t padded = round_up(window, BLOCK), staged = 1 + places % 5;
                    std::vector<uint8_t> k(padded * HEAD * 2), v(padded * HEAD * 2);
                    std::vector<uint16_t> halves(4 * padded);
                    for (size_t i = 0; i < k.size(); ++i) {  // halves below 2 where they are halves
                        const bool upper = mode == 2 && i % 2;
                        k[i] = static_cast<uint8_t>(generator() & (upper ? 0xBF : 0xFF));
                        v[i] = static_cast<uint8_t>(generator() & (upper ? 0xBF : 0xFF));
                    }
                    for (auto& h : halves) h = static_cast<uint16_t>(generator() % 0x3800);
                    const auto stage = noise(staged * 2 * HEAD), query = noise(heads * HEAD);
                    const Seen s{{k.data(), v.data(), &halves[0], &halves[padded], &halves[2 * padded], &halves[3 * padded]},
                                 mode == 2, mode == 1, places, window, places % window, places == window ? staged : 0,
                                 stage.data(), 2 * HEAD, staged};
                    std::vector<float> expected(heads * s.width()), got(heads * s.width());
                    a.scores(query.data(), heads, s, expected.data()), b.scores(query.data(), heads, s, got.data());
                    check("scores", b, places, expected, got);
                    std::vector<float> out(heads * HEAD), other(heads * HEAD);
                    a.mix(expected.data(), heads, s, out.data()), b.mix(got.data(), heads, s, other.data());
                    check("mix", b, places, out, other);
                }
}

void ballistics(const Ops& a, const Ops& b) {
    for (size_t cells : {2, 5, 16, 17, 32})
        for (size_t paths : {1, 7, 64}) {
            const auto place = noise(2 * paths, 20), aim = noise(16);
            auto weight = noise(4 * paths), spread = aim;
            for (float& w : weight) w = w < 0 ? 0 : w;
            for (size_t h = 0; h < 4; ++h) spread[4 * h + 2] = 1 + 30 * aim[4 * h + 2] * aim[4 * h + 2];
            auto expected = noise(cells * cells), got = expected;
            const PathsView view{4, paths, cells, place.data(), weight.data(), spread.data()};
            a.ballistic(view, expected.data()), b.ballistic(view, got.data());
            check("ballistic", b, cells, expected, got);
        }
}

}  // namespace

int main() {
    const Ops& scalar = ops_for("scalar");
    for (const auto& name : available_ops()) {
        const Ops& ops = ops_for(name);
        if (name == scalar.name) continue;
        linears(scalar, ops);
        vectors(scalar, ops);
        attention(scalar, ops);
        ballistics(scalar, ops);
        std::printf("%s: %zu checks, %zu failures\n", ops.name, checks, failures);
    }
    return failures || !checks;
}
