"""How does the held-out loss fall with parameters and with tokens, and what would a larger model reach?

    OMP_NUM_THREADS=1 python -m benchmarks.scaling --data data --games gameworld-Gold,procgen-maze

Regime: every size of model from scratch for every budget of tokens, each with the schedule of `gamegen train-world`
to its own end, the same batches in the same order, bf16, both modules on, `--motion` as given. Loss: event + code,
nats, mean of the held-out batches. Fit: loss = floor + a N^-alpha + b D^-beta (arXiv 2203.15556), N without the
code table's rows, which are looked up and not multiplied. Extrapolations say what the fit says, no more.
Every finished run is kept in `--out` and not done again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import trange

from gamegen_env.checkpoint import load_checkpoint, load_tokenizer
from gamegen_env.closed_loop import RULES_VERSION
from gamegen_env.config import PRESETS, ModelConfig
from gamegen_env.tokenizer import Tokenizer
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from gamegen_env.training.kernels import compiled
from gamegen_env.training.objective import losses, total
from gamegen_env.training.start import start_from
from gamegen_env.training.train_world import Optimizers, schedule, validate
from gamegen_env.transformer import Transformer, count_parameters

SIZES = {  # layers, width, heads, feed-forward
    "small": (3, 128, 2, 384),
    "medium": (4, 192, 3, 576),
    "pocket": (6, 256, 4, 768),
}
BATCH = 2


def sized(config: ModelConfig, size: str) -> ModelConfig:
    layers, width, heads, inner = SIZES[size]
    shape = {"n_layers": layers, "d_model": width, "n_heads": heads, "d_ff": inner}
    return dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, **shape))


def parameters(config: ModelConfig) -> int:
    """Count parameters, the code table apart."""
    with torch.device("meta"):
        whole = count_parameters(Transformer(config))
    return whole - config.tokenizer.codebook_size * config.transformer.d_model


def train(
    config: ModelConfig, tokenizer: Tokenizer, data: Sampler, steps: int, rate: float, seed: int,
    source: str | None = None,
) -> Transformer:  # fmt: skip
    """Train one model, from scratch or from the weights of another one."""
    torch.manual_seed(seed)
    model = Transformer(config)
    model.set_code_embedding(tokenizer.codebook)
    if source is not None:
        start_from(model, load_checkpoint(source).transformer, source)
    optimizer = Optimizers(model, rate)
    kernels = compiled(model)
    for step in trange(steps, desc=f"{config.transformer.d_model} wide", unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step / steps, step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = total(losses(model, data(step), None, kernels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def kept(path: Path) -> list[dict]:
    """Return the runs that a file holds, one to a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, run: dict) -> None:
    """Add a finished run to a file."""
    with path.open("a") as file:
        file.write(json.dumps(run) + "\n")


def fit(sizes: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> dict[str, float]:
    """Fit the law to runs (n,) each: exponents from a grid, the rest by least squares, none of it below zero.

    Raises: ValueError where the losses follow no such law.
    """
    best: dict[str, float] = {"error": np.inf}
    for alpha, beta in itertools.product(np.arange(0.05, 1.01, 0.05), repeat=2):
        columns = np.stack([np.ones(len(loss)), sizes**-alpha, tokens**-beta], axis=1)
        terms, *_ = np.linalg.lstsq(columns, loss, rcond=None)
        error = float(np.sqrt(np.square(columns @ terms - loss).mean()))
        if (terms >= 0).all() and error < best["error"]:
            best = {"floor": terms[0], "a": terms[1], "alpha": alpha, "b": terms[2], "beta": beta, "error": error}
    if len(best) == 1:
        raise ValueError(f"losses: expected some that fall with parameters and tokens, got {loss.tolist()}")
    return {name: float(value) for name, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", default="pocket")
    parser.add_argument("--games", required=True, help="comma-separated folder names")
    parser.add_argument("--motion", type=int, default=0)
    parser.add_argument("--budgets", default="500000,1000000,2000000", help="tokens, comma-separated")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--out", default="runs/scaling.jsonl")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    preset = PRESETS["pocket"]
    config = dataclasses.replace(
        preset,
        tokenizer=tokenizer.config,
        stream=dataclasses.replace(preset.stream, max_motion=args.motion),
        transformer=dataclasses.replace(preset.transformer, pointer=True, ballistics=True, anchor=False),
    )
    games, window = args.games.split(","), config.transformer.window
    data = Sampler(load_streams(args.data, "train", config, tokenizer, 0.03, games), config, window, BATCH, 0)
    heldout = Sampler(load_streams(args.data, "heldout", config, tokenizer, 0.0, games), config, window, 4, 1)
    path = Path(args.out)
    runs = kept(path)
    regime = {"rules": RULES_VERSION, "games": args.games, "motion": args.motion, "rate": args.learning_rate}
    for budget, size in itertools.product((int(b) for b in args.budgets.split(",")), SIZES):
        what = regime | {"size": size, "budget": budget}
        if any(what.items() <= run.items() for run in runs):
            continue
        steps = budget // (BATCH * window)
        shape = sized(config, size)
        figures = validate(train(shape, tokenizer, data, steps, args.learning_rate, 0), heldout, None)
        loss = figures["event"] + figures["code"]
        runs.append(what | {"parameters": parameters(shape), "tokens": steps * BATCH * window, "loss": round(loss, 4)})
        keep(path, runs[-1])
    same = [run for run in runs if regime.items() <= run.items()]
    n, d, loss = (np.array([run[name] for run in same], float) for name in ("parameters", "tokens", "loss"))
    print("| parameters | tokens | held-out loss |\n|---|---|---|")
    for run in same:
        print(f"| {run['parameters'] / 1e6:.2f}M | {run['tokens'] / 1e6:.2f}M | {run['loss']:.3f} |")
    law = fit(n, d, loss)
    for name, tokens in itertools.product(PRESETS, (1e7, 1e9, 1e11)):
        modules = dataclasses.replace(PRESETS[name].transformer, pointer=True, ballistics=True)
        size = parameters(dataclasses.replace(PRESETS[name], transformer=modules))
        law[f"{name} after {tokens:.0e} tokens"] = round(
            law["floor"] + law["a"] * size ** -law["alpha"] + law["b"] * tokens ** -law["beta"], 3
        )
    print(json.dumps(law))


if __name__ == "__main__":
    main()
