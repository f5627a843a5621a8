#include "lanes_avx2.h"
#include "ops_impl.h"

namespace gamegen {
extern const Ops avx2_ops;
const Ops avx2_ops = Impl<Avx2>::table();
}  // namespace gamegen
