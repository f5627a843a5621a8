#include "lanes_neon.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops neon_dot_ops;
const Ops neon_dot_ops = ops_table<Neon<Dot::SIGNED>>();
}  // namespace gamegen
