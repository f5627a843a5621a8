"""Where the `torch` engine keeps keys and values: the 4-bit ring of every slot, and the tile's windows."""

from __future__ import annotations

import torch
from torch import Tensor

from gamegen_env.config import ModelConfig
from gamegen_env.kv4 import quantise

Seen = tuple[Tensor, ...]  # values (2, B, nkv, W, hd), scale (2, B, nkv, W), minimum (2, B, nkv, W)


class Ring:
    """Committed keys and values of all slots: 4.5 bits per value, or 16.

    Arrays are (num_slots, 2, n_layers, nkv, window, ...): keys, then values.
    """

    def __init__(self, config: ModelConfig, num_slots: int, kv_bits: int) -> None:
        t = config.transformer
        self.kv_bits = kv_bits
        shape = (num_slots, 2, t.n_layers, t.n_kv_heads, t.window)
        if kv_bits == 4:
            self.arrays = {
                "kv_nibbles": torch.zeros(*shape, t.head_dim // 2, dtype=torch.uint8),
                "kv_scale_minimum": torch.zeros(*shape, 2, dtype=torch.float16),
            }
        else:
            self.arrays = {"kv_half": torch.zeros(*shape, t.head_dim, dtype=torch.float16)}

    def write(self, slot: int, at: Tensor, values: Tensor) -> None:
        """Commit values (2, n_layers, nkv, n, hd) float32 at ring places (n,)."""
        stored = quantise(values) if self.kv_bits == 4 else (values.half(),)
        for array, new in zip(self.arrays.values(), stored, strict=True):
            array[slot].index_copy_(3, at, new)

    def read(self, slot: int, window: Window, row: int, at: Tensor | slice = slice(None)) -> None:
        """Put what is committed at ring places `at` (default: all) into a row of `window`."""
        values, scale, minimum = (x[:, :, row] for x in (window.values, window.scale, window.minimum))
        if self.kv_bits == 4:
            nibbles, scale_minimum = (array[slot][..., at, :] for array in self.arrays.values())
            half = nibbles.shape[-1]
            # Assigned to a slice, integers turn into floats on the way; scattered, they must be floats before.
            low, high = nibbles & 15, nibbles >> 4
            if isinstance(at, Tensor):
                low, high = low.float(), high.float()
            values[..., at, :half], values[..., at, half:] = low, high
            scale[..., at], minimum[..., at] = scale_minimum.float().unbind(-1)
        else:
            values[..., at, :] = self.arrays["kv_half"][slot][..., at, :].float()
            scale[..., at], minimum[..., at] = 1, 0

    def bytes_per_slot(self) -> int:
        return sum(a[0].nbytes for a in self.arrays.values())


class Window:
    """What the rows of the tile attend to: (2, n_layers, rows, nkv, window, ...), keys, then values.

    A value is `values * scale + minimum`, and that product is never formed: a key's scale
    multiplies its logit, a value's scale its probability. A committed token's `values` are
    its nibbles as floats; one of the step being decoded has scale 1 and minimum 0.
    """

    def __init__(self, config: ModelConfig, rows: int) -> None:
        t = config.transformer
        shape = (2, t.n_layers, rows, t.n_kv_heads, t.window)
        self.values = torch.zeros(*shape, t.head_dim)
        self.scale = torch.ones(shape)
        self.minimum = torch.zeros(shape)

    def stage(self, layer: int, rows: Tensor, at: Tensor, values: Tensor) -> None:
        """Put one token of the step being decoded into each of `rows` (n,).

        Args: at: (n,) ring places; values: (2, n, nkv, hd), keys, then values.
        """
        self.values[:, layer][:, rows, :, at] = values.transpose(0, 1)
        self.scale[:, layer][:, rows, :, at] = 1
        self.minimum[:, layer][:, rows, :, at] = 0

    def layer(self, layer: int, rows: slice) -> Seen:
        """Return what rows attend to in one layer, without a copy."""
        return tuple(x[:, layer, rows] for x in (self.values, self.scale, self.minimum))


def scores(q: Tensor, seen: Seen) -> Tensor:
    """Compare queries (B, nkv, n, hd) with what is seen, both rotated: (B, nkv, n, W)."""
    values, scale, minimum = seen
    q = q * q.shape[-1] ** -0.5
    # Long times short, then turned: faster than short times long where the keys come from memory.
    logits = (values[0] @ q.transpose(2, 3)).transpose(2, 3).contiguous()
    return logits.mul_(scale[0, :, :, None]).addcmul_(q.sum(-1, keepdim=True), minimum[0, :, :, None])


def attend(q: Tensor, seen: Seen, unseen: Tensor | None) -> Tensor:
    """Attention over quantised keys and values.

    Args:    q: (B, nkv, n, hd) rotated; seen: values (2, B, nkv, W, hd), scale and minimum
             (2, B, nkv, W); unseen: bool, broadcasts to (B, nkv, n, W), None if all is seen.
    Returns: (B, nkv, n, hd), rotated.
    """
    values, scale, minimum = seen
    logits = scores(q, seen)
    if unseen is not None:
        logits.masked_fill_(unseen, -torch.inf)
    weights = logits.softmax(-1)
    offset = weights @ minimum[1, ..., None]
    return weights.mul_(scale[1, :, :, None]) @ values[1] + offset


def with_new(seen: Seen | None, new: Tensor) -> Seen:
    """Append unquantised keys and values (2, B, nkv, n, hd) to what is seen, or start from nothing."""
    size = new.shape[:-1]
    fresh = (new, torch.ones(size), torch.zeros(size))
    if seen is None:
        return fresh
    return tuple(torch.cat([old, added], dim=3) for old, added in zip(seen, fresh, strict=True))
