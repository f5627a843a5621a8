"""A peer of `engine_shapes`: llama.cpp on a random Llama of the same shape, through `llama-cpp-python`.

    python -m venv build/peer && CMAKE_ARGS=-DGGML_NATIVE=ON build/peer/bin/pip install llama-cpp-python gguf
    build/peer/bin/python benchmarks/peer_llama.py --sequences 64

Needs nothing of this project. Writes a GGUF file with Q8_0 and one with Q4_0 weights to a temporary folder, fills every
sequence's context and times passes of one token per sequence, argmax in the loop, with fp16 keys and values (flash
attention off and on) and with q4_0 ones (flash attention, which they need). Times are the process's own on one thread,
of the clock on more. The last line is JSON: tokens per second, the median of the passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

CACHES = {"f16": (1, False), "f16-flash": (1, True), "q4_0-flash": (2, True)}  # ggml type, flash attention


def write(path: Path, args: argparse.Namespace, kind: gguf.GGMLQuantizationType) -> None:
    """Write a random model whose matrices are quantised to `kind`, the head to Q8_0."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(args.d_model)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(args.d_ff)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(64)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_vocab_size(args.vocab)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name: str, n_out: int, k: int, to: gguf.GGMLQuantizationType) -> None:
        values = (rng.standard_normal((n_out, k)) / k**0.5).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, to), raw_dtype=to)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(args.d_model, np.float32))

    d, q, kv = args.d_model, args.heads * 64, args.kv_heads * 64
    matrix("token_embd.weight", args.vocab, d, gguf.GGMLQuantizationType.Q8_0)
    matrix("output.weight", args.vocab, d, gguf.GGMLQuantizationType.Q8_0)
    ones("output_norm.weight")
    for i in range(args.layers):
        ones(f"blk.{i}.attn_norm.weight")
        ones(f"blk.{i}.ffn_norm.weight")
        shapes = {"attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q),
                  "ffn_gate": (args.d_ff, d), "ffn_up": (args.d_ff, d), "ffn_down": (d, args.d_ff)}  # fmt: skip
        for name, (n_out, k) in shapes.items():
            matrix(f"blk.{i}.{name}.weight", n_out, k, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fill(batch: llama_cpp.llama_batch, tokens: list[int], positions: list[int], sequences: list[int]) -> None:
    batch.n_tokens = len(tokens)
    for i, (token, position, sequence) in enumerate(zip(tokens, positions, sequences, strict=True)):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, 1
        batch.seq_id[i][0] = sequence


def measure(model: object, args: argparse.Namespace, cache: int, flash: bool) -> float:
    """Return tokens per second at a full context."""
    n = args.sequences
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n * -(-(args.context + 64) // 256) * 256
    params.n_batch = params.n_ubatch = 512
    params.n_seq_max, params.n_threads, params.n_threads_batch = n, args.threads, args.threads
    params.kv_unified = False
    params.type_k = params.type_v = cache
    params.flash_attn_type = 1 if flash else 0
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp made no context")
    batch = llama_cpp.llama_batch_init(512, 0, 1)
    try:
        # Fill a context and copy it: every sequence has memory of its own.
        for first in range(0, args.context, 256):
            at = list(range(first, min(first + 256, args.context)))
            fill(batch, [7 * p % args.vocab for p in at], at, [0] * len(at))
            batch_failed(llama_cpp.llama_decode(context, batch))
        for s in range(1, n):
            llama_cpp.llama_memory_seq_cp(llama_cpp.llama_get_memory(context), 0, s, -1, -1)
        tokens, seconds = [s % args.vocab for s in range(n)], []
        clock = time.process_time if args.threads == 1 else time.perf_counter
        for step in range(args.steps):
            fill(batch, tokens, [args.context + step] * n, list(range(n)))
            began = clock()
            batch_failed(llama_cpp.llama_decode(context, batch))
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (n, args.vocab))
            tokens = logits.argmax(1).tolist()
            seconds.append(clock() - began)
        return n / statistics.median(seconds[4:])
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)


def batch_failed(code: int) -> None:
    if code:
        raise RuntimeError(f"llama_decode: expected 0, got {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("d-model", 512), ("heads", 8), ("kv-heads", 2), ("d-ff", 2048),
                          ("vocab", 8704), ("context", 704), ("sequences", 1), ("threads", 1),
                          ("steps", 40)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--weights", nargs="+", choices=("Q8_0", "Q4_0"), default=["Q8_0", "Q4_0"])
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=list(CACHES))
    args = parser.parse_args()
    llama_cpp.llama_backend_init()
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in (gguf.GGMLQuantizationType[name] for name in args.weights):
            path = Path(folder) / f"{kind.name}.gguf"
            write(path, args, kind)
            model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
            for name in args.caches:
                rates[f"llama.cpp {kind.name}, KV {name}"] = measure(model, args, *CACHES[name])
            llama_cpp.llama_model_free(model)
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
