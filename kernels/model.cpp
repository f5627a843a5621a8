#include "model.h"

#include "half.h"

#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>

namespace gamegen {
namespace {

std::string spell(const std::vector<size_t>& shape) {
    std::string text = "(";
    for (size_t n : shape) text += std::to_string(n) + ", ";
    return text + ")";
}

// Hands out tensors by name and notices which were not asked for.
struct Reader {
    const Tensors& tensors;
    std::set<std::string> used{};

    std::vector<float> take(const std::string& name, const std::vector<size_t>& shape) {
        const auto found = tensors.find(name);
        if (found == tensors.end()) throw std::invalid_argument("weights: expected a tensor " + name + ", got none");
        if (found->second.shape != shape)
            throw std::invalid_argument("weights: " + name + ": expected shape " + spell(shape) + ", got " +
                                        spell(found->second.shape));
        size_t size = 1;
        for (size_t n : shape) size *= n;
        used.insert(name);
        return {found->second.data, found->second.data + size};
    }

    Linear linear(const std::string& name, size_t n_out, size_t k, Precision precision, bool bias) {
        Linear m = pack(take(name + ".weight", {n_out, k}), n_out, k, precision);
        if (bias) {
            const auto values = take(name + ".bias", {n_out});
            std::copy(values.begin(), values.end(), m.bias.begin());
        }
        return m;
    }

    static Linear pack(const std::vector<float>& w, size_t n_out, size_t k, Precision precision) {
        Linear m;
        m.n_out = n_out;
        m.k = k;
        m.blocks = round_up(n_out, BLOCK) / BLOCK;
        m.bias.assign(m.width(), 0);
        if (precision == Precision::INT4) {
            pack4(w, m);
            return m;
        }
        if (precision == Precision::FLOAT) {
            m.w.assign(m.blocks * k * BLOCK, 0);
            for (size_t n = 0; n < n_out; ++n)
                for (size_t i = 0; i < k; ++i) m.w[(n / BLOCK * k + i) * BLOCK + n % BLOCK] = w[n * k + i];
            return m;
        }
        const size_t quads = (k + 3) / 4;
        m.w8.assign(m.blocks * quads * BLOCK * 4, 0);
        m.scale.assign(m.width(), 0);
        m.offset.assign(m.width(), 0);
        for (size_t n = 0; n < n_out; ++n) {
            float largest = 0;
            for (size_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(w[n * k + i]));
            if (largest == 0) continue;
            m.scale[n] = largest / 127;
            for (size_t i = 0; i < k; ++i) {
                const auto q = static_cast<int8_t>(std::nearbyint(w[n * k + i] * (127 / largest)));
                m.w8[((n / BLOCK * quads + i / 4) * BLOCK + n % BLOCK) * 4 + i % 4] = q;
                m.offset[n] += 128 * q;
            }
        }
        return m;
    }

