"""How fast is the CUDA engine on this GPU? Times of whole steps, frames per second, and the share of the memory's pace.

    gamegen gpu-bench                              pocket, and base-0.5b with random weights; 1 to 256 games
    gamegen gpu-bench --models pocket --slots 1 64 --seconds 5

A step is timed on the host from call to answer, with everything between; p50 and p99 are of steps, whatever their
tokens. "Of memory's pace": bytes that the passes of the steps had to read once, weights and the filled part of every
game's cache, per second, beside what a kernel that only reads reaches on this card. `base-0.5b` has random weights,
whose event head lets a step have about `--tokens` tokens; what it plays is noise, what it costs is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gamegen_env.checkpoint import load_checkpoint, packaged_models
from gamegen_env.config import PRESETS, ModelConfig
from gamegen_env.engine.cuda import CudaEngine, library, ways
from gamegen_env.gpu.report import EMULATED, described, heading, written
from gamegen_env.plan import Counts, count
from gamegen_env.transformer import Transformer

FEWEST = 20  # steps per figure
WARM_UP = 5  # steps before
TEMPERATURE = 0.5


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured with so many games at once."""

    slots: int
    turns: str  # "auto": a graph; "persistent": one kernel for a whole step
    steps: int
    p50_ms: float
    p99_ms: float
    frames_per_second: float
    tokens_per_frame: float
    passes_per_step: float
    gigabytes_per_second: float  # that the passes had to read
    share_of_memory: float  # of what a reading kernel reaches
    device_megabytes: float


def model_of(name: str, tokens: float) -> tuple[ModelConfig, Transformer, np.ndarray | None]:
    """Return a model, and what its codes look like if its updates move: packaged or a folder's, else a random preset.

    Raises: FileNotFoundError if the name is none of these.
    """
    if name in packaged_models() or name not in PRESETS:
        checkpoint = load_checkpoint(name)
        return checkpoint.config, checkpoint.transformer, checkpoint.patches
    return PRESETS[name], random_model(PRESETS[name], tokens), None


def random_model(config: ModelConfig, tokens: float) -> Transformer:
    """Build a transformer with random weights, seed 0, whose steps have about so many tokens."""
    torch.manual_seed(0)
    model = Transformer(config)
    n_cells = config.stream.n_cells
    gap = max(config.stream.view_cells**2 / (tokens - 2), 1.001)  # cells from one update to the next
    falls = math.log(1 - 1 / gap)  # the chance of a cell, from one to the next: gaps are then alike everywhere
    with torch.no_grad():
        head = model.event_head
        head.weight.zero_()
        head.bias.fill_(-100)
        head.bias[:n_cells] = falls * torch.arange(n_cells)
        head.bias[-1] = falls * n_cells + math.log(gap)  # END, as likely as all the cells after the last one
        head.bias.mul_(TEMPERATURE)
    return model.eval().requires_grad_(False)


def read_bytes(counts: Counts, tokens: np.ndarray, filled: float) -> float:
    """Return the bytes that one step must read: weights once per pass, each game's cache once per token of its own.

    Args: tokens: (n,) of the step, per game; filled: share of the window that holds tokens.
    """
    passes = tokens - 1  # END's keys and values ride with the next step
    return float(passes.max() * counts.pass_bytes + passes.sum() * counts.kv_bytes * filled)


def measure(
    config: ModelConfig, model: Transformer, patches: np.ndarray | None, slots: int, turns: str, seconds: float,
    read_pace: float, emulate: bool,
) -> Point:  # fmt: skip
    """Time steps of so many games for so many seconds. Raises: RuntimeError if they do not fit into the memory."""
    engine = CudaEngine(config, model, slots, temperature=TEMPERATURE, turns=turns, emulate=emulate, patches=patches)
    rng, counts = np.random.default_rng(0), count(config)
    for slot in range(slots):
        engine.reset(slot, rng.integers(0, config.tokenizer.codebook_size, config.stream.n_cells), seed=slot)
    every = list(range(slots))
    times: list[float] = []
    tokens: list[np.ndarray] = []
    read = spent = 0.0
    for step in range(10**9):
        actions = [int(a) for a in rng.integers(0, 18, slots)]
        filled = float(np.minimum(engine.position, config.transformer.window).mean()) / config.transformer.window
        start = time.perf_counter()
        batch = engine.step(every, actions)
        took = time.perf_counter() - start
        if step < WARM_UP:
            continue
        times.append(took)
        tokens.append(batch.tokens)
        read += read_bytes(counts, batch.tokens, filled)
        spent += took
        if len(times) >= FEWEST and spent >= seconds:
            break
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return Point(
        slots=slots,
        turns=turns,
        steps=len(times),
        p50_ms=float(p50),
        p99_ms=float(p99),
        frames_per_second=len(times) * slots / spent,
        tokens_per_frame=float(np.mean(tokens)),
        passes_per_step=float(np.mean([t.max() - 1 for t in tokens])),
        gigabytes_per_second=read / spent / 1e9,
        share_of_memory=read / spent / read_pace,
        device_megabytes=engine.bytes_per_slot() * slots / 1e6,
    )


