// How far are the functions of elementary.h from the truth? Run by tests/test_elementary.py:
//     g++ -std=c++20 -O2 -ffp-contract=off -I kernels kernels/lab/elementary.cpp -o build/elementary && build/elementary 251
//
// Looks at every n-th float of each function's domain, n = 1 by default, beside the C library's function in double, whose
// own error is 2^-29 of what is measured. Exit status 1 if one is further off than elementary.h promises.
#include "elementary.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

using namespace gamegen;

namespace {

int failures = 0;

float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
// Units in the last place of a float at `x`.
double unit(double x) {
    const int exponent = std::ilogb(x);
    return std::ldexp(1.0, (exponent < -126 ? -126 : exponent > 127 ? 127 : exponent) - 23);
}

struct Function {
    const char* name;
    float (*own)(float);
    double (*truth)(double);
    float low, high;
};

void measure(const Function& f, uint32_t stride) {
    double worst = 0;
    float worst_at = 0;
    size_t seen = 0, unequal = 0;
    for (uint32_t sign : {0u, 0x80000000u})
        for (uint64_t bits = 0; bits < 0x7F800000u; bits += stride) {
            const float x = float_of(static_cast<uint32_t>(bits) | sign);
            if (x < f.low || x > f.high) continue;
            const double truth = f.truth(static_cast<double>(x));
            const float own = f.own(x);
            ++seen;
            if (own == static_cast<float>(truth)) continue;
            ++unequal;
            const double error = std::fabs(static_cast<double>(own) - truth) / unit(truth);
            if (!(error <= worst)) worst = error, worst_at = x;
        }
    const bool ok = worst <= ELEMENTARY_ULP && seen > 1000;
    std::printf("%-6s %11zu floats, %6zu not the nearest, at most %.6f ulp (at %a)%s\n", f.name, seen, unequal, worst > 0.5 ? worst : 0.5,
                static_cast<double>(worst_at), ok ? "" : "  FAILED");
    failures += !ok;
}
// Angles of every size up to 2^45, and those next to a whole number of turns, where a quotient rounds the wrong way.
void measure_turns(uint32_t stride) {
    size_t seen = 0, wrong = 0;
    const auto look = [&](double angle) {
        if (angle < 0) return;
        ++seen;
        wrong += within_turn(angle) != std::fmod(angle, TAU);
    };
    uint64_t state = 1;
    for (uint64_t i = 0; i < 500000000u / stride; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const double fraction = 0.5 + static_cast<double>(state >> 12) * 0x1p-53;  // below 1
        const double angle = std::ldexp(fraction, static_cast<int>(i % 66) - 20);
        look(angle);
        double beside = std::nearbyint(angle / TAU * 2) / 2 * TAU;
        for (int k = 0; k < 3; ++k) beside = std::nextafter(beside, 0.0);
        for (int k = 0; k < 6; ++k, beside = std::nextafter(beside, 0x1p60)) look(beside);
    }
    look(0);
    const bool ok = wrong == 0 && seen > 1000;
    std::printf("turns  %11zu angles, %zu not exact%s\n", seen, wrong, ok ? "" : "  FAILED");
    failures += !ok;
}
void expect(bool ok, const char* what) {
    if (!ok) std::printf("FAILED: %s\n", what), ++failures;
}

}  // namespace

int main(int argc, char** argv) {
    const auto stride = static_cast<uint32_t>(argc > 1 ? std::atoi(argv[1]) : 1);
    const float inf = __builtin_inff(), nan = __builtin_nanf("");
    const Function functions[] = {
        {"exp", exp_of, std::exp, -104, 88.72283f},    {"log", log_of, std::log, 1e-45f, 3.4028234e38f},
        {"log1p", log1p_of, std::log1p, -0.9999999f, 3.4028234e38f}, {"cos", cos_of, std::cos, -100, 100},
        {"sin", sin_of, std::sin, -100, 100}};
    for (const Function& f : functions) measure(f, stride ? stride : 1);
    measure_turns(stride ? stride : 1);
    expect(exp_of(0) == 1 && exp_of(-inf) == 0 && exp_of(inf) == inf && exp_of(89) == inf && exp_of(-104) == 0, "exp at its ends");
    expect(exp_of(-103.9f) == 1e-45f && std::isnan(exp_of(nan)), "exp, subnormal and NaN");
    expect(log_of(0) == -inf && log_of(-0.0f) == -inf && log_of(1) == 0 && log_of(inf) == inf && std::isnan(log_of(-1)) && std::isnan(log_of(nan)),
           "log at its ends");
    expect(log1p_of(-1) == -inf && log1p_of(inf) == inf && std::isnan(log1p_of(-2)) && std::isnan(log1p_of(nan)), "log1p at its ends");
    expect(std::signbit(log1p_of(-0.0f)) && sin_of(0) == 0 && cos_of(0) == 1, "zeros");
    return failures != 0;
}
