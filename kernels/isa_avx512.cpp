#include "lanes_avx512.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops avx512_ops;
const Ops avx512_ops = ops_table<Avx512>();
}  // namespace gamegen
