// Does the emulation of kernels/cuda/simt.h do what CUDA does, and report what CUDA would hide? Run by tests/test_simt.py:
//     g++ -std=c++20 -O1 -I kernels/cuda kernels/lab/simt.cpp -o build/simt && build/simt
#include "graph.h"
#include "together.h"

#include <cstdio>

using namespace gamegen;

KERNEL reverse(const int* in, int* out, bool barrier) {
    SHARED(int, box, 96);
    box[thread_index()] = in[thread_index()];
    if (barrier) block_sync();
    out[thread_index()] = box[95 - thread_index()];
}
// Within one warp its own barrier is enough; across warps it is not.
KERNEL neighbour(int* out, int apart) {
    SHARED(int, box, 64);
    box[thread_index()] = static_cast<int>(thread_index());
    warp_sync();
    out[thread_index()] = box[thread_index() ^ static_cast<unsigned>(apart)];
}
KERNEL reused(int* out, bool barrier) {
    SHARED(int, box, 1);
    for (int i = 0; i < 2; ++i) {
        if (thread_index() == 0) box[0] = i;
        block_sync();
        out[thread_index()] = box[0];
        if (barrier) block_sync();
    }
}
KERNEL same_place(int*) {
    SHARED(int, box, 1);
    box[0] = 1;
}
KERNEL outside(int*) {
    SHARED(int, box, 4);
    box[thread_index()] = 1;
}
KERNEL unwritten(int* out) {
    SHARED(int, box, 4);
    out[0] = box[0];
}
KERNEL some_lanes(int*) {
    if (thread_index() < 7) block_sync();
}
KERNEL lanes_apart(int* out) {
    if (thread_index() & 1) out[0] = shuffle(1, 0);
    else warp_sync();
}
KERNEL early_exit(int* out) {
    if (thread_index() == 3) return;
    out[thread_index()] = shuffle_xor(1, 1);
}
KERNEL votes(int* out) {
    const int lane = static_cast<int>(thread_index() % 32);
    int sum = static_cast<int>(thread_index());
    for (int h = 16; h; h /= 2) sum += shuffle_xor(sum, h);
    out[thread_index()] = sum + 10000 * bits_set(ballot(lane < 5)) + 100000 * shuffle(lane, 3);
}
KERNEL product(const int8_t* a, const int8_t* b, int* c) {  // a (16, 32), b (8, 32), c (16, 8)
    const unsigned lane = thread_index(), row = lane / 4, quad = lane % 4;
    unsigned x[4], y[2];
    int sums[4] = {1, 1, 1, 1};
    for (unsigned i = 0; i < 4; ++i) std::memcpy(&x[i], a + (row + i % 2 * 8) * 32 + i / 2 * 16 + quad * 4, 4);
    for (unsigned i = 0; i < 2; ++i) std::memcpy(&y[i], b + row * 32 + i * 16 + quad * 4, 4);
    mma_s8(sums, x, y);
    for (unsigned i = 0; i < 4; ++i) c[(row + i / 2 * 8) * 8 + quad * 2 + i % 2] = sums[i];
}

KERNEL misaligned(const char* in, unsigned* out) { out[0] = load16(in + 4).v[0]; }
// A loop that counts up to `to`; `turns` counts its turns.
KERNEL begin(int* n, int* more, int to, Condition condition) {
    *n = 0;
    *more = to > 0;
    continue_while(condition, *more);
}
KERNEL turn(int* n, int* more, int* turns, int to, Condition condition) {
    ++*turns;
    if (*n < to) ++*n;
    *more = *n < to;
    continue_while(condition, *more);
}

// Every block adds to what the one before it left, `turns` times.
KERNEL in_turns(int* sum, unsigned* barrier, int turns) {
    for (int i = 0; i < turns; ++i)
        for (unsigned block = 0; block < grid_size(); ++block) {
            if (block == block_index() && thread_index() == 33) *sum = (*sum * 3 + static_cast<int>(block)) % 1000;
            cuda::grid_sync(barrier);
        }
}
KERNEL one_stays_away(unsigned* barrier) {
    if (block_index() != 1) cuda::grid_sync(barrier);
}

static int failures = 0;
static void check(bool ok, const char* what) {
    if (!ok) std::printf("FAILED: %s\n", what), ++failures;
}
template <class Fn> static void refused(Fn fn, const char* message) {
    std::string got = "nothing";
    try {
        fn();
    } catch (const std::runtime_error& error) {
        got = error.what();
    }
    if (got.find(message) == std::string::npos) std::printf("FAILED: expected \"%s\", got %s\n", message, got.c_str()), ++failures;
}

