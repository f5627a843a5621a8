"""What a model needs on a GPU, and what speed its bytes and operations allow there, counted from its own shapes.

    gamegen plan                                     every preset on every GPU listed
    gamegen plan base-0.5b --tokens 20 --weight-bits 4

Nothing here is measured. A step of T tokens takes T - 1 passes (its END rides with the next action); a pass
reads the weights once for all slots and each slot's keys and values, and multiplies in 8 bits:

    seconds of a pass = max(bytes / (bandwidth * SHARE_OF_BANDWIDTH), operations / (int8 peak * SHARE_OF_PEAK))
                        + kernels * LAUNCH, or phases * BARRIER

Two speeds, of the two ways in which the engine decodes a step, whose host waits once: a CUDA graph of kernels, or for
one game one kernel that stays, its blocks waiting for each other after every phase (turns="persistent"). Drafted
updates, which save passes, and the canvas, which is a thousandth of the work, are left out. docs/gpu.md holds each
assumption against what is known of it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

import torch

from gamegen_env.config import PRESETS, ModelConfig
from gamegen_env.transformer import Transformer, matrices

KV_BYTES = 36  # of 64 values: 64 nibbles, scale and minimum; see kernels/README.md
SHARE_OF_BANDWIDTH = 0.7  # calm and others reach 0.75 to 0.85 of it with weights this large
SHARE_OF_PEAK = 0.5
LAUNCH = 1.3e-6  # seconds, of one kernel in a CUDA graph (Hazy Research, "No Bubbles", on an H100)
# Seconds, of a barrier of all blocks: 0.73 us on an RTX 3090, where a graph's kernel takes 0.83 (MegaQwen,
# experiments/RESULTS.md); as much less than LAUNCH here.
BARRIER = LAUNCH * 0.73 / 0.83
RESERVED = 0.6e9  # bytes that a CUDA context, code and workspace take
SLOTS = (1, 16, 64, 256)


@dataclass(frozen=True)
class GPU:
    """A card's data sheet."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes/s
    int8: float  # dense operations/s


GPUS = (
    GPU("RTX 4090", 24e9, 1008e9, 660e12),
    GPU("RTX 5090", 32e9, 1792e9, 838e12),
    GPU("H100 SXM", 80e9, 3350e9, 1979e12),
)


@dataclass(frozen=True)
class Parts:
    """How many parts a pass has that follow each other: kernels, or phases of one that stays."""

    per_layer: int
    per_pass: int
    pointer: int = 0
    ballistics: int = 0
    motion: int = 0

    def of(self, config: ModelConfig) -> int:
        t, moves = config.transformer, config.stream.max_motion > 0
        modules = self.pointer * t.pointer + self.ballistics * t.ballistics + self.motion * moves
        return self.per_layer * t.n_layers + self.per_pass + modules


# As kernels/cuda/engine.cu starts them, and persistent.cuh has them; tests/test_plan.py counts both.
KERNELS = Parts(per_layer=10, per_pass=14, pointer=1, ballistics=4, motion=1)
PHASES = Parts(per_layer=5, per_pass=6)


@dataclass(frozen=True)
class Counts:
    """What a model takes. Bytes and operations (a multiply-add is two)."""

    parameters: int
    weight_bytes: float  # held
    pass_bytes: float  # of weights, read by every pass
    kv_bytes: int  # held per slot, and read by every token
    staged_bytes: int  # held per slot: the step in work and the one before, in 16 bits
    scratch_bytes: int  # held per slot: logits and sums of attention, activations, for two rows
    row_operations: float  # per token and pass, in weights
    attention_operations: float  # per token, at a full window
    kernels: int  # per pass
    phases: int


