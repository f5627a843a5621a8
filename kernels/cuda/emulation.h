// CUDA on the host, for tests; what it promises stands in simt.h, which includes it.
#pragma once
#include <tuple>
#include <type_traits>

#include "machine.h"

#define KERNEL inline void
#define KERNEL_OF(threads) inline void
#define DEVICE static inline
#define DEVICE_CALL static inline
#define GIVEN const
#define SIMT_TEXT_(x) #x
#define SIMT_TEXT(x) SIMT_TEXT_(x)
#define SHARED(type, name, n) const auto name = simt::shared<type>(n, __FILE__ ":" SIMT_TEXT(__LINE__) " " #name)
#define SHARED_ARRAY(type, name) const simt::Array<type>& name
#define LAUNCH(stream, kernel, grid, block, ...) simt::launch((grid), (block), kernel, __VA_ARGS__)

namespace simt {

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
        run(grid, block.x, false, body);
    };
    if (recording()) recording()->push_back(std::move(all));
    else all();
}

// All blocks at the same time, at once.
template <class... P> void launch_together(dim3 grid, dim3 block, void (*kernel)(P...), std::type_identity_t<P>... arguments) {
    if (grid.x > resident_blocks() || grid.y > 1)
        throw std::runtime_error("simt: " + std::to_string(grid.x * grid.y) + " blocks that wait for each other, where " +
                                 std::to_string(resident_blocks()) + " run at the same time");
    const std::function<void()> body = [&] { kernel(arguments...); };
    run(grid, block.x, true, body);
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
        const uint64_t epoch = m.block->epoch;
        const int now = static_cast<int>(m.now), warp = now / static_cast<int>(WARP);
        const uint32_t warp_epoch = m.warp().epoch;
        if (e.written < m.block->first_epoch) report(spell(storage, i) + ": read before it was written");
        if (behind(m, e)) report("race: " + spell(storage, i) + ": read what thread " + std::to_string(e.writer) + " writes");
        if (e.read != epoch) {
            e.read = epoch;
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
        if (e.read == m.block->epoch && (e.reading_warp != warp || (e.read_warp_epoch == m.warp().epoch && e.reader != now)))
            report("race: " + spell(storage, i) + ": " + (e.reader >= 0 ? "thread " + std::to_string(e.reader) : "another thread") +
                   " still reads it");
        e.read = 0;
        e.written = m.block->epoch;
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
        if (e.written != m.block->epoch || e.writer == static_cast<int>(m.now)) return false;
        return static_cast<unsigned>(e.writer) / WARP != m.now / WARP || e.written_warp_epoch == m.warp().epoch;
    }
};

// `name` is a literal, the same one for every thread.
template <class T> Array<T> shared(size_t n, const char* name) {
    auto& all = machine().block->shared;
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
    const unsigned lanes = std::min(WARP, m.block->threads - m.now / WARP * WARP);
    if (w.arrived && w.what != what) report(std::string("lanes of a warp in ") + w.what + " and in " + what);
    w.what = what;
    if (++w.arrived == lanes) {
        w.arrived = 0;
        together();
        ++w.epoch;
        return;
    }
    Thread& x = m.thread();
    x.at_warp = true;
    x.warp_epoch = w.epoch;
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
inline unsigned block_size() { return simt::machine().block->threads; }
inline unsigned block_index() { return simt::machine().block->index.x; }
inline unsigned block_row() { return simt::machine().block->index.y; }
inline unsigned grid_size() { return simt::machine().grid.x; }
inline void block_sync() {
    simt::Machine& m = simt::machine();
    simt::Block& b = *m.block;
    if (++b.arrived == b.threads) {
        b.arrived = 0;
        ++b.epoch;
        return;
    }
    m.thread().at_block = true;
    m.thread().block_epoch = b.epoch;
    simt::wait(m);
}
inline unsigned afresh(unsigned n) { return n; }
inline unsigned add_release(unsigned* to, unsigned n) { return std::exchange(*to, *to + n); }
inline void wait_acquire(const unsigned* word, unsigned mask, unsigned value) {
    if ((*word & mask) != value) return;
    simt::Machine& m = simt::machine();
    simt::Thread& x = m.thread();
    x.word = word;
    x.mask = mask;
    x.value = value;
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
inline int dp4a(unsigned a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += static_cast<uint8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
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
inline void prefetch(const void* p) { static_cast<void>(*static_cast<const volatile char*>(p)); }
using Condition = unsigned*;
inline void continue_while(Condition condition, bool more) {
    if (condition) *condition = more;
}
}  // namespace gamegen
