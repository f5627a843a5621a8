// How fast is each operation, in each instruction set, beside plain C++ and beside what this CPU can do?
//
//   cmake -S kernels/lab -B build/lab && cmake --build build/lab && taskset -c 0 build/lab/bench [words of a name]
//
// Shapes of the pocket model, one thread, everything warm in cache. A version is timed only if its output has the bits
// of the scalar one. Versions take turns, and the median of 15 turns is shown, in CPU time.
// GOPS counts a multiplication and an addition as two; GB/s counts weights or cache once per call.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>

#include "problems.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace gamegen;
using namespace gamegen::lab;

namespace {

constexpr int TURNS = 15;
constexpr double TURN_S = 2e-3;

// Of this process, so that a neighbour on the core does not count.
double now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

// Seconds per call of `run`, in one turn. The clock, which costs as much as a small operation, is read between batches.
double turn(const std::function<void()>& run) {
    size_t calls = 0, batch = 1;
    const double began = now();
    double spent = 0;
    do {
        for (size_t i = 0; i < batch; ++i) run();
        calls += batch;
        spent = now() - began;
        if (spent < TURN_S / 8) batch *= 2;
    } while (spent < TURN_S);
    return spent / static_cast<double>(calls);
}

double seconds(const std::function<void()>& run) {
    std::vector<double> turns;
    for (int i = 0; i < TURNS; ++i) turns.push_back(turn(run));
    return median(turns);
}

#if defined(__x86_64__)
// Lambdas do not inherit a target, so the two loops are functions.
__attribute__((target("avx512f"), noinline)) float read_all(const float* memory, size_t n) {
    __m512 sum[8];  // in registers, as long as every loop over it is unrolled
#pragma GCC unroll 8
    for (auto& s : sum) s = _mm512_setzero_ps();
    for (size_t i = 0; i + 128 <= n; i += 128)
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; ++j) sum[j] = _mm512_add_ps(sum[j], _mm512_loadu_ps(memory + i + 16 * j));
#pragma GCC unroll 8
    for (size_t j = 1; j < 8; ++j) sum[0] = _mm512_add_ps(sum[0], sum[j]);
    return _mm512_cvtss_f32(sum[0]);
}

constexpr int DP4_STEPS = 2000, DP4_CHAINS = 16;
__attribute__((target("avx512f,avx512vnni"), noinline)) int dp4_chains(int four) {
    __m512i acc[DP4_CHAINS], x = _mm512_set1_epi32(four);
#pragma GCC unroll 16
    for (int i = 0; i < DP4_CHAINS; ++i) acc[i] = _mm512_set1_epi32(four + i);  // equal chains would become one
    for (int i = 0; i < DP4_STEPS; ++i) {
#pragma GCC unroll 16
        for (auto& a : acc) a = _mm512_dpbusd_epi32(a, x, x);
        asm volatile("" : "+v"(x));
    }
#pragma GCC unroll 16
    for (int i = 1; i < DP4_CHAINS; ++i) acc[0] = _mm512_xor_si512(acc[0], acc[i]);
    return _mm512_cvtsi512_si32(acc[0]);
}

// Bytes per second of reading `bytes` again and again.
double read_rate(size_t bytes) {
    const std::vector<float> memory(bytes / 4, 1.0f);
    volatile float sink = 0;
    return static_cast<double>(bytes) / seconds([&] { sink = read_all(memory.data(), memory.size()); });
}

// Operations per second of the widest dp4 without any memory.
double dp4_rate() {
    volatile int sink = 0;
    return DP4_STEPS * DP4_CHAINS * 64 * 2.0 / seconds([&] { sink = dp4_chains(0x01010101); });
}
#endif

class Bench {
public:
    explicit Bench(const char* only) : only_(only) {
#if defined(__x86_64__)
        const auto names = available_ops();
        if (std::find(names.begin(), names.end(), "avx512") != names.end()) {
            std::printf("ceilings: read %.1f GB/s from 256 MiB, %.1f GB/s from 512 KiB, %.1f GB/s from 16 KiB; ",
                        read_rate(size_t{256} << 20) / 1e9, read_rate(size_t{512} << 10) / 1e9, read_rate(size_t{16} << 10) / 1e9);
            peak_ = dp4_rate();
            std::printf("dp4 %.0f GOPS\n", peak_ / 1e9);
        }
#endif
        std::printf("%-34s %-10s %10s %9s %8s %7s %8s\n", "operation", "version", "us", "GOPS", "GB/s", "of dp4", "x scalar");
    }

    // `run` fills `out`, which begins as `before`; operations and bytes are those of one call. Returns whether all agree.
    void operator()(const std::string& name, const std::vector<float>& before, double operations, double bytes, bool integer,
                    const std::function<void(const Ops&, std::vector<float>&)>& run) {
        if (name.find(only_) == std::string::npos) return;
        std::vector<const Ops*> versions;
        std::vector<float> expected = before;
        run(ops_for("scalar"), expected);
        for (const auto& isa : available_ops()) {
            std::vector<float> got = before;
            run(ops_for(isa), got);
            if (std::memcmp(expected.data(), got.data(), expected.size() * 4) == 0) {
                versions.push_back(&ops_for(isa));
            } else {
                std::printf("%-34s %-10s differs from scalar: not timed\n", name.c_str(), isa.c_str());
                equal_ = false;
            }
        }
        std::vector<std::vector<double>> times(versions.size());
        std::vector<float> out = before;
        for (int i = 0; i < TURNS; ++i)
            for (size_t v = 0; v < versions.size(); ++v)
                times[v].push_back(turn([&] { run(*versions[v], out); }));
        const double slow = median(times[0]);
        for (size_t v = 0; v < versions.size(); ++v) {
            const double time = median(times[v]);
            char share[16] = "";
            if (integer && peak_ > 0) std::snprintf(share, sizeof share, "%.0f %%", 100 * operations / time / peak_);
            std::printf("%-34s %-10s %10.2f %9.1f %8.1f %7s %8.1f\n", name.c_str(), versions[v]->name, time * 1e6,
                        operations / time / 1e9, bytes / time / 1e9, share, slow / time);
        }
    }
    bool equal() const { return equal_; }

private:
    const std::string only_;
    double peak_ = 0;
    bool equal_ = true;
};

