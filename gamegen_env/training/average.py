"""Average the weights of models that one run led to, each at the end of its own schedule.

    gamegen average runs/world/model runs/longer/model --out runs/average

Trained on from one another, such models lie in one valley, and the mean of their weights may lie nearer to its floor
than any of them: measure it, a third model made it worse again. Models of separate runs have nothing in common.

Source: model soups, arXiv 2203.05482; averaging along a run, arXiv 1803.05407.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from gamegen_env.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, tokenizer_fingerprint


def average(models: Sequence[str | Path]) -> Checkpoint:
    """Return the first model with the mean of all models' weights.

    Args:   models: at least two, names or folders.
    Raises: ValueError on fewer, or one of another configuration or tokenizer than the first.
    """
    if len(models) < 2:
        raise ValueError(f"models: expected at least two, got {len(models)}")
    first, *others = (load_checkpoint(model) for model in models)
    for name, other in zip(models[1:], others, strict=True):
        if other.config != first.config:
            raise ValueError(f"{name}: expected the configuration of {models[0]}, {first.config}, got {other.config}")
        if tokenizer_fingerprint(other.tokenizer) != tokenizer_fingerprint(first.tokenizer):
            raise ValueError(f"{name}: expected the tokenizer of {models[0]}, got another")
    states = [checkpoint.transformer.state_dict() for checkpoint in (first, *others)]
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    first.transformer.load_state_dict(mean)
    return first


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
