// What kernels see of the engine: plain structures over device memory. Every array has one row per slot, or per row of
// the pass, as its comment says.
#pragma once
#include <cstdint>

#include "../kv4.h"
#include "../model.h"
#include "../rotary.h"

namespace gamegen::cuda {

// A packed weight matrix. One of w8, w4 and w is there; k is padded with zeros to a multiple of 64, of 32 for w4.
struct LinearView {
    int n_out, k, width, quads;  // quads: fours along the padded k
    const int8_t* w8;    // (width / 64, quads, 64, 4)
    const uint8_t* w4;   // (width / 32, quads / 8) records, as `Linear` has them
    const float* scale;  // (width), of w8
    const float* w;      // (width / 64, k, 64)
    const float* bias;   // (width)
};

// Rows of numbers on their way into a product: signed bytes, and one scale for each row.
struct ByteRows {
    int8_t* bytes;  // (rows, stride)
    float* scales;  // (rows)
    int stride;
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
    int latest;         // an update's number in `latest`
};

struct Latest {
    int64_t position, time;
    int cell;
    float motion[MOTION];
};

// A slot's state on the device. `position` and `time` are those of the start of the step.
struct Live {
    int64_t seed, position, time;
    Token last;                          // of the step so far
    int count;                           // tokens so far
    int scroll_x, scroll_y, n_updates;
    Token pending;                       // END of the step before
    int has_pending, pending_index, stage;
    int n_latest;
};

// --- Between host and device: in host memory that kernels read and write where it lies ---

struct Request {  // of one slot's step
    int slot, action, camera, origin_x, origin_y;
    int64_t seed, position, time;
};
struct Answer {
    int scroll_x, scroll_y, x, y, reward_class, done, tokens, n_updates, first_update;
};
struct Change {
    int cell, code, motion;  // motion: by which the picture moves there, -1 where it is repainted
};
struct Mail {
    int n_requests, n_known, known_slot;
    int playing;  // slots whose step goes on, or known tokens that are left
    int64_t known_start;
};

struct View {
    Config config;
    int places, layer_heads, stage_tokens, max_aims, max_rows, max_latest, logits_width, slots;
    float temperature, span;
    Waves waves;
    const float *small, *code, *norm, *code_norm, *pointer_norm, *sentinel, *ballistic_norm, *ageing, *gumbel;
    float sentinel_bias;
    LinearView event_head, code_in, code_out, code_logits, end_head, pointer_query, motion_head, ballistic_query, aim, motion;
    const uint8_t* patches;        // what codes look like (n_codes, c, c, 3), where updates may move
    // host memory
    Mail* mail;
    Request* requests;             // (slots), in the order asked for
    Answer* answers;               // (slots), in the same order
    Change* changes;               // (slots * n_cells), of one slot behind those of another
    Token* known;                  // (stage_tokens) of a keyframe or step that is known
    // per slot
    Live* live;
    int32_t *codes, *anchor;       // (slots, n_cells)
    Change* updates;               // (slots, n_cells), of the step being decoded
    uint8_t *k, *v;                // (slots, layer_heads, places * 32), as HeadCache
    uint16_t* scales;              // (slots, layer_heads, 4, places): k scale, k minimum, v scale, v minimum
    uint16_t* staged;              // (slots, 2, stage_tokens, layer_heads, 2, 64) halves
    int16_t *stage_codes, *held;   // (slots, 2, stage_tokens); (slots, window)
    Latest* latest;                // (slots, max_latest)
    // what is going on: slots of this call; those whose step goes on, and each one's row; rows of the pass; those that
    // want a code; known tokens that earlier passes had
    int *asked, *n_asked, *playing, *n_playing, *row_of, *n_rows, *code_rows, *n_code_rows, *n_before;
    // per pass
    PassRow* rows;                 // (max_rows), as all below
    Token* next;
    int* wanted;                   // is a code to be drawn?
    float *x, *hidden, *heads, *attended, *wide, *turn, *events, *queries, *aims;
    float *described, *inner, *query, *code_scores, *turned, *moves;  // by number in code_rows
    ByteRows bytes;
    float *logits, *tops;          // (max_rows, n_heads + 1, logits_width); (max_rows, n_heads, places / 64)
    int* partial;                  // (max_rows, n_heads, places / 64, 64)
    int8_t* weights;               // (max_rows, n_heads, places)
};

// What the kernel that stays (persistent.cuh) needs beside it.
struct Stay {
    const LayerView* layers;
    unsigned* barrier;
    ByteRows bytes;  // every block's own
};

}  // namespace gamegen::cuda
