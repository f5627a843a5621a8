"""Average the weights of models that one run led to, each at the end of its own schedule.

    gamegen average runs/world/model runs/longer/model --out runs/average

Trained on from one another, such models lie in one valley, and the mean of their weights may lie nearer to its floor
than any of them: measure it, a third model made it worse again. Models of separate runs have nothing in common.

Source: model soups, arXiv 2203.05482; averaging along a run, arXiv 1803.05407.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from gamegen_env.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, tokenizer_fingerprint
from gamegen_env.config import ModelConfig
from gamegen_env.training.start import deepened


def average(models: Sequence[str | Path]) -> Checkpoint:
    """Return the first model with the mean of all models' weights, and no fingerprint: saved, it has one.

    Args:   models: at least two, names or folders. Where the first has anchors or sprites, one may lack them: they
            are then the mean of the others'. One may have fewer blocks, as what a deeper one began from (`start.py`).
    Raises: ValueError on fewer, or one of another configuration or tokenizer than the first.
    """
    if len(models) < 2:
        raise ValueError(f"models: expected at least two, got {len(models)}")
    first, *others = (load_checkpoint(model) for model in models)
    for name, other in zip(models[1:], others, strict=True):
        if _completed(other.config, first.config) != first.config:
            raise ValueError(f"{name}: expected the configuration of {models[0]}, {first.config}, got {other.config}")
        if tokenizer_fingerprint(other.tokenizer) != tokenizer_fingerprint(first.tokenizer):
            raise ValueError(f"{name}: expected the tokenizer of {models[0]}, got another")
    states = [_weights(checkpoint, first.config) for checkpoint in (first, *others)]
    mean = {name: torch.stack([state[name] for state in states]).nanmean(0) for name in states[0]}
    transformer = copy.deepcopy(first.transformer)  # what was loaded serves others too
    transformer.load_state_dict(mean)
    return dataclasses.replace(first, transformer=transformer, fingerprint="")


def _completed(config: ModelConfig, first: ModelConfig) -> ModelConfig:
    """Return what a configuration is with the anchors, sprites and blocks of the first, where it lacks them."""
    t, s = config.transformer, config.stream
    anchor = t.anchor or (first.transformer.anchor and bool(config.stream.max_motion))
    n_layers = max(t.n_layers, first.transformer.n_layers)
    stream = dataclasses.replace(s, sprites=s.sprites or (first.stream.sprites and anchor))
    return dataclasses.replace(
        config, stream=stream, transformer=dataclasses.replace(t, anchor=anchor, n_layers=n_layers)
    )


def _weights(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights of a model as one of `config` has them, in float32; NaN where it has none."""
    state = {name: weight.float() for name, weight in checkpoint.transformer.state_dict().items()}
    state = deepened(state, config.transformer.n_layers)
    if checkpoint.config.transformer.anchor != config.transformer.anchor:
        # It lacks two rows of the table, and the motion that is none.
        state["small.weight"] = F.pad(state["small.weight"], (0, 0, 0, 2), value=torch.nan)
        for name in ("motion_head.weight", "motion_head.bias"):
            state[name] = state[name].clone()
            state[name][config.stream.still] = torch.nan
    if checkpoint.config.stream.sprites != config.stream.sprites:
        # It lacks two more rows of the table, and half of the motions.
        state["small.weight"] = F.pad(state["small.weight"], (0, 0, 0, 2), value=torch.nan)
        for name in ("motion_head.weight", "motion_head.bias"):
            state[name] = torch.cat([state[name], torch.full_like(state[name], torch.nan)])
    return state


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="names or folders, two or more, trained on from one another")
    parser.add_argument("--out", required=True, help="folder of the new model")
    args = parser.parse_args(argv)
    checkpoint = average(args.models)
    save_checkpoint(args.out, checkpoint.config, checkpoint.tokenizer, checkpoint.transformer)


if __name__ == "__main__":
    main()
