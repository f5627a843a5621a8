// Which instruction sets were built, and which of them this CPU has.
#include <stdexcept>

#include "trial.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace gamegen {

extern const Ops scalar_ops;
#if defined(__x86_64__)
extern const Ops avx2_ops, avx512_ops;

#if defined(__linux__)
extern const Ops amx_ops;

// Tiles with products of bytes: does the CPU have them, does the kernel save them, and may this process use them?
static bool has_amx() {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d & bit_AMX_TILE) || !(d & bit_AMX_INT8)) return false;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr unsigned tile_state = 3u << 17;  // configuration and data
    constexpr long ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, of the process and its threads
    return (low & tile_state) == tile_state && syscall(SYS_arch_prctl, ask, tile_data) == 0;
}
static bool amx_there() {
    static const bool there = has_amx();
    return there;
}
// No CPU at hand had them when they were written: they are tried before they are trusted.
static bool amx_right() {
    static const bool right = multiplies_like(amx_ops, scalar_ops);
    return right;
}
#endif
#elif defined(__aarch64__)
extern const Ops neon_ops, neon_dot_ops, neon_i8mm_ops;

#if defined(__linux__)
static bool has_dot() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
static bool has_i8mm() { return getauxval(AT_HWCAP2) & HWCAP2_I8MM; }
#elif defined(__APPLE__)
static bool has(const char* feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value;
}
static bool has_dot() { return has("hw.optional.arm.FEAT_DotProd"); }
static bool has_i8mm() { return has("hw.optional.arm.FEAT_I8MM"); }
#else  // no way to ask
static bool has_dot() { return false; }
static bool has_i8mm() { return false; }
#endif
#endif

static std::vector<const Ops*> usable() {  // the best last
    std::vector<const Ops*> found{&scalar_ops};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2) found.push_back(&avx2_ops);
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        found.push_back(&avx512_ops);
#if defined(__linux__)
    if (found.back() == &avx512_ops && amx_there() && amx_right()) found.push_back(&amx_ops);
#endif
#elif defined(__aarch64__)
    found.push_back(&neon_ops);
    if (has_dot()) found.push_back(&neon_dot_ops);
    if (has_dot() && has_i8mm()) found.push_back(&neon_i8mm_ops);
#endif
    return found;
}

const Ops& ops_for(const std::string& name) {
    std::string known = "auto";
    const auto found = usable();
    if (name == "auto") return *found.back();
    for (const Ops* ops : found) {
        if (name == ops->name) return *ops;
        known += std::string(", ") + ops->name;
    }
    throw std::invalid_argument("isa: expected one of " + known + " on this machine, got '" + name + "'");
}

std::vector<std::string> wrong_ops() {
#if defined(__x86_64__) && defined(__linux__)
    if (usable().back() == &avx512_ops && amx_there() && !amx_right()) return {amx_ops.name};
#endif
    return {};
}

std::vector<std::string> available_ops() {
    std::vector<std::string> names;
    for (const Ops* ops : usable()) names.emplace_back(ops->name);
    return names;
}

}  // namespace gamegen
