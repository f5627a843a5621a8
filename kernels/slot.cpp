#include "slot.h"

#include <algorithm>
#include <cstring>

namespace gamegen {

void Slot::allocate(const Config& c, bool half) {
    half_ = half;
    window_ = c.window;
    places_ = round_up(c.window, BLOCK);
    layer_heads_ = c.n_layers * c.n_kv_heads;
    head_bytes_ = half ? 2 * places_ * HEAD * 2 : 2 * places_ * (HEAD / 2) + 4 * places_ * 2;
    memory_.assign(layer_heads_ * head_bytes_, 0);
    held.assign(window_, -1);
    // And a line: else the tokens of a head might all want the same lines of the first cache.
    stage.stride = previous.stride = layer_heads_ * 2 * HEAD + 16;
}

HeadCache Slot::cache(size_t layer_head) const {
    uint8_t* base = memory_.data() + layer_head * head_bytes_;
    const size_t bytes = half_ ? places_ * HEAD * 2 : places_ * (HEAD / 2);
    auto* halves = reinterpret_cast<uint16_t*>(base + 2 * bytes);
    if (half_) return {base, base + bytes, nullptr, nullptr, nullptr, nullptr};
    return {base, base + bytes, halves, halves + places_, halves + 2 * places_, halves + 3 * places_};
}

// Where byte i of a token's group lies: see HeadCache.
static size_t key_byte(size_t place, size_t i) { return place / 16 * 512 + i / 4 * 64 + place % 16 * 4 + i % 4; }
static size_t value_byte(size_t place, size_t i) { return place / 4 * 128 + i * 4 + place % 4; }

void Slot::put(size_t layer_head, size_t which, size_t place, const Group4& group) {
    const HeadCache c = cache(layer_head);
    for (size_t i = 0; i < 32; ++i)
        (which ? c.v[value_byte(place, i)] : c.k[key_byte(place, i)]) = group.nibbles[i];
    (which ? c.v_scale : c.k_scale)[place] = group.scale;
    (which ? c.v_minimum : c.k_minimum)[place] = group.minimum;
}

void Slot::commit(const Ops& ops, size_t layer_head, const float* key_value, size_t place) {
    for (size_t which = 0; which < 2; ++which) {
        const float* values = key_value + which * HEAD;
        if (!half_) {
            Group4 group;
            ops.quantise4(values, group.nibbles, &group.scale, &group.minimum);
            put(layer_head, which, place, group);
            continue;
        }
        const HeadCache c = cache(layer_head);
        auto* to = reinterpret_cast<uint16_t*>(which ? c.v : c.k) + place * HEAD;
        for (size_t i = 0; i < HEAD; ++i) to[i] = float_to_half(values[i]);
    }
}

void Slot::read_nibbles(uint8_t* nibbles, uint16_t* scale_minimum) const {
    for (size_t which = 0; which < 2; ++which)
        for (size_t h = 0; h < layer_heads_; ++h) {
            const HeadCache c = cache(h);
            for (size_t place = 0; place < window_; ++place) {
                for (size_t i = 0; i < 32; ++i) *nibbles++ = which ? c.v[value_byte(place, i)] : c.k[key_byte(place, i)];
                *scale_minimum++ = (which ? c.v_scale : c.k_scale)[place];
                *scale_minimum++ = (which ? c.v_minimum : c.k_minimum)[place];
            }
        }
}

void Slot::write_nibbles(const uint8_t* nibbles, const uint16_t* scale_minimum) {
    for (size_t which = 0; which < 2; ++which)
        for (size_t h = 0; h < layer_heads_; ++h)
            for (size_t place = 0; place < window_; ++place, nibbles += 32, scale_minimum += 2) {
                Group4 group;
                std::memcpy(group.nibbles, nibbles, 32);
                group.scale = scale_minimum[0];
                group.minimum = scale_minimum[1];
                put(h, which, place, group);
            }
}

void Slot::read_halves(uint16_t* halves) const {
    for (size_t which = 0; which < 2; ++which)
        for (size_t h = 0; h < layer_heads_; ++h, halves += window_ * HEAD)
            std::memcpy(halves, which ? cache(h).v : cache(h).k, window_ * HEAD * 2);
}

void Slot::write_halves(const uint16_t* halves) {
    for (size_t which = 0; which < 2; ++which)
        for (size_t h = 0; h < layer_heads_; ++h, halves += window_ * HEAD)
            std::memcpy(which ? cache(h).v : cache(h).k, halves, window_ * HEAD * 2);
}

void Slot::clear() {
    std::fill(memory_.begin(), memory_.end(), 0);
    std::fill(held.begin(), held.end(), int16_t{-1});
    latest.clear();
    pending.reset();
    trail = {};
}

size_t Slot::bytes() const {
    return memory_.size() + held.size() * 2 + latest.capacity() * sizeof(Update) +
           (stage.values.capacity() + previous.values.capacity()) * 4;
}

}  // namespace gamegen
