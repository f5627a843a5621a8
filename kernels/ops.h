// The operations that cost time, once per instruction set: `ops_for` returns a table of them.
//
// Every version gives the same bits: integer sums are exact, float sums have one order (sixteen lanes,
// then L::sum over them), and a product is fused with a sum only where `fma` says so.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "aligned.h"

namespace gamegen {

constexpr size_t HEAD = 64;    // head_dim, values in a group of the KV format
constexpr size_t BLOCK = 64;   // outputs that a matrix product computes together; tokens that share a weight scale
constexpr size_t STRIP = 32;   // outputs that share a stretch of 4-bit weights
constexpr size_t GROUP4 = 32;  // 4-bit weights along k that share a scale
constexpr size_t RECORD4 = STRIP * GROUP4 / 2 + STRIP * 2;  // bytes of a strip's group: nibbles, then scales
constexpr size_t MAX_GROUP = 8;  // query heads per KV head

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Scratch of a matrix product for one row: its bytes, room for a sum behind each group of 32.
inline size_t scratch_bytes(size_t k) { return round_up(k, GROUP4) / GROUP4 * (GROUP4 + 4); }

// A weight matrix (n_out, k), packed by blocks of 64 outputs. One of w8, w4 and w is there.
struct Linear {
    size_t n_out = 0, k = 0, blocks = 0;
    Lined<int8_t> w8;               // (blocks, ceil(k / 4), 64, 4)
    Lined<float> scale;             // (blocks * 64), of w8
    Lined<int32_t> offset;          // (blocks * 64), 128 * the sum of an output's w8: activations are stored + 128
    // 4 bits, value = (nibble - 8) * scale: (blocks * 2, ceil(k / 32)) records of 512 bytes (4, 32, 4), byte (p, n, j)
    // being k = 4 p + j of output n in its low and k = 16 + 4 p + j in its high nibble, and 32 scales in fp16.
    Lined<uint8_t> w4;
    Lined<float> w;                 // (blocks, k, 64)
    Lined<float> bias;              // (blocks * 64), zero where the layer has none
    size_t width() const { return blocks * BLOCK; }  // of an output row
};

// Committed keys and values of one layer and KV head of one slot; arrays by ring place, padded to BLOCK places.
// 4 bits: keys lie as (places / 16, 8, 16, 4) bytes: 16 tokens side by side, 4 dimensions each; values as
// (places / 4, 32, 4) bytes: 4 tokens side by side. 16 bits: (places, 64) halves, scale and minimum unused.
struct HeadCache {
    uint8_t *k, *v;
    uint16_t *k_scale, *k_minimum, *v_scale, *v_minimum;
};

// What one token sees in one layer and KV head.
struct Seen {
    HeadCache cache;
    bool half;              // 16-bit cache
    bool exact;             // float arithmetic with the 4-bit cache
    size_t places;          // ring places in use, from 0
    size_t window;
    size_t hidden_from, hidden;  // places (hidden_from + i) % window that are not seen, i < hidden
    const float* staged;    // tokens of the step being decoded: key (64) then value (64), `staged_stride` floats apart
    size_t staged_stride;
    size_t n_staged;
    HeadCache next = {};    // what is read after this, if there is something: fetched meanwhile
    size_t width() const { return round_up(places, BLOCK) + round_up(n_staged, 16); }  // of a row of logits
};

// Where paths lead; see gamegen_env/ballistics.py.
struct PathsView {
    size_t n_heads, n_paths, map_cells;
    const float* place;      // (n_paths, 2) row, column
    const float* weight;     // (n_heads, n_paths)
    const float* aim;        // (n_heads, 4) offset down and right, spread, gain
};

struct Ops {
    const char* name;
    // out (rows, m.width()) = x (rows, k) @ m + bias. `bytes` is scratch of rows * scratch_bytes(k).
    void (*linear)(const Linear& m, const float* x, size_t rows, size_t x_stride, float* out, uint8_t* bytes);
    void (*rms_norm)(const float* x, const float* gain, size_t n, float* out);
    void (*silu_times)(const float* gate, const float* up, size_t n, float* out);
    void (*silu)(float* x, size_t n);
    void (*add)(float* x, const float* y, size_t n);  // x += y
    void (*hadamard)(float* x);     // 64 values in place, orthonormal
    // 64 values in place: turned by `rotary` (cos (32), sin (32)), hadamard, times `by`
    void (*place)(float* x, const float* rotary, float by);
    void (*round_half)(float* x, size_t n);  // n a multiple of 16
    // quantise4 of kv4.h: x (64) to nibbles (32)
    void (*quantise4)(const float* x, uint8_t* nibbles, uint16_t* scale, uint16_t* minimum);
    // logits (heads, seen.width()): query (heads, 64), already scaled, against keys; -inf where nothing is seen
    void (*scores)(const float* query, size_t heads, const Seen& seen, float* logits);
    // out (heads, 64): softmax of logits over values; logits are overwritten
    void (*mix)(float* logits, size_t heads, const Seen& seen, float* out);
    float (*maximum)(const float* x, size_t n);
    // x = exp(x - maximum); returns the sum
    float (*exponentials)(float* x, size_t n, float maximum);
    void (*scale)(float* x, size_t n, float by);
    // The first of the n classes whose logit / temperature + noise is largest, of those not below `least`; `none` if
    // there is none above -inf. `table` and `key` are noise.h's.
    size_t (*draw)(const float* logits, size_t n, float least, float temperature, const float* table, uint32_t key, size_t none);
    // logits (map_cells * map_cells) += where paths lead
    void (*ballistic)(const PathsView& paths, float* logits);
};

// "auto": the best that this CPU has. Throws std::invalid_argument naming what there is.
const Ops& ops_for(const std::string& name);
std::vector<std::string> available_ops();
// What this CPU has and was built, but multiplies wrongly: never chosen.
std::vector<std::string> wrong_ops();

}  // namespace gamegen
