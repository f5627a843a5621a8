"""How many tokens per second does world-model training reach, and what share of the CPU's matmul ceiling is it?

    python -m benchmarks.training_throughput

Regime: the pocket model, random token rows, forward, backward, no optimiser; paired in one run: fp32 eager
with all distributions formed (the first version), bf16, blocks compiled, of the codes' distribution only the
target (what `gamegen train-world` runs), and that with both modules on. The ceiling is a
4096 x 1024 x 1024 bf16 matrix product, timed here. Floating-point operations are counted from the
shapes: 2 per weight and token forward, twice that backward, plus causal attention.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from gamegen_env.config import UPD, ModelConfig
from gamegen_env.training.batches import Batch
from gamegen_env.training.kernels import DEFINITIONS, Kernels, compiled
from gamegen_env.training.objective import losses, measure, predict, total
from gamegen_env.transformer import Transformer, matrices


def batch_of(config: ModelConfig, size: int, sequence: int) -> Batch:
    """Rows of a plausible mix: every token an event, a third of them updates to be coded, one in ten an END."""
    rng = np.random.default_rng(0)
    rows = np.zeros((size, sequence, 6), np.int32)
    rows[..., 0] = UPD
    rows[..., 1] = rng.integers(0, config.stream.n_cells, rows.shape[:2])
    rows[..., 2] = rng.integers(0, config.tokenizer.codebook_size, rows.shape[:2])
    rows[..., 5] = np.arange(sequence) // 10
    n = size * sequence
    codes, ends = n // 3, n // 10
    present, code = rng.integers(0, 4000, codes), rng.integers(4000, 8192, codes)
    return Batch(
        rows=rows,
        event_at=np.arange(n),
        event=rng.integers(0, config.stream.n_events, n),
        code_at=np.arange(codes),
        cell=rng.integers(0, config.stream.n_cells, codes),
        origin=np.zeros((codes, 2), np.int64),
        present=present,
        anchor=present,
        code=code,
        motion=np.full(codes, -1),
        choice=code,
        end_at=np.arange(ends),
        reward=rng.integers(0, 3, ends),
        done=rng.integers(0, 2, ends),
    )


def operations_per_token(model: Transformer, sequence: int) -> float:
    """Floating-point operations, forward and backward, per token of `batch_of`."""
    t, s = model.config.transformer, model.config.stream
    blocks = sum(p.numel() for p in matrices(model))
    heads = t.d_model * (s.n_events + (6 * t.d_model + model.config.tokenizer.codebook_size) / 3)
    attention = 2 * t.n_layers * t.n_heads * t.head_dim * sequence / 2
    return 3 * 2 * (blocks + heads + attention)


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = ModelConfig()  # the pocket preset without its modules
    batch = batch_of(config, args.batch, args.sequence)
    a, b = torch.randn(4096, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    ceiling = 2 * 4096 * 1024 * 1024 / seconds(lambda: a @ b, 20)
    report: dict[str, object] = {"threads": torch.get_num_threads(), "ceiling_gflops": ceiling / 1e9}
    print(f"bf16 matmul ceiling {ceiling / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads\n")
    print("| variant | tokens/s | ratio | share of ceiling |\n|---|---|---|---|")
    first = None
    modules = dataclasses.replace(config.transformer, pointer=True, ballistics=True)
    for name, bf16, fast, targets_only, transformer in (
        ("fp32 eager", False, False, False, config.transformer),
        ("bf16 eager", True, False, False, config.transformer),
        ("bf16 compiled", True, True, False, config.transformer),
        ("targets only", True, True, True, config.transformer),
        ("with both modules", True, True, True, modules),
    ):
        torch.manual_seed(0)
        model = Transformer(dataclasses.replace(config, transformer=transformer))
        kernels = compiled(model) if fast else DEFINITIONS

        def run(
            model: Transformer = model, kernels: Kernels = kernels, bf16: bool = bf16, targets_only: bool = targets_only
        ) -> None:
            with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
                parts = losses(model, batch, None, kernels) if targets_only else measure(predict(model, batch), batch)
                loss = total(parts)
            loss.backward()

        rate = args.batch * args.sequence / seconds(run, args.repeats)
        first = first or rate
        share = rate * operations_per_token(model, args.sequence) / ceiling
        print(f"| {name} | {rate:.0f} | {rate / first:.2f} | {share:.1%} |")
        report[name] = {"tokens_per_s": rate, "ratio": rate / first, "share": share}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