    // The number furthest from zero becomes nibble 0, which reaches one step further than 15.
    static void pack4(const std::vector<float>& w, Linear& m) {
        const size_t groups = round_up(m.k, GROUP4) / GROUP4;
        m.w4.assign(m.blocks * BLOCK / STRIP * groups * RECORD4, 0x88);
        for (size_t n = 0; n < m.width(); ++n)
            for (size_t g = 0; g < groups; ++g) {
                uint8_t* record = m.w4.data() + (n / STRIP * groups + g) * RECORD4;
                const size_t first = g * GROUP4, count = n < m.n_out ? std::min(GROUP4, m.k - first) : 0;
                const float* from = w.data() + n * m.k + first;
                float furthest = 0;
                for (size_t i = 0; i < count; ++i)
                    if (std::fabs(from[i]) > std::fabs(furthest)) furthest = from[i];
                const uint16_t half = float_to_half(furthest / -8);
                std::memcpy(record + STRIP * GROUP4 / 2 + n % STRIP * 2, &half, 2);
                const float scale = half_to_float(half);
                for (size_t i = 0; scale != 0 && i < count; ++i) {
                    const float q = std::nearbyint(from[i] / scale) + 8;
                    const auto nibble = static_cast<unsigned>(q < 0 ? 0 : q > 15 ? 15 : q);
                    uint8_t& byte = record[(i % 16 / 4 * STRIP + n % STRIP) * 4 + i % 4];
                    byte = static_cast<uint8_t>(i < 16 ? (byte & 0xF0) | nibble : (byte & 0x0F) | nibble << 4);
                }
            }
    }
};

void check(const Config& c) {
    const Grammar& g = c.grammar;
    const auto expect = [](bool ok, const char* what) {
        if (!ok) throw std::invalid_argument(std::string("config: expected ") + what);
    };
    expect(g.map_cells > 1 && g.map_cells <= 32, "2 to 32 map_cells");
    expect(g.view_cells == g.map_cells - 1, "view_cells = map_cells - 1");
    expect(g.max_scroll > 0 && g.max_scroll < g.size() && g.cell_size > 0, "max_scroll and cell_size >= 1");
    expect(g.n_codes > 1 && g.n_codes <= 32768, "2 to 32768 codes");
    expect(g.n_actions > 0, "n_actions >= 1");
    expect(c.n_layers > 0 && c.d_model > 0 && c.d_ff > 0, "n_layers, d_model and d_ff >= 1");
    expect(c.n_kv_heads > 0 && c.n_heads % c.n_kv_heads == 0, "n_heads a multiple of n_kv_heads");
    expect(c.max_motion >= 0 && c.max_motion < g.size() && (c.pointer || !c.max_motion), "max_motion with a pointer, or 0");
    expect(!c.max_motion || g.cell_size <= 8, "cells of at most 8 pixels that move");
    expect(c.max_motion || !c.anchor, "an anchor with motions, or none");
    expect(c.anchor || !c.sprites, "sprites with an anchor, or none");
    expect(c.sprites || !c.things, "things with sprites, or none");
    expect(c.n_motions() < 65536, "at most 65535 motions");  // a token's b is 31 bits
    expect(c.n_heads <= MAX_HEADS, "at most 64 heads");
    expect(c.group() <= MAX_GROUP, "at most 8 query heads per KV head");
    expect(c.window > static_cast<size_t>(g.n_cells()) + c.max_step_tokens(), "a window that holds a keyframe and a step");
}

}  // namespace

size_t Model::features() const {
    const Grammar& g = config.grammar;
    const int buttons = g.n_actions / N_DIRECTIONS;
    return static_cast<size_t>(5 + 6 * g.map_cells + 2 * g.cell_size + N_DIRECTIONS + buttons + 2 * g.side() + 3 + 2) +
           (config.max_motion ? 2 * static_cast<size_t>(2 * config.max_motion + 1) : 0) + (config.anchor ? 2 : 0) + (config.sprites ? 2 + config.things : 0);
}

std::vector<float> read_tensor(const Tensors& tensors, const std::string& name, const std::vector<size_t>& shape) {
    return Reader{tensors}.take(name, shape);
}
Linear read_linear(const Tensors& tensors, const std::string& name, size_t n_out, size_t k) {
    return Reader{tensors}.linear(name, n_out, k, Precision::FLOAT, true);
}

Model::Model(const Config& c, const Tensors& tensors, Precision precision_) : config(c), precision(precision_) {
    check(c);
    // Heads keep 8 bits.
    const Precision heads = precision == Precision::INT4 ? Precision::INT8 : precision;
    Reader read{tensors};
    const size_t d = c.d_model, codes = static_cast<size_t>(c.grammar.n_codes);
    small = read.take("small.weight", {features(), d});
    code = read.take("code.weight", {codes, d});
    code_logits = Reader::pack(code, codes, d, heads);
    for (size_t i = 0; i < c.n_layers; ++i) {
        const std::string at = "blocks." + std::to_string(i) + ".";
        Layer layer;
        layer.attention_norm = read.take(at + "attention_norm.weight", {d});
        layer.q_norm = read.take(at + "q_norm.weight", {HEAD});
        layer.k_norm = read.take(at + "k_norm.weight", {HEAD});
        layer.ff_norm = read.take(at + "ff_norm.weight", {d});
        layer.qkv = read.linear(at + "qkv", (c.n_heads + 2 * c.n_kv_heads) * HEAD, d, precision, false);
        layer.out = read.linear(at + "out", d, c.n_heads * HEAD, precision, false);
        layer.gate_up = read.linear(at + "gate_up", 2 * c.d_ff, d, precision, false);
        layer.down = read.linear(at + "down", d, c.d_ff, precision, false);
        layers.push_back(std::move(layer));
    }
    norm = read.take("norm.weight", {d});
    code_norm = read.take("code_norm.weight", {d});
    event_head = read.linear("event_head", static_cast<size_t>(c.grammar.n_events()), d, heads, true);
    code_in = read.linear("code_in", 2 * d, 2 * d, heads, true);
    code_out = read.linear("code_out", d, 2 * d, heads, true);
    end_head = read.linear("end_head", 5, d, Precision::FLOAT, true);
    if (c.pointer) {
        pointer_query = read.linear("pointer.query", c.n_kv_heads * HEAD, d, heads, false);
        pointer_norm = read.take("pointer.norm.weight", {HEAD});
        sentinel = read.take("pointer.sentinel", {c.n_kv_heads * HEAD});
        sentinel_bias = read.take("pointer.sentinel_bias", {}).front();
    }
    if (c.max_motion) {
        motion_head = read.linear("motion_head", c.n_motions(), d, heads, true);
        const auto side = static_cast<size_t>(c.grammar.cell_size), size = side * side * 3;
        patches = read.take("patches", {codes, side, side, 3});
        // Whole numbers whose products add up to less than 2 ** 24: exact in float.
        patch_matrix = Reader::pack(patches, codes, size, Precision::FLOAT);
        patch_square.assign(codes, 0);
        for (size_t i = 0; i < codes * size; ++i) patch_square[i / size] += patches[i] * patches[i];
    }
    if (c.ballistics) {
        ballistic_query = read.linear("ballistics.query", c.n_heads * HEAD, d, heads, false);
        ballistic_norm = read.take("ballistics.norm.weight", {HEAD});
        aim = read.linear("ballistics.aim", 4 * c.n_heads, d, Precision::FLOAT, true);
        motion = read.linear("ballistics.motion", MOTION, d, Precision::FLOAT, true);
        ageing = read.take("ballistics.ageing", {c.n_heads});
    }
    for (const auto& [name, tensor] : tensors)
        if (!read.used.count(name)) throw std::invalid_argument("weights: got a tensor " + name + ", expected none of that name");
}

}  // namespace gamegen
