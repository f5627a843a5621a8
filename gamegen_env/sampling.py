"""Sampling with counter-based noise: a token is a pure function of logits, seed and place.

Gumbel-max: the sample is argmax(logits / temperature + g). The noise g comes from no
generator that could be advanced by a neighbour; it is a hash of (seed, step, position
in the step, purpose, class). So a slot's game does not depend on what runs beside it,
and any decoder that sees the same logits, in whatever order, draws the same tokens.

The hash gives 16 bits, a table turns them into Gumbel noise: no logarithm in the loop
and the same bits in every implementation. Its largest value is 11.8, so a class more
than about 12 + log(classes) nats below the best is never drawn.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

EVENT, CODE, REWARD, DONE = range(4)  # purposes: independent noise for each head
_MASK = 0xFFFFFFFF


@cache
def gumbel_table() -> Tensor:
    """Return Gumbel noise by 16-bit uniform: (65536,) float32."""
    uniform = (np.arange(65536, dtype=np.float64) + 0.5) / 65536
    return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit integers held in int64 (lowbias32, a public-domain integer hash)."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def noise_keys(seeds: Tensor, steps: Tensor, positions: Tensor) -> Tensor:
    """Return one 32-bit key per row and purpose, as int64.

    Args:    seeds: (R,) int64 in [0, 2**63); steps: (R,) int64 game steps since reset;
             positions: (R,) int64 tokens since the step began.
    Returns: (4, R), by EVENT, CODE, REWARD, DONE.
    """
    key = _mix(seeds & _MASK)
    for part in (seeds >> 32, steps & _MASK, steps >> 32, positions, torch.arange(4, device=seeds.device)[:, None]):
        key = _mix((key + 0x9E3779B9 + part) & _MASK)
    return key


def gumbel(keys: Tensor, classes: Tensor) -> Tensor:
    """Return the noise of classes under keys from `noise_keys`, both int64 of shapes that broadcast: float32."""
    counter = (classes * 0x9E3779B9) & _MASK
    bits = _mix((keys + counter) & _MASK) >> 16
    return gumbel_table().to(keys.device)[bits]


def sample(logits: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Draw one class per row.

    Args:    logits: (R, classes) float32, -inf where forbidden (at least one finite);
             keys: (R,) from `noise_keys`; temperature: 0 takes the best class.
    Returns: (R,) int64.
    """
    if temperature == 0:
        return logits.argmax(1)
    scaled = logits / temperature
    # Of thousands of classes a few can win: those not further below the best than the noise spans.
    table = gumbel_table()
    span = float(table[-1] - table[0]) + 1
    row, candidate = (scaled > scaled.amax(1, keepdim=True) - span).nonzero(as_tuple=True)
    score = torch.full_like(scaled, -torch.inf)
    score[row, candidate] = scaled[row, candidate] + gumbel(keys[row], candidate)
    return score.argmax(1)
