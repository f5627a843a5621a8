// The operations of ops.h over any lanes. Included by one isa_*.cpp per instruction set, which must include
// nothing that leaves functions with its instructions in other files.
#pragma once
#include "ops_attention.h"
#include "ops_ballistic.h"

namespace gamegen {

template <class L> constexpr Ops ops_table() {
    using E = Elements<L>;
    return {L::name,        Products<L>::linear, E::rms_norm,      E::silu_times,         E::silu,
            E::add,         E::hadamard,         E::place,         E::round_half,         E::quantise4,
            Attention<L>::scores, Attention<L>::mix, E::maximum,   E::exponentials,       E::scale,
            E::draw,        Ballistic<L>::ballistic};
}

}  // namespace gamegen
