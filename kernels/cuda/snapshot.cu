// A slot's context out of the device's memory and back, in the format that all engines share.
#include <algorithm>

#include "parts.h"

namespace gamegen::cuda {
namespace {

// Where byte `i` of a key or value lies among those of its head: in the order that attention's loads of 16 bytes have.
size_t byte_at(bool value, size_t place, size_t i) {
    return value ? place / 4 * 128 + i * 4 + place % 4 : place / 16 * 512 + i / 4 * 64 + place % 16 * 4 + i % 4;
}

}  // namespace

Context Engine::save(size_t slot) {
    Parts& p = *parts_;
    p.settle(slot);
    const View& w = p.w;
    const auto heads = static_cast<size_t>(w.layer_heads), places = static_cast<size_t>(w.places), window = w.config.window;
    std::vector<uint8_t> bytes(heads * places * 32);
    std::vector<uint16_t> scales(heads * places * 4);
    p.memory.get(scales.data(), w.scales + slot * scales.size(), scales.size());
    Context c;
    for (size_t which = 0; which < 2; ++which) {
        p.memory.get(bytes.data(), (which ? w.v : w.k) + slot * bytes.size(), bytes.size());
        for (size_t h = 0; h < heads; ++h)
            for (size_t place = 0; place < window; ++place) {
                for (size_t i = 0; i < 32; ++i) c.nibbles.push_back(bytes[h * places * 32 + byte_at(which, place, i)]);
                for (size_t i = 0; i < 2; ++i) c.scale_minimum.push_back(scales[(h * 4 + 2 * which + i) * places + place]);
            }
    }
    c.held.resize(window);
    p.memory.get(c.held.data(), w.held + slot * window, window);
    c.latest_rows.assign(REACH * 3, -1);
    c.latest_motion.assign(REACH * MOTION, 0);
    std::vector<Latest> latest(REACH);
    p.memory.get(latest.data(), w.latest + slot * static_cast<size_t>(w.max_latest), REACH);
    Live l;
    p.memory.get(&l, w.live + slot, 1);
    for (size_t i = 0; i < static_cast<size_t>(l.n_latest); ++i) {
        c.latest_rows[3 * i] = latest[i].position;
        c.latest_rows[3 * i + 1] = latest[i].cell;
        c.latest_rows[3 * i + 2] = latest[i].time;
        std::copy_n(latest[i].motion, MOTION, c.latest_motion.begin() + static_cast<int64_t>(i * MOTION));
    }
    return c;
}

void Engine::load(size_t slot, const Context& c) {
    Parts& p = *parts_;
    const View& w = p.w;
    const auto heads = static_cast<size_t>(w.layer_heads), places = static_cast<size_t>(w.places), window = w.config.window;
    std::vector<uint8_t> bytes(heads * places * 32);
    std::vector<uint16_t> scales(heads * places * 4);
    for (size_t which = 0; which < 2; ++which) {
        for (size_t h = 0; h < heads; ++h)
            for (size_t place = 0; place < window; ++place) {
                const size_t group = (which * heads + h) * window + place;
                for (size_t i = 0; i < 32; ++i) bytes[h * places * 32 + byte_at(which, place, i)] = c.nibbles[group * 32 + i];
                for (size_t i = 0; i < 2; ++i) scales[(h * 4 + 2 * which + i) * places + place] = c.scale_minimum[group * 2 + i];
            }
        p.memory.put((which ? w.v : w.k) + slot * bytes.size(), bytes.data(), bytes.size());
    }
    p.memory.put(w.scales + slot * scales.size(), scales.data(), scales.size());
    p.memory.put(w.held + slot * window, c.held.data(), window);
    std::vector<Latest> latest;
    for (size_t i = 0; i < REACH && c.latest_rows[3 * i] >= 0; ++i) {
        Latest u{c.latest_rows[3 * i], c.latest_rows[3 * i + 2], static_cast<int>(c.latest_rows[3 * i + 1]), {}};
        std::copy_n(c.latest_motion.begin() + static_cast<int64_t>(i * MOTION), MOTION, u.motion);
        latest.push_back(u);
    }
    p.memory.put(w.latest + slot * static_cast<size_t>(w.max_latest), latest.data(), latest.size());
    Live l{};
    l.n_latest = static_cast<int>(latest.size());
    p.memory.put(w.live + slot, &l, 1);
    p.pending[slot] = false;
    p.stale[slot] = true;
}

void Engine::clear(size_t slot) {
    const Config& c = parts_->model.config;
    const size_t groups = 2 * c.n_layers * c.n_kv_heads * c.window;
    load(slot, {std::vector<uint8_t>(groups * 32), std::vector<uint16_t>(groups * 2), std::vector<int16_t>(c.window, -1),
                std::vector<int64_t>(REACH * 3, -1), std::vector<float>(REACH * MOTION)});
}

}  // namespace gamegen::cuda
