// One source, two machines: CUDA under nvcc, an emulation of it under a host compiler.
//
// Kernels use the names of this header only: KERNEL, DEVICE, SHARED, LAUNCH, block_sync, warp_sync, shuffle_xor,
// shuffle, ballot, dp4a, mma_s8, thread_index and so on. The emulation runs the lanes of a block as fibers and reports,
// as std::runtime_error, what a GPU would let pass in silence:
//   - two threads at one shared element, one of them writing, without a barrier between them (exact per element),
//   - shared memory read before it was written, or out of bounds,
//   - a barrier or warp operation that not every thread of the block or warp reaches.
// Warps run in an order drawn from `simt::seed()`, anew at every turn. What it cannot show: the memory model of global
// memory (AddressSanitizer sees its bounds), speed, and mistakes of nvcc.
#pragma once
#include <cstdint>
#include <cstring>

#include "../hd.h"

#if defined(__CUDACC__)

#define KERNEL __global__ void
#define DEVICE static __device__ __forceinline__
#define SHARED(type, name, n) __shared__ type name[n]
// The array `name` as a parameter of a device function.
#define SHARED_ARRAY(type, name) type* name
#define LAUNCH(stream, kernel, grid, block, ...) kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)

namespace gamegen {
constexpr unsigned FULL = 0xFFFFFFFFu;
DEVICE unsigned thread_index() { return threadIdx.x; }
DEVICE unsigned block_size() { return blockDim.x; }
DEVICE unsigned block_index() { return blockIdx.x; }
DEVICE unsigned block_row() { return blockIdx.y; }
DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
template <class T> DEVICE T shuffle_xor(T x, int mask) { return __shfl_xor_sync(FULL, x, mask); }
template <class T> DEVICE T shuffle(T x, int lane) { return __shfl_sync(FULL, x, lane); }
DEVICE unsigned ballot(bool x) { return __ballot_sync(FULL, x); }
DEVICE int bits_set(unsigned x) { return __popc(x); }
DEVICE int dp4a(int a, int b, int c) { return __dp4a(a, b, c); }
// c (16, 8) += a (16, 32) b (32, 8), signed bytes; fragments as in the PTX manual, mma.m16n8k32.
DEVICE void mma_s8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
}  // namespace gamegen

