#include "lanes_scalar.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops scalar_ops;
const Ops scalar_ops = ops_table<Scalar>();
}  // namespace gamegen
