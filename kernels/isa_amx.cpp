#include "lanes_avx512.h"
#include "ops_amx.h"
#include "ops_impl.h"

namespace gamegen {
namespace {
constexpr Ops with_tiles() {
    Ops ops = ops_table<Avx512>();
    ops.name = "amx";
    ops.linear = TileProducts<Avx512, AmxTiles>::linear;
    return ops;
}
}  // namespace
extern const Ops amx_ops;
const Ops amx_ops = with_tiles();
}  // namespace gamegen