def run(names: Sequence[str], slots: Sequence[int], seconds: float, tokens: float, report: dict[str, Any]) -> None:
    """Measure the memory, then every model at every number of games, into `report`."""
    emulate = report["emulated"]
    module, free = library(emulate), report["device"]["free_bytes"]
    size = 1 << 16 if emulate else min(1 << 30, free // 4)
    pace = {what: module.bandwidth(what == "copy", size, 3 if emulate else 20) for what in ("read", "copy")}
    report["memory_bytes_per_second"] = pace
    print(f"Memory: {pace['read'] / 1e9:,.0f} GB/s read, {pace['copy'] / 1e9:,.0f} GB/s copied\n")
    report["models"] = {}
    for name in names:
        config, model, patches = model_of(name, tokens)
        points: list[dict[str, Any]] = []
        report["models"][name] = points
        print(
            f"{name}, {count(config).parameters / 1e6:.1f}M parameters, 8-bit weights"
            + (f"\n{EMULATED}" if emulate else "")
        )
        print(
            "| games | p50 ms | p99 ms | frames/s | tokens/frame | passes/step | GB/s | of memory's pace |\n"
            + "|---" * 8
            + "|"
        )
        for n, turns in ways(slots):
            games = f"{n}, one kernel" if turns == "persistent" else f"{n}"
            try:
                point = measure(config, model, patches, n, turns, seconds, pace["read"], emulate)
            except RuntimeError as error:
                points.append({"slots": n, "turns": turns, "error": str(error)})
                print(f"| {games} | {error} |" + " |" * 6, flush=True)
                continue
            points.append(dataclasses.asdict(point))
            print(
                f"| {games} | {point.p50_ms:.3g} | {point.p99_ms:.3g} | {point.frames_per_second:,.4g} "
                f"| {point.tokens_per_frame:.1f} | {point.passes_per_step:.1f} | {point.gigabytes_per_second:,.3g} "
                f"| {100 * point.share_of_memory:.0f} % |",
                flush=True,
            )
        print()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gamegen gpu-bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = f"packaged ({', '.join(packaged_models())}), folders, or presets with random weights ({', '.join(PRESETS)})"
    parser.add_argument("--models", nargs="+", default=["pocket", "base-0.5b"], help=known)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="games at once")
    parser.add_argument("--seconds", type=float, default=10, help=f"per figure, at least {FEWEST} steps (default: 10)")
    parser.add_argument("--tokens", type=float, default=20, help="per frame with random weights (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("gamegen-gpu-bench.json"), help="(default: %(default)s)")
    parser.add_argument(
        "--emulate", action="store_true", help="the kernels on the host instead: for tests, no GPU figure"
    )
    args = parser.parse_args(argv)
    if not args.seconds > 0 or not args.tokens > 2 or min(args.slots) < 1:
        got = f"{args.seconds:g}, {args.tokens:g} and {args.slots}"
        raise ValueError(f"expected --seconds above 0, --tokens above 2 and --slots from 1, got {got}")
    try:
        report = described(library(args.emulate), args.emulate)
        report["figures_of"] = "the emulation on a CPU, not a GPU" if args.emulate else report["device"]["name"]
        print(heading(report), "\n")
        run(args.models, args.slots, args.seconds, args.tokens, report)
    except (ImportError, RuntimeError) as error:
        print(f"gamegen gpu-bench: {error}", file=sys.stderr)
        return 1
    written(report, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
