// Vectors that begin on a cache line: a load of 64 bytes then touches one line, not two.
#pragma once
#include <cstddef>
#include <new>
#include <vector>

namespace gamegen {

template <class T> struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t LINE{64};
    LineAllocator() = default;
    template <class U> LineAllocator(const LineAllocator<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), LINE)); }
    void deallocate(T* p, size_t) { ::operator delete(p, LINE); }
    bool operator==(const LineAllocator&) const { return true; }
};

template <class T> using Lined = std::vector<T, LineAllocator<T>>;

}  // namespace gamegen
