"""Pointer memory: an update may copy its code from anything that the window still holds.

A background cell comes back as it was when what hid it leaves, however rare its code, and
a sprite whose codes were never seen in training moves by copying. The code of an update
is drawn from

    P(code) = w_0 * P_vocabulary(code) + sum of w_i over the tokens i that carry this code

where w is one softmax over a learned sentinel (i = 0) and the scores of the window's tokens.
Where updates may move the picture (`motion.py`), the motions' logits take part in the same softmax,
and what remains for the codes is as above.
Scores compare a query for the update with the keys of the last block, which the cache
holds anyway, and both are rotated: "the same cell, earlier" or "one cell to the left, a
step ago" are relative offsets, the same all over the map.

Source: pointer sentinel mixture, arXiv 1609.07843. We differ in what is compared: no
keys of their own, and rotary offsets in position, time, row and column.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gamegen_env.config import TransformerConfig

FLOOR = 1e-20  # probability of a code that neither source gives: its logarithm stays finite


class Pointer(nn.Module):
    """The query for the window, and the sentinel it is weighed against."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = (config.n_kv_heads, config.head_dim)
        self.query = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=False)
        self.norm = nn.RMSNorm(config.head_dim)
        self.sentinel = nn.Parameter(torch.zeros(config.n_kv_heads * config.head_dim))
        # Before it has learned where to look, the window's thousands of tokens must not outweigh the vocabulary.
        self.sentinel_bias = nn.Parameter(torch.tensor(8.0))

    def forward(self, code_query: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries (..., nkv, hd), normed, not rotated, and the sentinel's scores (...).

        Args: code_query: (..., d_model) from `Transformer.code_query`.
        """
        query = self.norm(self.query(code_query).unflatten(-1, self.heads).float())
        return query, (query.flatten(-2) * self.sentinel).sum(-1) * self.heads[1] ** -0.5 + self.sentinel_bias


def scores(query: Tensor, keys: Tensor) -> Tensor:
    """Compare rotated queries (..., U, nkv, hd) with the window's rotated keys (..., S, nkv, hd): (..., U, S)."""
    return query.flatten(-2) @ keys.flatten(-2).transpose(-1, -2) * query.shape[-1] ** -0.5


def mixture(
    vocabulary: Tensor, sentinel: Tensor, copied: Tensor, codes: Tensor, motions: Tensor, anchor: Tensor, still: int
) -> Tensor:
    """Return the logarithms of P(code), and behind them of P(motion): (U, codebook_size + n_motions) float32.

    Args:
        vocabulary: (U, codebook_size) logits, -inf or very small where forbidden.
        sentinel: (U,) scores.
        copied: (U, S) scores of the window's tokens; -inf where there is nothing to copy.
        codes: (U, S) or (S,) int64, the codes they carry, >= 0; any where there is nothing to copy.
        motions: (U, n_motions) logits; n_motions may be 0; that of `still` is that of code `anchor` (U,) int64.
    """
    weights = _weights(sentinel, copied, motions)
    size = copied.shape[1]
    by_code = weights[:, :1] * vocabulary.float().softmax(1)
    by_code = by_code.scatter_add(1, codes.expand(copied.shape), weights[:, 1 : 1 + size])
    moved = weights[:, 1 + size :]
    if moved.shape[1]:
        by_code = by_code.scatter_add(1, anchor[:, None], moved[:, still : still + 1])
        moved = moved.index_fill(1, torch.tensor([still]), 0.0)
    return torch.cat([by_code, moved], dim=1).clamp_min(FLOOR).log()


def mixture_at(
    vocabulary: Tensor, sentinel: Tensor, copied: Tensor, codes: Tensor, motions: Tensor, anchor: Tensor, still: int,
    target: Tensor, motion: Tensor,
) -> Tensor:  # fmt: skip
    """Return what `mixture` gives to codes `target` (U,), or to motions `motion` (U,) where they are not -1, alone.

    Args:    vocabulary: (U,) logarithm of the probability that the vocabulary gives to the codes; the rest as there.
    Returns: (U,) float32.
    """
    weights = _weights(sentinel, copied, motions)
    size = copied.shape[1]
    from_window = (weights[:, 1 : 1 + size] * (codes == target[:, None])).sum(1)
    likelihood = weights[:, 0] * vocabulary.exp() + from_window
    if motions.shape[1]:
        likelihood = likelihood + weights[:, 1 + size + still] * (anchor == target)
        moved = weights.gather(1, 1 + size + motion.clamp_min(0)[:, None])[:, 0]
        likelihood = torch.where(motion >= 0, moved, likelihood)
    return likelihood.clamp_min(FLOOR).log()


def _weights(sentinel: Tensor, copied: Tensor, motions: Tensor) -> Tensor:
    return torch.cat([sentinel[:, None], copied, motions.to(copied.dtype)], dim=1).float().softmax(1)
