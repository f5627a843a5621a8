"""The parts of the losses that take long, as they are defined and faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gamegen_env import ballistics
from gamegen_env.training.gaussians import fast_gaussians
from gamegen_env.transformer import Transformer

FORBIDDEN = -1e4  # logit of a code that cannot be chosen


def vocabulary_likelihood(query: Tensor, embedding: Tensor, present: Tensor, code: Tensor) -> Tensor:
    """Return the logarithm of the probability (U,) that the vocabulary gives to codes (U,).

    Args: query: (U, d_model) from `Transformer.code_query`; embedding: (codebook_size, d_model);
          present: (U,) int64, what is there and cannot be chosen.
    """
    codes = torch.arange(len(embedding), dtype=torch.int32, device=query.device)
    logits = F.linear(query, embedding).float() + torch.where(codes == present.int()[:, None], FORBIDDEN, 0.0)
    # By sums, not by an index and a function that know less: compiled, the gradient is then formed in one go.
    likely = (logits * torch.where(codes == code.int()[:, None], 1.0, 0.0)).sum(1)
    top = logits.detach().amax(1)
    return likely - top - (logits - top[:, None]).exp().sum(1).log()


@dataclass(frozen=True)
class Kernels:
    """Functions with the arguments and results of those that they default to."""

    likelihood: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = vocabulary_likelihood
    gaussians: ballistics.Gaussians = ballistics.gaussians


DEFINITIONS = Kernels()


def compiled(model: Transformer) -> Kernels:
    """Compile the blocks of a model, in place, and return the kernels to train it with on the CPU."""
    for block in model.blocks:
        block.compile()
    # dynamic: as many updates as a batch happens to have
    return Kernels(torch.compile(vocabulary_likelihood, dynamic=True), fast_gaussians)
