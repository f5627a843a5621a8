// CUDA on the host, for tests; what it promises stands in simt.h, which includes it.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define KERNEL inline void
#define DEVICE static inline
#define SIMT_TEXT_(x) #x
#define SIMT_TEXT(x) SIMT_TEXT_(x)
#define SHARED(type, name, n) const auto name = simt::shared<type>(n, __FILE__ ":" SIMT_TEXT(__LINE__) " " #name)
#define SHARED_ARRAY(type, name) const simt::Array<type>& name
#define LAUNCH(stream, kernel, grid, block, ...) simt::launch((grid), (block), kernel, __VA_ARGS__)

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

struct Warp {
    unsigned arrived;
    const char* what;  // operation that its lanes wait in, a literal of that operation
    uint32_t epoch;
    unsigned slots[2][WARP][10];  // what lanes give to each other; two, as a lane may be one operation ahead
};

// Barriers are counted over all blocks, so that what an earlier block did to shared memory is seen to be earlier.
// Within the present block epoch, warps count theirs.
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

// A thread of the block. Its stack is used by block after block.
struct Fiber {
    ucontext_t start;
    Jump resume;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool started = false, done = true, at_block = false, at_warp = false;
    uint64_t block_epoch = 0;
    uint32_t warp_epoch = 0;  // waits until the warp's epoch passes this
};

struct Machine {
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Warp> warps;
    std::vector<std::unique_ptr<Storage>> shared;
    unsigned threads = 0, alive = 0, arrived = 0;
    dim3 index;
    uint64_t epoch = 0, first_epoch = 0;  // of the block; of its beginning
    unsigned now = 0;  // running thread
    Jump scheduler;
    const std::function<void()>* body = nullptr;
    std::exception_ptr failure;
    std::mt19937 random;

