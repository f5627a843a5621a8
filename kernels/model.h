// A model as the engine holds it: packed weights. Names are those of the PyTorch modules.
#pragma once
#include <map>
#include <string>

#include "grammar.h"
#include "ops.h"

namespace gamegen {

constexpr size_t REACH = 64;  // latest updates whose paths are followed
constexpr size_t MOTION = 8;
constexpr int STANDS_OUT = 30;  // as in motion.py
constexpr size_t MAX_HEADS = 64;
constexpr int N_DIRECTIONS = 9;

// Arithmetic: float; 8-bit weights and activations; the same with 4-bit weights in the blocks, where most of them are.
enum class Precision { FLOAT, INT8, INT4 };

struct Config {
    Grammar grammar;
    size_t n_layers, d_model, n_heads, n_kv_heads, d_ff, window;
    bool pointer, ballistics, anchor, sprites, things;
    int32_t max_motion;  // 0: updates only repaint
    GAMEGEN_HD int32_t n_vectors() const { return max_motion ? (2 * max_motion + 1) * (2 * max_motion + 1) : 0; }
    // With sprites every motion comes twice: of all that is there, then of what stands out from the anchor; with things once more:
    // of that and of what hangs together with it, which is the canvas's business.
    GAMEGEN_HD size_t n_motions() const { return static_cast<size_t>(n_vectors()) * (1 + sprites + things); }
    GAMEGEN_HD int32_t still() const { return n_vectors() / 2; }  // (0, 0), which is no motion, but may bring back the anchor
    size_t group() const { return n_heads / n_kv_heads; }
    size_t max_step_tokens() const { return static_cast<size_t>(grammar.n_cells()) + 3; }
};

// A tensor lent by the caller: row-major floats.
struct Tensor {
    const float* data;
    std::vector<size_t> shape;
};
using Tensors = std::map<std::string, Tensor>;

// A tensor by its name, and a layer with a bias in float. Throw std::invalid_argument where it is missing or of another shape.
std::vector<float> read_tensor(const Tensors& tensors, const std::string& name, const std::vector<size_t>& shape);
Linear read_linear(const Tensors& tensors, const std::string& name, size_t n_out, size_t k);

struct Layer {
    std::vector<float> attention_norm, q_norm, k_norm, ff_norm;
    Linear qkv, out, gate_up, down;
};

struct Model {
    Config config;
    Precision precision;
    std::vector<float> small;      // (features, d_model)
    std::vector<float> code;       // (n_codes, d_model)
    std::vector<Layer> layers;
    std::vector<float> norm, code_norm;
    Linear event_head, code_in, code_out, code_logits, end_head;
    // pointer memory
    Linear pointer_query;
    std::vector<float> pointer_norm, sentinel;
    float sentinel_bias = 0;
    // motions, and what codes look like: bytes (n_codes, c, c, 3), the same as a matrix, and their squared lengths
    Linear motion_head, patch_matrix;
    std::vector<float> patches, patch_square;
    // ballistic attention
    Linear ballistic_query, aim, motion;
    std::vector<float> ballistic_norm, ageing;

    // Throws std::invalid_argument naming a tensor that is missing, of a wrong shape, or one too many.
    Model(const Config& config, const Tensors& tensors, Precision precision);
    size_t features() const;
};

}  // namespace gamegen
