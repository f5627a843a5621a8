"""How fast are tokens of larger models, beside PyTorch and beside a peer, and what is left to gain?

    OMP_NUM_THREADS=1 python -m benchmarks.engine_shapes                       the 39M shape, 1 and 64 sequences
    OMP_NUM_THREADS=1 python -m benchmarks.engine_shapes --shape pocket 0.5B --slots 1 --no-torch
    python -m benchmarks.engine_shapes --peer "COMMAND"

Regime: random weights (speed only), a full window, 4-bit cache, no drafting, no keyframes; one token per sequence and
pass: games are sent on as they finish. Times are the process's own on one thread (a neighbour on the core does not
count), of the clock on more. `native` plays games half of whose tokens are updates (the head of codes runs for
those only, as in play); `torch` is a plain Llama of the same shape in bfloat16, eager, with its cache in bfloat16
and argmax over a vocabulary of codes and events. A peer is a command; it is given --layers --d-model --heads
--kv-heads --d-ff --vocab --context --sequences --threads and answers with a last line of JSON that maps a name to
tokens per second.
Ceilings are measured in the same run: what one thread reads from memory, and 8-bit products that need no memory (by
`build/lab/bench` if that is built). Counted of a token are the products that the engine computes in 8-bit integers, two
operations each, and the bytes they read: blocks, the window's committed keys and values (the few places that are hidden
because the step's own tokens will take them are computed too), the event head, and the code head for as many tokens as
turned out to be updates. Not counted: what pads an output to 64, the step's own tokens in attention, rewards and game
overs (all in float), norms, exponentials, the sampler. Weights are read once per pass. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gamegen_env.config import PRESETS, ModelConfig, TransformerConfig
from gamegen_env.engine.native import NativeEngine
from gamegen_env.transformer import Transformer

SHAPES = {
    "pocket": TransformerConfig(window=704),
    "39M": TransformerConfig(n_layers=8, d_model=512, n_heads=8, n_kv_heads=2, d_ff=2048, window=704),
    "150M": TransformerConfig(n_layers=12, d_model=1024, n_heads=16, n_kv_heads=4, d_ff=3072, window=704),
    "0.5B": dataclasses.replace(PRESETS["base-0.5b"].transformer, window=704),
}
VOCABULARY = 8704
END_AT_FIRST = 24.0  # one first event in so many is END; of later ones more, for fewer cells are left


def native(shape: TransformerConfig, slots: int, precision: str, threads: int) -> NativeEngine:
    """Games of a random model, played until their windows are full."""
    config = ModelConfig(name="random", transformer=shape)
    torch.manual_seed(0)
    transformer = Transformer(config).eval().requires_grad_(False)
    transformer.event_head.weight.mul_(0.1)
    transformer.event_head.bias.zero_()
    transformer.event_head.bias[-1] = float(np.log(config.stream.n_events / END_AT_FIRST))
    engine = NativeEngine(config, transformer, slots, precision=precision, threads=threads)
    engine.draft("never")
    rng = np.random.default_rng(0)
    for slot in range(slots):
        engine.reset(slot, rng.integers(0, config.tokenizer.codebook_size, config.stream.n_cells), seed=slot)
    while engine.position.min() < shape.window:
        play(engine)
    return engine


def play(engine: NativeEngine) -> tuple[int, int]:
    """Let all games step on until some are done, without keyframes; return the tokens and the updates of those."""
    engine.since_keyframe[:] = 0
    free = sorted(set(range(engine.num_slots)) - set(engine.busy()))
    engine.send(free, [0] * len(free))
    step = engine.recv()[1]
    return int(step.tokens.sum()), len(step.cells)


class Llama(nn.Module):
    """The same shape as others write it: norms, grouped queries, SwiGLU, an untied head."""

    def __init__(self, t: TransformerConfig, slots: int) -> None:
        super().__init__()
        d, kv = t.d_model, t.n_kv_heads * t.head_dim
        self.shape = t
        sizes = {"qkv": (t.n_heads * t.head_dim + 2 * kv, d), "out": (d, t.n_heads * t.head_dim),
                 "gate_up": (2 * t.d_ff, d), "down": (d, t.d_ff)}  # fmt: skip
        self.weights = [
            {n: torch.randn(s).bfloat16() / s[1] ** 0.5 for n, s in sizes.items()} for _ in range(t.n_layers)
        ]
        self.embedding = torch.randn(VOCABULARY, d).bfloat16()
        self.head = torch.randn(VOCABULARY, d).bfloat16()
        self.gain = torch.ones(d).bfloat16()
        self.cache = torch.randn(t.n_layers, 2, slots, t.n_kv_heads, t.window, t.head_dim).bfloat16()
        angle = torch.arange(t.window)[:, None] * 1e4 ** (-torch.arange(32) / 32)
        self.turns = angle.cos().bfloat16(), angle.sin().bfloat16()

    def turn(self, x: Tensor, position: int) -> Tensor:
        a, b = x.chunk(2, -1)
        cosine, sine = (turn[position] for turn in self.turns)
        return torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)

    @torch.no_grad()
    def forward(self, tokens: Tensor, position: int) -> Tensor:
        """Tokens (B,) at a ring place to the next tokens (B,)."""
        t = self.shape
        x = self.embedding[tokens]
        for w, cache in zip(self.weights, self.cache, strict=True):
            heads = F.linear(F.rms_norm(x, x.shape[-1:], self.gain), w["qkv"]).unflatten(-1, (-1, 1, t.head_dim))
            q, k, v = heads.split((t.n_heads, t.n_kv_heads, t.n_kv_heads), 1)
            cache[0, :, :, position : position + 1] = self.turn(k, position)
            cache[1, :, :, position : position + 1] = v
            seen = F.scaled_dot_product_attention(self.turn(q, position), cache[0], cache[1], enable_gqa=True)
            x = x + F.linear(seen.flatten(1), w["out"])
            gate, up = F.linear(F.rms_norm(x, x.shape[-1:], self.gain), w["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        return F.linear(F.rms_norm(x, x.shape[-1:], self.gain), self.head).argmax(-1)


def work(shape: TransformerConfig, slots: int, precision: str, updates: float) -> tuple[float, float]:
    """Return bytes and 8-bit operations of one token. updates: the share of tokens that are updates."""
    t, config = shape, ModelConfig(name="random", transformer=shape)
    blocks = t.n_layers * t.d_model * (2 * (t.n_heads + t.n_kv_heads) * t.head_dim + 3 * t.d_ff)
    event_head = t.d_model * config.stream.n_events
    code_head = t.d_model * (4 * t.d_model + 2 * t.d_model + config.tokenizer.codebook_size)
    seen = t.n_layers * t.window
    per_weight = {"int8": 1.0, "int4": 0.5625, "float32": 4.0}[precision]
    at_once = min(slots, 64)
    # A pass reads the code head if one of its tokens is an update.
    heads = (event_head / at_once + code_head * min(updates, 1 / at_once)) * (4.0 if precision == "float32" else 1.0)
    return (
        blocks * per_weight / at_once + heads + seen * t.n_kv_heads * 72,
        2.0 * (blocks + event_head + updates * code_head) + 4.0 * seen * t.n_heads * t.head_dim,
    )


def ceilings(lab: Path) -> tuple[float, float] | None:
    """Return bytes and operations per second that one core can do, or None where the lab is not built."""
    if not lab.exists():
        return None
    told = subprocess.run([lab, "no operation"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"read ([\d.]+) GB/s from 256 MiB.*dp4 ([\d.]+) GOPS", told)
    return (float(found[1]) * 1e9, float(found[2]) * 1e9) if found else None


def ask_peer(command: str, shape: TransformerConfig, slots: int, threads: int) -> dict[str, float]:
    t = shape
    options = {"layers": t.n_layers, "d-model": t.d_model, "heads": t.n_heads, "kv-heads": t.n_kv_heads, "d-ff": t.d_ff,
               "vocab": VOCABULARY, "context": t.window, "sequences": slots, "threads": threads}  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    told = subprocess.run([*shlex.split(command), *arguments], capture_output=True, text=True, check=True)
    return {str(k): float(v) for k, v in json.loads(told.stdout.strip().splitlines()[-1]).items()}


def measure(
    shape: TransformerConfig, slots: int, args: argparse.Namespace, threads: int
) -> tuple[dict[str, float], float]:
    """Time tokens per second of all, in turns: the median of `rounds`. Return the share of updates among tokens too."""
    games = {f"native {p}": native(shape, slots, p, threads) for p in args.precision}
    turns: dict[str, Callable[[], tuple[int, int]]] = {name: partial(play, engine) for name, engine in games.items()}
    if not args.no_torch:
        llama, tokens = Llama(shape, slots), torch.zeros(slots, dtype=torch.int64)

        def decode() -> tuple[int, int]:
            nonlocal tokens
            tokens = llama(tokens, 0)
            return slots, 0

        turns["torch bf16"] = decode
    rates: dict[str, list[float]] = {name: [] for name in turns}
    of_native = np.zeros(2)  # tokens and updates
    clock = time.process_time if threads == 1 else time.perf_counter
    for turn in range(args.rounds + 1):  # the first warms up
        for name, run in turns.items():
            began, done = clock(), 0
            while clock() - began < args.seconds:
                found = run()
                done += found[0]
                of_native += np.array(found) * name.startswith("native")
            if turn:
                rates[name].append(done / (clock() - began))
    rate = {name: float(np.median(found)) for name, found in rates.items()}
    for command in args.peer:
        rate |= ask_peer(command, shape, slots, threads)
    return rate, float(of_native[1] / of_native[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["39M"])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--precision", nargs="+", default=["int8", "int4"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn (default: %(default)s)")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--peer", action="append", default=[], help="command; may be given several times")
    parser.add_argument("--lab", type=Path, default=Path("build/lab/bench"))
    args = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    report: dict[str, object] = {"threads": threads}
    print("| shape | sequences | engine | tokens/s | of reading | of products |\n|---|---|---|---|---|---|")
    for name in args.shape:
        for slots in args.slots:
            before = ceilings(args.lab)
            rate, updates = measure(SHAPES[name], slots, args, threads)
            after = ceilings(args.lab)
            limits = tuple(map(max, before, after)) if before and after else None  # a busy neighbour lowers them
            report[f"{name} {slots}"] = {**rate, "ceilings": limits, "updates": updates}
            for engine, tokens in rate.items():
                shares = ["", ""]
                if limits and engine.startswith("native"):
                    done = work(SHAPES[name], slots, engine.split()[1], updates)
                    shares = [
                        f"{100 * tokens * n / limit / threads:.0f} %" for n, limit in zip(done, limits, strict=True)
                    ]
                print(f"| {name} | {slots} | {engine} | {tokens:.0f} | {shares[0]} | {shares[1]} |", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
