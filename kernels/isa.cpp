// Which instruction sets were built, and which of them this CPU has.
#include <stdexcept>

#include "ops.h"

namespace gamegen {

extern const Ops scalar_ops;
#if defined(__x86_64__)
extern const Ops avx2_ops, avx512_ops;
#elif defined(__aarch64__)
extern const Ops neon_ops;
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
#elif defined(__aarch64__)
    found.push_back(&neon_ops);
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

std::vector<std::string> available_ops() {
    std::vector<std::string> names;
    for (const Ops* ops : usable()) names.emplace_back(ops->name);
    return names;
}

}  // namespace gamegen
