#include "lanes_avx2.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops avx2_ops;
const Ops avx2_ops = ops_table<Avx2>();
}  // namespace gamegen