def count(config: ModelConfig, weight_bits: int = 8) -> Counts:
    """Count from the model's shapes; nothing is allocated.

    Args: weight_bits: 4, 8 or 16, of the matrices; 4 come with a 16-bit scale for each 32; the CUDA engine has 8.
    """
    if weight_bits not in (4, 8, 16):
        raise ValueError(f"weight_bits: expected 4, 8 or 16, got {weight_bits!r}")
    t, s = config.transformer, config.stream
    with torch.device("meta"):
        model = Transformer(config)
    heads = [model.event_head.weight, model.code_in.weight, model.code_out.weight, model.end_head.weight]
    extra = [m for m in (model.pointer, model.motion_head, model.ballistics) if m is not None]
    heads += [p for module in extra for p in module.parameters() if p.ndim == 2]
    multiplied = sum(p.numel() for p in (*matrices(model), *heads))
    vocabulary, table = model.code.weight.numel(), model.small.weight.numel()
    per_weight = (weight_bits + (0.5 if weight_bits == 4 else 0)) / 8
    kv_groups = 2 * t.n_layers * t.n_kv_heads
    looks = t.n_layers + (t.n_kv_heads / t.n_heads if t.pointer else 0)
    spread = (3 * t.n_heads + 2 * t.n_kv_heads) * t.head_dim  # queries, keys and values, what was attended, aims
    patches = config.tokenizer.codebook_size * config.tokenizer.cell_size**2 * 3 if s.max_motion else 0
    activations = vocabulary // t.d_model + 2 * t.d_ff + 10 * t.d_model + spread
    return Counts(
        parameters=sum(p.numel() for p in model.parameters()),
        # The vocabulary is looked up, in 32 bits, and multiplied with. Where updates move: what codes look like.
        weight_bytes=per_weight * (multiplied + vocabulary) + 4 * (vocabulary + table) + patches,
        pass_bytes=per_weight * (multiplied + vocabulary),
        kv_bytes=kv_groups * t.window * KV_BYTES,
        staged_bytes=2 * kv_groups * s.max_step_tokens * t.head_dim * 2,
        # Logits and sums of attention, and its weights as bytes.
        scratch_bytes=2 * ((4 * (2 * t.n_heads + 1) + t.n_heads) * t.window + 4 * activations),
        row_operations=2.0 * (multiplied + vocabulary),
        attention_operations=4.0 * looks * t.n_heads * t.head_dim * t.window,
        kernels=KERNELS.of(config),
        phases=PHASES.of(config),
    )


def frames_per_second(counts: Counts, gpu: GPU, slots: int, tokens: float, overhead: float) -> float:
    """Return the frames/s of all slots together that the card's data sheet allows.

    Args: overhead: seconds that a pass waits for kernels to start or blocks to meet.
    """
    read = counts.pass_bytes + slots * counts.kv_bytes
    operations = slots * (counts.row_operations + counts.attention_operations)
    work = max(read / (gpu.bandwidth * SHARE_OF_BANDWIDTH), operations / (gpu.int8 * SHARE_OF_PEAK))
    return slots / ((tokens - 1) * (work + overhead))


def slots_within(counts: Counts, memory: float) -> int:
    """Return how many games fit into so many bytes."""
    each = counts.kv_bytes + counts.staged_bytes + counts.scratch_bytes
    return max(0, int((memory - RESERVED - counts.weight_bytes) // each))


def described(name: str, counts: Counts, weight_bits: int) -> list[str]:
    return [
        f"## {name}: {counts.parameters / 1e6:.1f}M parameters, {weight_bits}-bit weights\n",
        f"Weights: {counts.weight_bytes / 1e6:.0f} MB held, {counts.pass_bytes / 1e6:.0f} MB read per pass",
        f"Per game: {counts.kv_bytes / 1e6:.2f} MB of keys and values, {counts.staged_bytes / 1e6:.2f} MB staged, "
        f"{counts.scratch_bytes / 1e6:.2f} MB of scratch",
        f"Per token: {counts.row_operations / 1e9:.2f} G operations in weights, "
        f"{counts.attention_operations / 1e9:.2f} G in attention; per pass {counts.kernels} kernels of a "
        f"graph, or {counts.phases} phases of one kernel\n",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(PRESETS)} (default: all)")
    parser.add_argument("--tokens", type=float, default=20, help="per frame (default: %(default)s)")
    parser.add_argument("--weight-bits", type=int, default=8, choices=(4, 8, 16), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.presets) - set(PRESETS))
    if unknown:
        raise ValueError(f"presets: expected some of {list(PRESETS)}, got {unknown}")
    if not args.tokens >= 2:
        raise ValueError(f"--tokens: expected at least 2, ACT and END, got {args.tokens:g}")
    report = {}
    for name in args.presets or PRESETS:
        counts = count(PRESETS[name], args.weight_bits)
        report[name] = asdict(counts)
        for line in described(name, counts, args.weight_bits):
            print(line)
        fits = ", ".join(f"{memory} GB: {slots_within(counts, memory * 1e9)}" for memory in (8, 16, 24, 32, 80))
        print(f"Games that fit: {fits}\n")
        print(f"| predicted frames/s, {args.tokens:g} tokens | " + " | ".join(f"{n} games" for n in SLOTS) + " |")
        print("|---" * (len(SLOTS) + 1) + "|")
        for gpu in GPUS:
            most = slots_within(counts, gpu.memory)
            ways = (("graph", counts.kernels * LAUNCH, SLOTS), ("one kernel", counts.phases * BARRIER, (1,)))
            for what, overhead, possible in ways:
                cells = [
                    f"{frames_per_second(counts, gpu, slots, args.tokens, overhead):,.0f}"
                    if slots <= most
                    else "no room"
                    for slots in possible
                ]
                cells += [""] * (len(SLOTS) - len(possible))
                print(f"| {gpu.name}, {what} | " + " | ".join(cells) + " |")
        print()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
