#include "lanes_neon.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops neon_i8mm_ops;
const Ops neon_i8mm_ops = ops_table<Neon<Dot::MIXED>>();
}  // namespace gamegen