void bench_linear(Bench& bench) {
    Random random(1);
    const struct { const char* name; size_t n_out, k; } shapes[] = {
        {"qkv 384x256", 384, 256},       {"out 256x256", 256, 256},          {"gate_up 1536x256", 1536, 256},
        {"down 256x768", 256, 768},      {"code_logits 8192x256", 8192, 256}, {"gate_up 4096x512", 4096, 512},
    };
    const struct { Weights weights; const char* name; double bytes; } kinds[] = {
        {Weights::INT8, "int8 ", 1}, {Weights::INT4, "int4 ", 0.5625}, {Weights::FLOAT, "float ", 4}};
    for (const auto& kind : kinds)
        for (const auto& shape : shapes)
            for (size_t rows : {1, 2, 6, 24}) {
                const Linear m = linear(random, shape.n_out, shape.k, kind.weights);
                const auto x = floats(random, rows * shape.k);
                std::vector<uint8_t> scratch(rows * scratch_bytes(shape.k));
                const double weights = static_cast<double>(shape.n_out * shape.k);
                bench(std::string("linear ") + kind.name + shape.name + " rows " + std::to_string(rows),
                      std::vector<float>(rows * m.width()), 2 * weights * static_cast<double>(rows), weights * kind.bytes,
                      kind.weights != Weights::FLOAT,
                      [&](const Ops& ops, std::vector<float>& out) {
                          ops.linear(m, x.data(), rows, shape.k, out.data(), scratch.data());
                      });
            }
}

void bench_attention(Bench& bench) {
    constexpr size_t WINDOW = 2048, HEADS = 4;
    const struct { const char* name; bool half, exact; double bytes; } kinds[] = {
        {"int4", false, false, 36}, {"int4 float", false, true, 36}, {"half", true, false, 128}};
    for (const auto& kind : kinds) {
        Random random(2);
        const Attention a(random, HEADS, WINDOW, WINDOW, 4, kind.half, kind.exact);
        std::vector<float> logits(HEADS * a.seen.width());
        const double operations = 2.0 * HEADS * HEAD * WINDOW, bytes = kind.bytes * WINDOW;
        const bool integer = !kind.half && !kind.exact;
        bench(std::string("scores ") + kind.name, logits, operations, bytes, integer,
              [&](const Ops& ops, std::vector<float>& out) { ops.scores(a.query.data(), HEADS, a.seen, out.data()); });
        ops_for("scalar").scores(a.query.data(), HEADS, a.seen, logits.data());
        auto weights = logits;
        bench(std::string("mix ") + kind.name, std::vector<float>(HEADS * HEAD), operations, bytes, integer,
              [&](const Ops& ops, std::vector<float>& out) {
                  std::copy(logits.begin(), logits.end(), weights.begin());  // part of the time: mix overwrites them
                  ops.mix(weights.data(), HEADS, a.seen, out.data());
              });
    }
}

void bench_elements(Bench& bench) {
    Random random(3);
    const auto logits = floats(random, 8192), gain = floats(random, 8192);
    auto x = logits;
    bench("exponentials 8192", std::vector<float>(8193), 8192, 8192 * 4, false, [&](const Ops& ops, std::vector<float>& out) {
        std::copy(logits.begin(), logits.end(), out.begin());
        out[8192] = ops.exponentials(out.data(), 8192, 3.0f);
    });
    bench("maximum 8192", {0}, 8192, 8192 * 4, false,
          [&](const Ops& ops, std::vector<float>& out) { out[0] = ops.maximum(logits.data(), 8192); });
    const std::vector<float> head(logits.begin(), logits.begin() + HEAD);
    bench("hadamard 64", std::vector<float>(HEAD), HEAD * 6, HEAD * 4, false, [&](const Ops& ops, std::vector<float>& out) {
        std::copy(head.begin(), head.end(), out.begin());
        ops.hadamard(out.data());
    });
    for (size_t n : {size_t{64}, size_t{256}})
        bench("rms_norm " + std::to_string(n), std::vector<float>(n), 3.0 * static_cast<double>(n), 8.0 * static_cast<double>(n),
              false, [&](const Ops& ops, std::vector<float>& out) { ops.rms_norm(logits.data(), gain.data(), n, out.data()); });
    bench("silu_times 768", std::vector<float>(768), 768, 768 * 8, false, [&](const Ops& ops, std::vector<float>& out) {
        ops.silu_times(logits.data(), gain.data(), 768, out.data());
    });
}

}  // namespace

int main(int argc, char** argv) {
    Bench bench(argc > 1 ? argv[1] : "");
    bench_linear(bench);
    bench_attention(bench);
    bench_elements(bench);
    return bench.equal() ? 0 : 1;
}
