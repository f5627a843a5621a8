"""The 4-bit KV format in PyTorch. `kernels/README.md` draws the bytes.

A group is the 64 values of one token and one head. It is rotated by an orthonormal
Hadamard matrix, which spreads outliers, and stored as 64 unsigned nibbles, one fp16
scale and one fp16 minimum: 36 bytes, 4.5 bits per value. Byte i holds value i in its
low and value i + 32 in its high nibble.

The rotation cancels in q.k when the query is rotated too; values are rotated back
after attention. So an engine keeps both in rotated space and this module never
rotates on its own, except in `FakeQuantise`, which stands alone.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from gamegen_env.transformer import KVTransform

GROUP = 64  # values
BYTES_PER_GROUP = GROUP // 2 + 4
BITS_PER_VALUE = BYTES_PER_GROUP * 8 / GROUP
LEVELS = 15


@cache
def hadamard() -> Tensor:
    """Return the orthonormal, symmetric Hadamard matrix (64, 64) float32 (Sylvester's order)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < GROUP:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / GROUP**0.5


def quantise(rotated: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise groups.

    Args:    rotated: (..., 64) float32, finite and below 65504 in magnitude (fp16 range).
    Returns: nibbles (..., 32) uint8, and scale and minimum (..., 2) float16.
    """
    low, high = rotated.aminmax(dim=-1)
    minimum = low.half()
    scale = ((high - minimum.float()) / LEVELS).half()
    # A constant group has scale 0: every nibble is 0 and the minimum is the value.
    step = scale.float().clamp(min=torch.finfo(torch.float16).smallest_normal)
    q = ((rotated - minimum.float()[..., None]) / step[..., None]).round_().clamp_(0, LEVELS).to(torch.uint8)
    return q[..., : GROUP // 2] | (q[..., GROUP // 2 :] << 4), torch.stack([scale, minimum], dim=-1)


def dequantise(nibbles: Tensor, scale_minimum: Tensor) -> Tensor:
    """Inverse of `quantise`: (..., 32) uint8 and (..., 2) float16 -> (..., 64) float32."""
    q = torch.cat([nibbles & 15, nibbles >> 4], dim=-1).float()
    scale, minimum = scale_minimum.float().unsqueeze(-2).unbind(-1)
    return q * scale + minimum


class FakeQuantise(KVTransform):
    """Round trip through the format, with a straight-through gradient, for training."""

    def __call__(self, x: Tensor) -> Tensor:
        matrix = hadamard().to(x.device)
        # In full precision also under autocast, as the engines do it.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            stored = dequantise(*quantise(x.float() @ matrix)) @ matrix
        return x + (stored.to(x.dtype) - x).detach()
