// The machine that emulation.h makes of the host: the threads of a block, or of all blocks at the same time, as fibers of one
// thread of the host.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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
// Blocks that run at the same time, where they wait for each other.
inline unsigned& resident_blocks() {
    static unsigned value = 5;
    return value;
}

struct Warp {
    unsigned arrived;
    const char* what;  // operation that its lanes wait in, a literal of that operation
    uint32_t epoch;
    unsigned slots[2][WARP][10];  // what lanes give to each other; two, as a lane may be one operation ahead
};

// Barriers are counted over all blocks that use the same memory, one after another, so that what an earlier block did to
// it is seen to be earlier. Within the present block epoch, warps count theirs.
struct Element {
    uint64_t written = 0, read = 0;  // block epochs
    uint32_t written_warp_epoch = 0, read_warp_epoch = 0;
    int writer = -1;
    // Who reads in that epoch: MANY if it is more than one; of the readers' warp, the thread of its last epoch.
    int reading_warp = -1, reader = -1;
};
constexpr int MANY = -2;

struct Storage {
    const char* name;
    std::vector<unsigned char> bytes;
    std::vector<Element> elements;
};

// Where to go on: __builtin_setjmp and __builtin_longjmp save a frame, a stack and an address, nothing else. The former
// stands in functions that are not inlined, and the latter in others. AddressSanitizer must not take such a function for
// one that leaves its stack behind.
using Jump = void* [5];
#define SIMT_SWITCH [[gnu::noinline, gnu::no_sanitize_address]]

// A stack, on which one thread after another runs.
struct Fiber {
    Jump resume;
    bool started = false;
    std::unique_ptr<char[]> stack{new char[STACK]};
    ucontext_t context;
};

// A thread of a block.
struct Thread {
    Fiber* fiber = nullptr;  // from when it begins until it ends
    bool done = true, at_block = false, at_warp = false;
    uint32_t warp_epoch = 0;  // waits until the warp's epoch passes this
    uint64_t block_epoch = 0;
    const unsigned* word = nullptr;  // waits while (*word & mask) == value
    unsigned mask = 0, value = 0;

    bool begins() const { return !done && !fiber; }
};

// What a block runs in; blocks that do not run at the same time share the first one.
struct Block {
    std::vector<Thread> all;
    std::vector<Warp> warps;
    std::vector<std::unique_ptr<Storage>> shared;
    dim3 index;
    unsigned threads = 0, arrived = 0;
    uint64_t epoch = 0, first_epoch = 0;  // of the block; of its beginning

    bool runs(unsigned t) const {
        const Thread& x = all[t];
        return !x.done && !(x.at_block && x.block_epoch == epoch) && !(x.at_warp && x.warp_epoch == warps[t / WARP].epoch) &&
               !(x.word && (*x.word & x.mask) == x.value);
    }
    void begin(dim3 at, unsigned n) {
        index = at;
        threads = n;
        arrived = 0;
        first_epoch = ++epoch;
        all.assign(n, Thread{.done = false});
        warps.resize((n + WARP - 1) / WARP);
        for (Warp& w : warps) w.arrived = 0, w.what = nullptr, w.epoch = 0;
    }
};

struct Machine {
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> idle;  // that no thread has
    Block* block = nullptr;    // running, and its thread
    unsigned now = 0, alive = 0;
    dim3 grid;
    Jump scheduler;
    const std::function<void()>* body = nullptr;
    std::exception_ptr failure;
    std::mt19937 random;

    Thread& thread() { return block->all[now]; }
    Warp& warp() { return block->warps[now / WARP]; }
    Fiber* idle_fiber() {
        if (idle.empty()) idle.push_back(fibers.emplace_back(std::make_unique<Fiber>()).get());
        Fiber* const f = idle.back();
        idle.pop_back();
        return f;
    }
};
[[gnu::noinline]] inline Machine* this_threads_machine() {
    static thread_local const auto m = std::make_unique<Machine>();
    return m.get();
}
// By a pointer of its own, as looking up a thread's objects costs a call in a shared library.
inline Machine& machine() {
    [[gnu::tls_model("initial-exec")]] static thread_local Machine* m = nullptr;
    if (!m) m = this_threads_machine();
    return *m;
}

[[noreturn]] inline void report(const std::string& what) {
    const Machine& m = machine();
    throw std::runtime_error("simt: " + what + "; thread " + std::to_string(m.now) + " of block (" + std::to_string(m.block->index.x) +
                             ", " + std::to_string(m.block->index.y) + ")");
}

