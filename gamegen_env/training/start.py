"""Where a run begins: with the weights of another model, which may lack modules, or blocks.

A deeper model begins as the one that it comes from. Each new block is a copy of the one that it stands beside, with
nothing to say yet: what it would add to the stream is multiplied by zeros. The last block stays the last, for pointer
memory and ballistic attention compare with its keys.

Source: copies that begin as the identity, LLaMA Pro, arXiv 2401.02415.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gamegen_env.transformer import Transformer

SILENT = ("out.weight", "down.weight")  # what a block adds to the stream ends in one of these


def start_from(model: Transformer, source: Transformer, name: str) -> None:
    """Give a model the weights of another one; either may lack modules, motions, anchors and sprites.

    Args:   source: with as many blocks, or fewer; name: of it, for errors.
    Raises: ValueError if they differ in anything else.
    """
    weights, own = deepened(source.state_dict(), model.config.transformer.n_layers), model.state_dict()
    small, mine = weights["small.weight"], own["small.weight"]
    # Motions, anchors, then sprites are the last rows; new ones begin small, so that the model begins as the other one.
    if small.shape[1] == mine.shape[1]:
        known = source.config.stream.sprites and model.config.stream.things and not source.config.stream.things
        new = small[-1:] if known else mine[len(small) :] * 0.1  # a thing is told as what stands out
        weights["small.weight"] = torch.cat([small, new])[: len(mine)]
    # What stands out moves as all did, and things move as what stands out.
    n = model.config.stream.n_vectors
    for key in ("motion_head.weight", "motion_head.bias"):
        while key in weights and key in own and len(weights[key]) < len(own[key]):
            weights[key] = torch.cat([weights[key], weights[key][-n:]])
    modules = ("pointer.", "ballistics.", "motion_head.")
    differ = sorted(
        k for k in weights.keys() | own.keys()
        if (weights[k].shape != own[k].shape if k in weights and k in own else not k.startswith(modules))
    )  # fmt: skip
    if differ:
        raise ValueError(f"--from {name}: expected the preset's tensors, got others: {differ[:5]}")
    model.load_state_dict({k: v for k, v in weights.items() if k in own}, strict=False)


def deepened(weights: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """Return the weights of a model of `n_layers` blocks that computes the same; as they are where it has no more."""
    before = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    if n_layers <= before:
        return dict(weights)
    deeper = {key: tensor for key, tensor in weights.items() if not key.startswith("blocks.")}
    copied = [i * before // n_layers for i in range(n_layers)]  # spread evenly
    for i, block in enumerate(copied):
        # The first of a block and its copies is itself; of the last block the last.
        silent = i < n_layers - 1 if block == before - 1 else block in copied[:i]
        prefix = f"blocks.{block}."
        for key, tensor in weights.items():
            if key.startswith(prefix):
                part = key.removeprefix(prefix)
                deeper[f"blocks.{i}.{part}"] = torch.zeros_like(tensor) if silent and part in SILENT else tensor.clone()
    return deeper
