// What kernels see of the engine: plain structures over device memory. Every array has one row per slot, or per row of
// the pass, as its comment says.
#pragma once
#include <cstdint>

#include "../kv4.h"
#include "../model.h"

namespace gamegen::cuda {

// A packed weight matrix, laid out as `Linear` is. Either int8 or float is there.
struct LinearView {
    int n_out, k, width;
    const int8_t* w8;    // (width / 64, ceil(k / 4), 64, 4)
    const float* scale;  // (width)
    const float* w;      // (width / 64, k, 64)
    const float* bias;   // (width)
};

struct LayerView {
    const float *attention_norm, *q_norm, *k_norm, *ff_norm;
    LinearView qkv, out, gate_up, down;
};

// One token in one pass; as forward.h, with numbers instead of pointers.
struct PassRow {
    int slot, stage;    // stage: 0 or 1, of the slot's two
    Token token;
    int64_t position, committed;
    int index;          // in its step
    int commit;         // into the ring in this pass
    int decides;        // is its next token wanted?
    int order;          // updates of the same slot before it in this pass
};

struct Latest {
    int64_t position, time;
    int cell;
    float motion[MOTION];
};

// A slot's state on the device. `position`, `time` and `origin` are those of the start of the step.
struct Live {
    int64_t seed, position, time;
    int origin_x, origin_y;
    Token last;                          // of the step so far
    int active, count, ended;            // count: tokens so far
    int scroll_x, scroll_y, n_updates;
    Token pending;                       // END of the step before
    int has_pending, pending_index, stage;
    int n_latest;
};

struct View {
    Config config;
    int places, layer_heads, stage_tokens, max_aims, max_rows, max_latest, logits_width, slots;
    float temperature, span;
    double by_position[8], by_time[8], waves[8];
    const float *small, *code, *norm, *code_norm, *pointer_norm, *sentinel, *ballistic_norm, *ageing, *gumbel;
    float sentinel_bias;
    LinearView event_head, code_in, code_out, code_logits, end_head, pointer_query, ballistic_query, aim, motion;
    // per slot
    Live* live;
    int32_t *codes, *update_cells, *update_codes;  // (slots, n_cells)
    uint8_t *k, *v;                // (slots, layer_heads, places * 32), as HeadCache
    uint16_t *scales;              // (slots, layer_heads, 4, places): k scale, k minimum, v scale, v minimum
    uint16_t* staged;              // (slots, 2, stage_tokens, layer_heads, 2, 64) halves
    int16_t *stage_codes, *held;   // (slots, 2, stage_tokens); (slots, window)
    Latest* latest;                // (slots, max_latest)
    // per pass
    int *n_rows, *n_active;
    PassRow* rows;                 // (max_rows), as all below
    Token* next;
    int* wanted;                   // is a code to be drawn?
    float *x, *normed, *hidden, *heads, *attended, *wide, *gated, *turn, *scales_of_rows, *events, *queries, *aims,
        *described, *inner, *query, *code_scores, *turned;
    int8_t* bytes;
    int bytes_stride;
    float *logits, *tops;          // (max_rows, n_heads + 1, logits_width); (max_rows, n_heads, places / 64)
    int* partial;                  // (max_rows, n_heads, places / 64, 64)
};

}  // namespace gamegen::cuda