inline void entry();
// The first time that a fiber runs.
[[noreturn]] SIMT_SWITCH inline void start(Fiber& f) {
    f.started = true;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    makecontext(&f.context, entry, 0);
    setcontext(&f.context);
    __builtin_unreachable();
}
// Thread `t` of the running block is about to go on. Returns what it runs on.
inline Fiber& turn_to(Machine& m, unsigned t) {
    m.now = t;
    Thread& x = m.thread();
    x.at_block = x.at_warp = false;
    x.word = nullptr;
    if (!x.fiber) x.fiber = m.idle_fiber();
    return *x.fiber;
}
// The running fiber waits: on to the next lane of the running warp that can run, or else to the scheduler. In one function,
// as what is called on one stack and left on another has the processor guess every return wrong: half the time of a switch.
SIMT_SWITCH inline void wait(Machine& m, Fiber& own) {
    if (__builtin_setjmp(own.resume)) return;
    const unsigned first = m.now / WARP * WARP, end = std::min(first + WARP, m.block->threads);
    for (unsigned t = m.now + 1 < end ? m.now + 1 : first; t != m.now && !m.failure; t = t + 1 < end ? t + 1 : first) {
        if (!m.block->runs(t)) continue;
        Fiber& f = turn_to(m, t);
        if (!f.started) start(f);
        __builtin_longjmp(f.resume, 1);
    }
    __builtin_longjmp(m.scheduler, 1);
}
inline void wait(Machine& m) { wait(m, *m.thread().fiber); }
SIMT_SWITCH inline void run_thread(Machine& m, unsigned t) {
    if (__builtin_setjmp(m.scheduler)) return;
    Fiber& f = turn_to(m, t);
    if (!f.started) start(f);
    __builtin_longjmp(f.resume, 1);
}
inline void entry() {
    for (;;) {
        Machine& m = machine();
        try {
            (*m.body)();
        } catch (...) {
            if (!m.failure) m.failure = std::current_exception();
        }
        Thread& x = m.thread();
        Fiber* const own = std::exchange(x.fiber, nullptr);
        x.done = true;
        --m.alive;
        // Lanes begin in their order, so those that have not begun are behind this one: the next one goes on here. Most
        // threads of a grid with room for more rows than there are end without having waited at all.
        if (const unsigned next = m.now + 1; !m.failure && next % WARP && next < m.block->threads && m.block->all[next].begins()) {
            m.now = next;
            m.thread().fiber = own;
            continue;
        }
        m.idle.push_back(own);
        wait(m, *own);
    }
}

// The first `n` blocks, which have begun, until all their threads are done.
inline void run_blocks(Machine& m, size_t n) {
    std::vector<std::pair<Block*, unsigned>> order;  // warps
    m.alive = 0;
    for (size_t i = 0; i < n; ++i) {
        Block* const block = m.blocks[i].get();
        for (unsigned w = 0; w < block->warps.size(); ++w) order.emplace_back(block, w);
        m.alive += block->threads;
    }
    while (m.alive) {
        if (order.size() > 1) std::shuffle(order.begin(), order.end(), m.random);
        bool moved = false;
        for (const auto& [block, w] : order)
            for (unsigned t = w * WARP; t < std::min((w + 1) * WARP, block->threads); ++t) {
                if (!block->runs(t)) continue;
                m.block = block;
                run_thread(m, t);
                moved = true;
                if (m.failure) std::rethrow_exception(std::exchange(m.failure, nullptr));
            }
        if (!moved) report("a barrier or warp operation that not every thread reaches");
    }
}

// Block after block, or all of them at the same time.
inline void run(dim3 grid, unsigned threads, bool together, const std::function<void()>& body) {
    Machine& m = machine();
    m.body = &body;
    m.random.seed(seed());
    m.grid = grid;
    while (m.blocks.size() < (together ? grid.x : 1)) m.blocks.push_back(std::make_unique<Block>());
    try {
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                m.blocks[together ? x : 0]->begin(dim3(x, y), threads);
                if (!together) run_blocks(m, 1);
            }
        if (together) run_blocks(m, grid.x);
    } catch (...) {
        m.idle.clear();  // threads that still wait somewhere are given up
        for (const auto& f : m.fibers) {
            f->started = false;
            m.idle.push_back(f.get());
        }
        throw;
    }
}

}  // namespace simt