#else

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define KERNEL inline void
#define DEVICE static inline
#define SIMT_TEXT_(x) #x
#define SIMT_TEXT(x) SIMT_TEXT_(x)
#define SHARED(type, name, n) const auto name = simt::shared<type>(n, __FILE__ ":" SIMT_TEXT(__LINE__) " " #name)
#define SHARED_ARRAY(type, name) const simt::Array<type>& name
#define LAUNCH(stream, kernel, grid, block, ...) simt::launch((grid), (block), [&] { kernel(__VA_ARGS__); })

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {

constexpr size_t STACK = 128 * 1024;
constexpr unsigned WARP = 32;

inline uint32_t& seed() {
    static uint32_t value = 1;
    return value;
}

// When a thread touched a shared element: barriers of its block and of its warp before that.
struct Touch {
    int thread = -1;
    uint32_t block_epoch = 0, warp_epoch = 0;
};
struct Element {
    Touch write;
    std::vector<Touch> reads;  // since the last barrier of the block
};

struct Warp {
    unsigned alive = 0, arrived = 0;
    const char* what = nullptr;  // operation that its lanes wait in
    uint32_t epoch = 0;
    uint64_t slots[2][WARP][6];  // what lanes give to each other; two, as a lane may be one operation ahead
};

struct Storage {
    std::vector<unsigned char> bytes;
    std::vector<Element> elements;
    std::string name;
};

struct Fiber {
    ucontext_t start;
    jmp_buf resume;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool started, done, at_block;
    uint32_t wait_epoch;  // waits until the warp's epoch passes this
    bool at_warp;
};

struct Block {
    dim3 size, index;
    unsigned threads = 0, alive = 0, arrived = 0;
    uint32_t epoch = 0;
    std::vector<Warp> warps;
    std::map<std::string, std::unique_ptr<Storage>> shared;
};

struct Machine {
    std::vector<std::unique_ptr<Fiber>> fibers;
    Block block;
    unsigned now = 0;  // running thread
    jmp_buf scheduler;
    ucontext_t scheduler_context;
    const std::function<void()>* body = nullptr;
    std::exception_ptr failure;
    std::mt19937 random;

    Warp& warp() { return block.warps[now / WARP]; }
    void yield() {
        if (!_setjmp(fibers[now]->resume)) _longjmp(scheduler, 1);
    }
};
inline Machine& machine() {
    static thread_local Machine m;
    return m;
}

[[noreturn]] inline void report(const std::string& what) {
    const Machine& m = machine();
    throw std::runtime_error("simt: " + what + "; thread " + std::to_string(m.now) + " of block (" +
                             std::to_string(m.block.index.x) + ", " + std::to_string(m.block.index.y) + ")");
}

inline void entry() {
    Machine& m = machine();
    try {
        (*m.body)();
    } catch (...) {
        if (!m.failure) m.failure = std::current_exception();
    }
    m.fibers[m.now]->done = true;
    --m.block.alive;
    --m.warp().alive;
    _longjmp(m.scheduler, 1);
}

// Let thread `t` run until it waits or ends.
inline void turn(Machine& m, unsigned t) {
    Fiber& f = *m.fibers[t];
    m.now = t;
    if (_setjmp(m.scheduler)) return;
    if (f.started) _longjmp(f.resume, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, entry, 0);
    setcontext(&f.start);
}

inline void run_block(Machine& m) {
    Block& b = m.block;
    std::vector<unsigned> order(b.warps.size());
    for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
    while (b.alive) {
        std::shuffle(order.begin(), order.end(), m.random);
        bool moved = false;
        for (unsigned w : order)
            for (unsigned t = w * WARP; t < std::min((w + 1) * WARP, b.threads); ++t) {
                Fiber& f = *m.fibers[t];
                if (f.done || (f.at_block && f.wait_epoch == b.epoch) || (f.at_warp && f.wait_epoch == b.warps[w].epoch)) continue;
                f.at_block = f.at_warp = false;
                turn(m, t);
                moved = true;
                if (m.failure) std::rethrow_exception(std::exchange(m.failure, nullptr));
            }
        if (!moved) report("a barrier or warp operation that not every thread reaches");
    }
}

template <class Fn> void launch(dim3 grid, dim3 block, Fn fn) {
    Machine& m = machine();
    const std::function<void()> body = fn;
    m.body = &body;
    m.random.seed(seed());
    m.failure = nullptr;
    const unsigned threads = block.x;
    while (m.fibers.size() < threads) m.fibers.push_back(std::make_unique<Fiber>());
    for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
            Block& b = m.block;
            b = Block();
            b.size = block;
            b.index = dim3(x, y);
            b.threads = b.alive = threads;
            b.warps.resize((threads + WARP - 1) / WARP);
            for (unsigned t = 0; t < threads; ++t) {
                ++b.warps[t / WARP].alive;
                Fiber& f = *m.fibers[t];
                f.started = f.done = f.at_block = f.at_warp = false;
            }
            run_block(m);
        }
}

// --- Shared memory ---

template <class T> struct Reference;

template <class T> struct Array {
    Storage* storage;
    size_t n;
    Reference<T> operator[](size_t i) const {
        if (i >= n) report(storage->name + "[" + std::to_string(i) + "]: out of bounds, size " + std::to_string(n));
        return {storage, i};
    }
};

inline bool ordered(const Touch& before) {  // does it lie behind a barrier for the running thread?
    Machine& m = machine();
    if (before.thread < 0 || before.thread == static_cast<int>(m.now) || before.block_epoch < m.block.epoch) return true;
    return static_cast<unsigned>(before.thread) / WARP == m.now / WARP && before.warp_epoch < m.warp().epoch;
}
inline Touch touch() {
    Machine& m = machine();
    return {static_cast<int>(m.now), m.block.epoch, m.warp().epoch};
}

template <class T> struct Reference {
    Storage* storage;
    size_t i;
    operator T() const {
        Element& e = storage->elements[i];
        const std::string at = storage->name.empty() ? "" : storage->name;
        if (e.write.thread < 0) report(at + "[" + std::to_string(i) + "]: read before it was written");
        if (!ordered(e.write)) report("race: " + at + "[" + std::to_string(i) + "]: read what thread " + std::to_string(e.write.thread) + " writes");
        const Touch now = touch();
        if (!e.reads.empty() && e.reads.front().block_epoch < now.block_epoch) e.reads.clear();
        if (e.reads.empty() || e.reads.back().thread != now.thread) e.reads.push_back(now);
        else e.reads.back() = now;
        T value;
        std::memcpy(&value, storage->bytes.data() + i * sizeof(T), sizeof(T));
        return value;
    }
    const Reference& operator=(T value) const {
        Element& e = storage->elements[i];
        if (!ordered(e.write)) report("race: " + storage->name + "[" + std::to_string(i) + "]: thread " + std::to_string(e.write.thread) + " writes it too");
        for (const Touch& read : e.reads)
            if (!ordered(read)) report("race: " + storage->name + "[" + std::to_string(i) + "]: thread " + std::to_string(read.thread) + " still reads it");
        e.reads.clear();
        e.write = touch();
        std::memcpy(storage->bytes.data() + i * sizeof(T), &value, sizeof(T));
        return *this;
    }
    const Reference& operator=(const Reference& other) const { return *this = static_cast<T>(other); }
    const Reference& operator+=(T value) const { return *this = static_cast<T>(*this) + value; }
};

