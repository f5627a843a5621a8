#include "lanes_neon.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops neon_ops;
const Ops neon_ops = ops_table<Neon<Dot::NONE>>();
}  // namespace gamegen