    Warp& warp() { return warps[now / WARP]; }
    bool runs(unsigned t) const {
        const Fiber& f = *fibers[t];
        return !f.done && !(f.at_block && f.block_epoch == epoch) && !(f.at_warp && f.warp_epoch == warps[t / WARP].epoch);
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
    throw std::runtime_error("simt: " + what + "; thread " + std::to_string(m.now) + " of block (" + std::to_string(m.index.x) +
                             ", " + std::to_string(m.index.y) + ")");
}

// Back to the scheduler, until the thread is entered again.
[[noreturn]] SIMT_SWITCH inline void to_scheduler(Machine& m) { __builtin_longjmp(m.scheduler, 1); }
SIMT_SWITCH inline void rest(Machine& m) {
    if (!__builtin_setjmp(m.fibers[m.now]->resume)) to_scheduler(m);
}
inline void entry() {
    for (;;) {
        Machine& m = machine();
        try {
            (*m.body)();
        } catch (...) {
            if (!m.failure) m.failure = std::current_exception();
        }
        m.fibers[m.now]->done = true;
        --m.alive;
        rest(m);
    }
}
// Go on as thread `t`.
[[noreturn]] SIMT_SWITCH inline void enter(Machine& m, unsigned t) {
    Fiber& f = *m.fibers[t];
    f.at_block = f.at_warp = false;
    m.now = t;
    if (f.started) __builtin_longjmp(f.resume, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, entry, 0);
    setcontext(&f.start);
    __builtin_unreachable();
}
// On to the next lane of the running thread's warp that can run, or else to the scheduler.
[[noreturn]] SIMT_SWITCH inline void leave(Machine& m) {
    const unsigned first = m.now / WARP * WARP, count = std::min(WARP, m.threads - first), lane = m.now - first;
    for (unsigned i = 1; i < count; ++i) {
        const unsigned t = first + (lane + i) % count;
        if (m.runs(t)) enter(m, t);
    }
    to_scheduler(m);
}
// The running thread waits.
SIMT_SWITCH inline void wait(Machine& m) {
    if (!__builtin_setjmp(m.fibers[m.now]->resume)) leave(m);
}
SIMT_SWITCH inline void run_thread(Machine& m, unsigned t) {
    if (!__builtin_setjmp(m.scheduler)) enter(m, t);
}

inline void run_block(Machine& m, std::vector<unsigned>& order) {
    while (m.alive) {
        if (order.size() > 1) std::shuffle(order.begin(), order.end(), m.random);
        bool moved = false;
        for (unsigned w : order)
            for (unsigned t = w * WARP; t < std::min((w + 1) * WARP, m.threads); ++t) {
                if (!m.runs(t)) continue;
                run_thread(m, t);
                moved = true;
                if (m.failure) std::rethrow_exception(std::exchange(m.failure, nullptr));
            }
        if (!moved) report("a barrier or warp operation that not every thread reaches");
    }
}

inline void run(dim3 grid, unsigned threads, const std::function<void()>& body) {
    Machine& m = machine();
    m.body = &body;
    m.random.seed(seed());
    m.threads = threads;
    while (m.fibers.size() < threads) m.fibers.push_back(std::make_unique<Fiber>());
    m.warps.resize((threads + WARP - 1) / WARP);
    std::vector<unsigned> order(m.warps.size());
    for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
    try {
        for (m.index.y = 0; m.index.y < grid.y; ++m.index.y)
            for (m.index.x = 0; m.index.x < grid.x; ++m.index.x) {
                m.alive = threads;
                m.arrived = 0;
                m.first_epoch = ++m.epoch;
                for (Warp& w : m.warps) w.arrived = 0, w.what = nullptr, w.epoch = 0;
                for (unsigned t = 0; t < threads; ++t) m.fibers[t]->done = m.fibers[t]->at_block = m.fibers[t]->at_warp = false;
                run_block(m, order);
            }
    } catch (...) {
        for (auto& f : m.fibers) f->started = false;  // threads that still wait somewhere are given up
        throw;
    }
}

// --- Launches, at once or recorded for a graph ---

using Recording = std::vector<std::function<void()>>;
inline Recording*& recording() {
    static thread_local Recording* r = nullptr;
    return r;
}
// Arguments are copied, as CUDA does.
template <class... P> void launch(dim3 grid, dim3 block, void (*kernel)(P...), std::type_identity_t<P>... arguments) {
    std::function<void()> all = [grid, block, kernel, values = std::tuple<P...>(arguments...)] {
        const std::function<void()> body = [&] { std::apply(kernel, values); };
        run(grid, block.x, body);
    };
    if (recording()) recording()->push_back(std::move(all));
    else all();
}

// --- Shared memory ---

template <class T> struct Reference;

template <class T> struct Array {
    Storage* storage;
    size_t n;
    Reference<T> operator[](size_t i) const {
        if (i >= n) report(std::string(storage->name) + "[" + std::to_string(i) + "]: out of bounds, size " + std::to_string(n));
        return {storage, i};
    }
};

inline std::string spell(const Storage* s, size_t i) { return std::string(s->name) + "[" + std::to_string(i) + "]"; }

template <class T> struct Reference {
    Storage* storage;
    size_t i;
    operator T() const {
        Machine& m = machine();
        Element& e = storage->elements[i];
        const int now = static_cast<int>(m.now), warp = now / static_cast<int>(WARP);
        const uint32_t warp_epoch = m.warp().epoch;
        if (e.written < m.first_epoch) report(spell(storage, i) + ": read before it was written");
        if (behind(m, e)) report("race: " + spell(storage, i) + ": read what thread " + std::to_string(e.writer) + " writes");
        if (e.read != m.epoch) {
            e.read = m.epoch;
            e.reading_warp = warp;
            e.reader = now;
            e.read_warp_epoch = warp_epoch;
        } else if (e.reading_warp != warp) {
            e.reading_warp = MANY;
        } else if (e.read_warp_epoch != warp_epoch) {
            e.reader = now;
            e.read_warp_epoch = warp_epoch;
        } else if (e.reader != now) {
            e.reader = MANY;
        }
        T value;
        std::memcpy(&value, storage->bytes.data() + i * sizeof(T), sizeof(T));
        return value;
    }
    const Reference& operator=(T value) const {
        Machine& m = machine();
        Element& e = storage->elements[i];
        const int now = static_cast<int>(m.now), warp = now / static_cast<int>(WARP);
        if (behind(m, e)) report("race: " + spell(storage, i) + ": thread " + std::to_string(e.writer) + " writes it too");
        if (e.read == m.epoch && (e.reading_warp != warp || (e.read_warp_epoch == m.warp().epoch && e.reader != now)))
            report("race: " + spell(storage, i) + ": " + (e.reader >= 0 ? "thread " + std::to_string(e.reader) : "another thread") +
                   " still reads it");
        e.read = 0;
        e.written = m.epoch;
        e.written_warp_epoch = m.warp().epoch;
        e.writer = now;
        std::memcpy(storage->bytes.data() + i * sizeof(T), &value, sizeof(T));
        return *this;
    }
    const Reference& operator=(const Reference& other) const { return *this = static_cast<T>(other); }
    const Reference& operator+=(T value) const { return *this = static_cast<T>(*this) + value; }

private:
    // Is the last write not behind a barrier for the running thread?
    static bool behind(Machine& m, const Element& e) {
        if (e.written != m.epoch || e.writer == static_cast<int>(m.now)) return false;
        return static_cast<unsigned>(e.writer) / WARP != m.now / WARP || e.written_warp_epoch == m.warp().epoch;
    }
};

// `name` is a literal, the same one for every thread.
template <class T> Array<T> shared(size_t n, const char* name) {
    auto& all = machine().shared;
    for (const auto& s : all)
        if (s->name == name && s->elements.size() == n) return {s.get(), n};
    all.push_back(std::make_unique<Storage>(Storage{name, std::vector<unsigned char>(n * sizeof(T)), std::vector<Element>(n)}));
    return {all.back().get(), n};
}

// --- Warps ---

// Wait for the lanes of the warp; the last one to come runs `together` before anyone goes on.
template <class Fn> void meet(const char* what, Fn together) {
    Machine& m = machine();
    Warp& w = m.warp();
    const unsigned lanes = std::min(WARP, m.threads - m.now / WARP * WARP);
    if (w.arrived && w.what != what) report(std::string("lanes of a warp in ") + w.what + " and in " + what);
    w.what = what;
    if (++w.arrived == lanes) {
        w.arrived = 0;
        together();
        ++w.epoch;
        return;
    }
    Fiber& f = *m.fibers[m.now];
    f.at_warp = true;
    f.warp_epoch = w.epoch;
    wait(m);
}
inline void meet(const char* what) {
    meet(what, [] {});
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
inline unsigned block_size() { return simt::machine().threads; }
inline unsigned block_index() { return simt::machine().index.x; }
inline unsigned block_row() { return simt::machine().index.y; }
inline void block_sync() {
    simt::Machine& m = simt::machine();
    if (++m.arrived == m.threads) {
        m.arrived = 0;
        ++m.epoch;
        return;
    }
    m.fibers[m.now]->at_block = true;
    m.fibers[m.now]->block_epoch = m.epoch;
    simt::wait(m);
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
    for (unsigned i = 0; i < 32; ++i) all |= slots[i][0] << i;
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
    std::memcpy(slots[lane], a, 16);
    std::memcpy(slots[lane] + 4, b, 8);
    std::memcpy(slots[lane] + 6, c, 16);
    simt::meet("mma_s8", [&] {
        int8_t left[16][32], right[8][32];  // along k
        for (unsigned l = 0; l < 32; ++l)
            for (unsigned i = 0; i < 4; ++i) {
                std::memcpy(left[l / 4 + i % 2 * 8] + l % 4 * 4 + i / 2 * 16, &slots[l][i], 4);
                if (i < 2) std::memcpy(right[l / 4] + l % 4 * 4 + i * 16, &slots[l][4 + i], 4);
            }
        for (unsigned l = 0; l < 32; ++l)
            for (unsigned i = 0; i < 4; ++i) {
                int sum = 0;
                for (unsigned k = 0; k < 32; ++k) sum += left[l / 4 + i / 2 * 8][k] * right[l % 4 * 2 + i % 2][k];
                slots[l][6 + i] += static_cast<unsigned>(sum);
            }
    });
    std::memcpy(c, slots[lane] + 6, 16);
}
struct Quad {
    unsigned v[4];
};
inline Quad load16(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % 16) simt::report("a load of 16 bytes at an address that is not a multiple of 16");
    Quad q;
    std::memcpy(&q, p, 16);
    return q;
}
using Condition = unsigned*;
inline void continue_while(Condition condition, bool more) {
    if (condition) *condition = more;
}
}  // namespace gamegen
