// The waves of the rotary embedding, eight of each kind; transformer.py says what they are for.
#pragma once
#include <cmath>

#include "elementary.h"

namespace gamegen {

struct Waves {
    double by_position[8], by_time[8], by_place[8];  // radians per token, per step, per row or column of cells
};

inline Waves rotary_waves(int map_cells) {
    constexpr double POSITION_WAVELENGTH = TAU * 1000, TIME_WAVELENGTH = TAU * 200;
    Waves waves;
    for (int i = 0; i < 8; ++i) {
        waves.by_position[i] = std::pow(TAU / POSITION_WAVELENGTH, i / 7.0);
        waves.by_time[i] = std::pow(TAU / TIME_WAVELENGTH, i / 7.0);
        waves.by_place[i] = std::nearbyint(1 + ((map_cells - 1) / 2 - 1) * (i / 7.0)) * (TAU / map_cells);
    }
    return waves;
}

}  // namespace gamegen