template <class T> Array<T> shared(size_t n, const char* name) {
    auto& storage = machine().block.shared[name];
    if (!storage) {
        storage = std::make_unique<Storage>();
        storage->bytes.resize(n * sizeof(T));
        storage->elements.resize(n);
        storage->name = name;
    }
    return {storage.get(), n};
}

// Wait for the lanes of the warp; returns which of the two slot sets this operation uses.
inline unsigned meet(const char* what) {
    Machine& m = machine();
    Warp& w = m.warp();
    const unsigned lanes = std::min(WARP, m.block.threads - m.now / WARP * WARP), parity = w.epoch & 1;
    if (w.arrived && std::strcmp(w.what, what)) report(std::string("lanes of a warp in ") + w.what + " and in " + what);
    w.what = what;
    if (++w.arrived == lanes) {
        w.arrived = 0;
        ++w.epoch;
        return parity;
    }
    Fiber& f = *m.fibers[m.now];
    f.at_warp = true;
    f.wait_epoch = w.epoch;
    m.yield();
    return parity;
}
template <class T> T exchange_lanes(T x, unsigned from, const char* what) {
    static_assert(sizeof(T) <= 8);
    Warp& w = machine().warp();
    auto& slots = w.slots[w.epoch & 1];
    std::memcpy(slots[machine().now % WARP], &x, sizeof x);
    meet(what);
    std::memcpy(&x, slots[from % WARP], sizeof x);
    return x;
}

}  // namespace simt

namespace gamegen {
inline unsigned thread_index() { return simt::machine().now; }
inline unsigned block_size() { return simt::machine().block.threads; }
inline unsigned block_index() { return simt::machine().block.index.x; }
inline unsigned block_row() { return simt::machine().block.index.y; }
inline void block_sync() {
    simt::Machine& m = simt::machine();
    if (++m.block.arrived == m.block.threads) {
        m.block.arrived = 0;
        ++m.block.epoch;
        return;
    }
    m.fibers[m.now]->at_block = true;
    m.fibers[m.now]->wait_epoch = m.block.epoch;
    m.yield();
}
inline void warp_sync() { simt::meet("warp_sync"); }
template <class T> T shuffle_xor(T x, int mask) {
    return simt::exchange_lanes(x, thread_index() % 32 ^ static_cast<unsigned>(mask), "shuffle_xor");
}
template <class T> T shuffle(T x, int lane) { return simt::exchange_lanes(x, static_cast<unsigned>(lane), "shuffle"); }
inline unsigned ballot(bool x) {
    simt::Warp& w = simt::machine().warp();
    auto& slots = w.slots[w.epoch & 1];
    slots[thread_index() % 32][0] = x;
    simt::meet("ballot");
    unsigned all = 0;
    for (unsigned i = 0; i < 32; ++i) all |= static_cast<unsigned>(slots[i][0]) << i;
    return all;
}
inline int bits_set(unsigned x) { return __builtin_popcount(x); }
inline int dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return c;
}
inline void mma_s8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    simt::Warp& w = simt::machine().warp();
    auto& slots = w.slots[w.epoch & 1];
    const unsigned lane = thread_index() % 32;
    for (int i = 0; i < 4; ++i) slots[lane][i] = a[i];
    for (int i = 0; i < 2; ++i) slots[lane][4 + i] = b[i];
    simt::meet("mma_s8");
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned lower = i / 2, column = lane % 4 * 2 + i % 2;  // row lane / 4 (+ 8 if lower)
        for (unsigned quad = 0; quad < 4; ++quad)
            for (unsigned half = 0; half < 2; ++half)
                c[i] = dp4a(static_cast<int>(slots[lane / 4 * 4 + quad][2 * half + lower]),
                            static_cast<int>(slots[column * 4 + quad][4 + half]), c[i]);
    }
}
}  // namespace gamegen

#endif