int main() {
    for (uint32_t seed = 1; seed <= 20; ++seed) {
        simt::seed() = seed;
        int in[96], out[96] = {};
        for (int i = 0; i < 96; ++i) in[i] = i * i;
        LAUNCH(0, reverse, 1, 96, in, out, true);
        for (int i = 0; i < 96; ++i) check(out[i] == in[95 - i], "reverse");
        refused([&] { LAUNCH(0, reverse, 1, 96, in, out, false); }, "read");
        LAUNCH(0, neighbour, 1, 64, out, 1);
        check(out[6] == 7, "neighbour");
        refused([&] { LAUNCH(0, neighbour, 1, 64, out, 32); }, "read");
        LAUNCH(0, reused, 1, 64, out, true);
        check(out[63] == 1, "reused");
        refused([&] { LAUNCH(0, reused, 1, 64, out, false); }, "race: ");
        refused([&] { LAUNCH(0, same_place, 1, 2, out); }, "writes it too");
        refused([&] { LAUNCH(0, outside, 1, 5, out); }, "out of bounds");
        refused([&] { LAUNCH(0, unwritten, 1, 1, out); }, "before it was written");
        refused([&] { LAUNCH(0, some_lanes, 1, 64, out); }, "not every thread reaches");
        refused([&] { LAUNCH(0, lanes_apart, 1, 32, out); }, "lanes of a warp in");
        refused([&] { LAUNCH(0, early_exit, 1, 32, out); }, "not every thread reaches");
        LAUNCH(0, votes, 1, 64, out);
        check(out[0] == 496 + 50000 + 300000 && out[40] == 1520 + 50000 + 300000, "votes");
        for (unsigned blocks : {1, 2, 5}) {
            int sum = 0, expected = 0;
            unsigned barrier = 0;
            for (int launch = 0; launch < 2; ++launch) LAUNCH_TOGETHER(0, in_turns, blocks, 64, &sum, &barrier, 3);
            for (unsigned i = 0; i < 6 * blocks; ++i) expected = (expected * 3 + static_cast<int>(i % blocks)) % 1000;
            check(sum == expected, "a barrier of all blocks");
        }
        unsigned barrier = 0;
        refused([&] { LAUNCH_TOGETHER(0, one_stays_away, 3, 64, &barrier); }, "not every thread reaches");
        refused([&] { LAUNCH_TOGETHER(0, one_stays_away, 6, 64, &barrier); }, "where 5 run at the same time");
        int8_t a[16 * 32], b[8 * 32];
        int c[128];
        for (int i = 0; i < 512; ++i) a[i] = static_cast<int8_t>(i * 37 + static_cast<int>(seed));
        for (int i = 0; i < 256; ++i) b[i] = static_cast<int8_t>(i * 91 - 128);
        LAUNCH(0, product, 1, 32, a, b, c);
        for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 8; ++j) {
                int sum = 1;
                for (int k = 0; k < 32; ++k) sum += a[i * 32 + k] * b[j * 32 + k];
                check(c[i * 8 + j] == sum, "mma_s8");
            }
    }
    alignas(16) char bytes[32] = {};
    unsigned word;
    refused([&] { LAUNCH(0, misaligned, 1, 1, bytes, &word); }, "not a multiple of 16");
    // A recorded loop, turned by the device and by the host, run again and again.
    cuda::Stream stream;
    for (bool device_loops : {true, false})
        for (int to : {0, 1, 11}) {
            int n = 0, more = 0, turns = 0, ends = 0;
            cuda::Loop loop(
                stream, device_loops, &more, [&](Condition c) { LAUNCH(stream, begin, 1, 1, &n, &more, to, c); },
                [&](Condition c) { LAUNCH(stream, turn, 1, 1, &n, &more, &turns, to, c); },
                [&] { LAUNCH(stream, turn, 1, 1, &n, &more, &ends, to, nullptr); });
            check(turns == 0 && ends == 0, "recording runs nothing");
            for (int i = 1; i <= 3; ++i) {
                loop.run();
                const int each = device_loops ? to : (to > cuda::Loop::TURNS ? 2 : 1) * cuda::Loop::TURNS;
                check(n == to && turns == i * each && ends == i, "a loop of a graph");
            }
        }
    std::printf(failures ? "%d failures\n" : "as CUDA does\n", failures);
    return failures != 0;
}
