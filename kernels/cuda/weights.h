// Packed weights on their way to the device.
#pragma once
#include <algorithm>

#include "device.h"
#include "linear.cuh"

namespace gamegen::cuda {

inline LinearView upload(Memory& memory, const Linear& m) {
    LinearView v{};
    v.n_out = static_cast<int>(m.n_out);
    v.k = static_cast<int>(m.k);
    v.width = static_cast<int>(m.width());
    if (!m.w8.empty()) {  // k padded to what a warp takes at a time
        const size_t quads = (m.k + 3) / 4, padded = round_up(quads, CHUNK_QUADS), line = BLOCK * 4;
        std::vector<int8_t> w8(m.blocks * padded * line);
        for (size_t b = 0; b < m.blocks; ++b)
            std::copy_n(m.w8.begin() + static_cast<ptrdiff_t>(b * quads * line), quads * line, w8.begin() + static_cast<ptrdiff_t>(b * padded * line));
        v.quads = static_cast<int>(padded);
        v.w8 = memory.copy(w8);
        v.scale = memory.copy(m.scale);
    } else if (!m.w4.empty()) {
        v.quads = static_cast<int>(round_up(m.k, GROUP4) / 4);
        v.w4 = memory.copy(m.w4);
    } else {
        v.w = memory.copy(m.w);
    }
    v.bias = memory.copy(m.bias);
    return v;
}

}  // namespace gamegen::cuda
