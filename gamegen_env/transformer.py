"""The causal transformer over the token stream, in plain PyTorch: the definition.

It sees rows of integers (`stream.py` says what they mean) and never pixels. Everything
an engine must reproduce is in this file: what a token's input is (`token_features`),
where it lies for the rotary embedding (`rotary_embedding`), the blocks, and the heads:

    event   after ACT, SCROLL, UPD: which cell next, a scroll, or END
    code    given the chosen cell and its present code: the new code, or a motion that brings it
    end     reward class and termination, read at the position that chose END

Source: Llama-style blocks (RMSNorm, SwiGLU, grouped queries), QK-norm after arXiv
2302.05442. We differ in the rotary embedding: its pairs are shared between stream
position, game time, and row and column on the torus of the tile map, where only whole
waves fit, so that a relative offset across the seam is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gamegen_env.actions import N_BUTTONS, N_DIRECTIONS
from gamegen_env.ballistics import Ballistics
from gamegen_env.config import (
    ACT,
    KEY,
    N_KINDS,
    N_REWARD_CLASSES,
    SCROLL,
    UPD,
    ModelConfig,
)  # fmt: skip
from gamegen_env.pointer import Pointer

POSITION_WAVELENGTH = 2 * math.pi * 1000  # tokens, the longest
TIME_WAVELENGTH = 2 * math.pi * 200  # game steps, the longest
QUERY_BLOCK = 128  # tokens; measured: 256 and 64 take 1.4 and 1.25 times as long, forward and backward
HEADROOM = 40.0  # nats; the exponential of twice as many, up or down, is still a number in float32 and bfloat16


@dataclass(frozen=True)
class FeatureTable:
    """Where each kind of feature starts in the small embedding table."""

    map_cells: int
    max_scroll: int
    cell_size: int
    n_codes: int
    max_motion: int
    anchor: bool = False
    sprites: bool = False
    things: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        m, s, c = self.map_cells, 2 * self.max_scroll + 1, self.cell_size
        reach = 2 * self.max_motion + 1 if self.max_motion else 0
        return {
            "kind": N_KINDS, "row": m, "col": m, "view_row": m, "view_col": m, "origin_row": m, "origin_col": m,
            "fine_y": c, "fine_x": c, "direction": N_DIRECTIONS, "button": N_BUTTONS, "scroll_x": s, "scroll_y": s,
            "reward": N_REWARD_CLASSES, "done": 2, "motion_x": reach, "motion_y": reach, "astray": 2 * self.anchor,
            "sprite": (2 + self.things) * self.sprites,
        }  # fmt: skip

    @cached_property
    def starts(self) -> dict[str, int]:
        sizes = list(self.sizes.values())
        return {name: sum(sizes[:i]) for i, name in enumerate(self.sizes)}

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    @classmethod
    def of(cls, config: ModelConfig) -> FeatureTable:
        s, t = config.stream, config.tokenizer
        return cls(
            s.map_cells,
            s.max_scroll,
            t.cell_size,
            t.codebook_size,
            s.max_motion,
            config.transformer.anchor,
            s.sprites,
            s.things,
        )


def token_features(rows: Tensor, table: FeatureTable) -> tuple[Tensor, Tensor]:
    """Return what a token's input embedding adds up.

    Args:    rows: (..., 6) integer, [kind, a, b, origin x, origin y, time].
    Returns: indices (..., 7, or 9 where updates may move, or 10 with anchors, 11 with sprites) int64 into the small
             table, and codes (...) int64, -1 for tokens that carry none.
    """
    kind, a, b, ox, oy, _ = rows.long().unbind(-1)
    m, c, at = table.map_cells, table.cell_size, table.starts.__getitem__
    is_cell = (kind == KEY) | (kind == UPD)
    is_act, is_scroll = kind == ACT, kind == SCROLL
    row, col = a // m, a % m
    origin_row, origin_col = oy // c, ox // c
    first = torch.where(is_act, at("direction") + a % N_DIRECTIONS,
            torch.where(is_scroll, at("scroll_x") + a, at("reward") + a))  # fmt: skip
    second = torch.where(is_act, at("button") + a // N_DIRECTIONS,
             torch.where(is_scroll, at("scroll_y") + b, at("done") + b))  # fmt: skip
    features = [
        at("kind") + kind,
        torch.where(is_cell, at("row") + row, first),
        torch.where(is_cell, at("col") + col, second),
        torch.where(is_cell, at("view_row") + (row - origin_row) % m, at("origin_row") + origin_row),
        torch.where(is_cell, at("view_col") + (col - origin_col) % m, at("origin_col") + origin_col),
        at("fine_y") + oy % c,
        at("fine_x") + ox % c,
    ]
    if table.max_motion:
        side = 2 * table.max_motion + 1
        # What repaints has the motion that no update can have, (0, 0); an action has the camera's.
        motion = torch.where(kind == UPD, b // table.n_codes - 1, -1)
        moving = motion.clamp_min(0) // (side * side)  # all, what stands out, or a thing
        motion = torch.where(motion < 0, side * side // 2, motion % (side * side))
        reach = 2 * table.max_scroll + 1
        features += [
            torch.where(is_act, at("scroll_x") + b % reach, at("motion_x") + motion % side),
            torch.where(is_act, at("scroll_y") + b // reach, at("motion_y") + motion // side),
        ]
    if table.anchor:
        features.append(at("astray") + ((kind == KEY) & (b >= table.n_codes)).long())
    if table.sprites:
        features.append(at("sprite") + moving)
    return torch.stack(features, dim=-1), torch.where(is_cell, b % table.n_codes, -1)


def cell_features(cells: Tensor, origins: Tensor, table: FeatureTable) -> Tensor:
    """Small-table rows that describe a cell to the code head: (..., 4) int64 for cells (...), origins (..., 2)."""
    m, c, at = table.map_cells, table.cell_size, table.starts.__getitem__
    row, col = cells // m, cells % m
    return torch.stack(
        [
            at("row") + row,
            at("col") + col,
            at("view_row") + (row - origins[..., 1] // c) % m,
            at("view_col") + (col - origins[..., 0] // c) % m,
        ],
        dim=-1,
    )


def summed(table: nn.Embedding, indices: Tensor) -> Tensor:
    """Add up rows of a table: (..., d_model) for indices (..., n); without forming them, a tenth of the time."""
    return F.embedding_bag(indices.flatten(0, -2), table.weight, mode="sum").unflatten(0, indices.shape[:-1])


def rotary_embedding(rows: Tensor, positions: Tensor, config: ModelConfig) -> Tensor:
    """Return cosine and sine of the rotary angle of every pair of head dimensions.

    Angles are computed in float64: positions and times grow without bound in a game that goes on.

    Args:    rows: (..., 6) integer; positions: (...) integer, index in the stream.
    Returns: (..., 2, head_dim / 2) float32.
    """
    n = config.transformer.head_dim // 8
    m = config.stream.map_cells
    device = rows.device
    exponent = torch.arange(n, dtype=torch.float64, device=device) / (n - 1)
    by_position = (2 * math.pi / POSITION_WAVELENGTH) ** exponent
    by_time = (2 * math.pi / TIME_WAVELENGTH) ** exponent
    waves = torch.linspace(1, (m - 1) // 2, n, dtype=torch.float64, device=device).round() * (2 * math.pi / m)
    is_cell = (rows[..., 0] == KEY) | (rows[..., 0] == UPD)
    cell = torch.where(is_cell, rows[..., 1], 0)
    angles = torch.cat(
        [
            positions.double()[..., None] * by_position,
            rows[..., 5].double()[..., None] * by_time,
            (cell // m).double()[..., None] * waves,
            (cell % m).double()[..., None] * waves,
        ],
        dim=-1,
    )
    angles = (angles % (2 * math.pi)).float()
    return torch.stack([angles.cos(), angles.sin()], dim=-2)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Apply the rotary embedding: x (..., head_dim), rotary (..., 2, head_dim / 2), halves paired."""
    cos, sin = rotary.to(x.dtype).unbind(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal sliding-window attention: a token sees the `window` last tokens, itself included.

    In blocks of queries, each against the keys it can see at all: compiled, this runs at
    nearly twice the speed of `scaled_dot_product_attention` on a CPU in bfloat16.

    Args:    q: (B, S, nh, hd); k, v: (B, S, nkv, hd), nh a multiple of nkv.
    Returns: (B, S, nh, hd).
    """
    batch, size, n_heads, head_dim = q.shape
    n_kv_heads = k.shape[2]
    group = n_heads // n_kv_heads
    q = q.unflatten(2, (n_kv_heads, group)).permute(0, 2, 3, 1, 4)  # (B, nkv, group, S, hd)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    # Compiled, a sum with a bias made of 32-bit positions takes half the time of a choice by 64-bit ones.
    position = torch.arange(size, dtype=torch.int32, device=q.device)
    # Taken from the logits in the place of their maximum, which takes a pass over them to find: what they are at most,
    # by Cauchy and Schwarz, less HEADROOM, so that no sum overflows, nor vanishes where the bound is below 60. (Norms
    # of queries and keys hold it: 15 to 30 in `pocket`, 8 to begin with.)
    with torch.no_grad():
        longest = k.float().norm(dim=-1).amax(-1)[:, :, None, None, None]  # (B, nkv, 1, 1, 1)
        most = q.float().norm(dim=-1, keepdim=True) * longest * head_dim**-0.5 - HEADROOM
    outputs = []
    for start in range(0, size, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, size)
        first = max(0, start - window + 1)
        queries = q[:, :, :, start:stop].reshape(batch, n_kv_heads, -1, head_dim)
        logits = (queries @ k[:, :, first:stop].transpose(2, 3)).unflatten(2, (group, -1)).float()
        distance = position[start:stop, None] - position[first:stop]
        bias = torch.where((distance >= 0) & (distance < window), 0.0, -1e30)
        # A softmax, divided by its sum after the product: on the way back nothing is summed over the keys.
        weights = (logits * head_dim**-0.5 + bias - most[:, :, :, start:stop]).exp().to(v.dtype)
        together = (weights.flatten(2, 3) @ v[:, :, first:stop]).unflatten(2, (group, -1))
        outputs.append((together / weights.float().sum(-1, keepdim=True)).to(v.dtype))
    return torch.cat(outputs, dim=3).permute(0, 3, 1, 2, 4).reshape(batch, size, n_heads, head_dim)


class Block(nn.Module):
    """Attention and feed-forward, both pre-norm and residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        t = config.transformer
        self.n_heads, self.n_kv_heads, self.head_dim = t.n_heads, t.n_kv_heads, t.head_dim
        self.attention_norm = nn.RMSNorm(t.d_model)
        self.qkv = nn.Linear(t.d_model, (t.n_heads + 2 * t.n_kv_heads) * t.head_dim, bias=False)
        self.q_norm = nn.RMSNorm(t.head_dim)
        self.k_norm = nn.RMSNorm(t.head_dim)
        self.out = nn.Linear(t.n_heads * t.head_dim, t.d_model, bias=False)
        self.ff_norm = nn.RMSNorm(t.d_model)
        self.gate_up = nn.Linear(t.d_model, 2 * t.d_ff, bias=False)
        self.down = nn.Linear(t.d_ff, t.d_model, bias=False)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (..., nh, hd), keys (..., nkv, hd), both normed and rotated, and values (..., nkv, hd)."""
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split([self.n_heads, self.n_kv_heads, self.n_kv_heads], dim=-2)
        # The norms in full precision also under autocast.
        normed = torch.cat([self.q_norm(q.float()), self.k_norm(k.float())], dim=-2)
        q, k = rotate(normed, rotary[..., None, :, :]).split([self.n_heads, self.n_kv_heads], dim=-2)
        return q, k, v

    def feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(self.ff_norm(x)).chunk(2, dim=-1)
        # SiLU, spelled out: compiled, its gradient takes one exponential instead of two.
        return self.down(gate * gate.sigmoid() * up)

    def forward(self, x: Tensor, rotary: Tensor, window: int, kv_noise: KVTransform | None) -> tuple[Tensor, Tensor]:
        """Return the block's output (B, S, d_model) and its keys (B, S, nkv, hd)."""
        q, k, v = self.project(x, rotary)
        if kv_noise is not None:
            k, v = kv_noise(k), kv_noise(v)
        x = x + self.out(attend(q, k, v, window).flatten(2))
        return x + self.feed_forward(x), k


class KVTransform:
    """What a KV cache does to keys and values (..., head_dim); `kv4.FakeQuantise` is the one in use."""

    def __call__(self, x: Tensor) -> Tensor:
        raise TypeError("KVTransform is an interface; pass kv4.FakeQuantise()")


class Transformer(nn.Module):
    """The model. `forward` runs whole sequences; engines use the parts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        t = config.transformer
        self.config = config
        self.table = FeatureTable.of(config)
        self.small = nn.Embedding(self.table.size, t.d_model)
        self.code = nn.Embedding(config.tokenizer.codebook_size, t.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(t.n_layers))
        self.norm = nn.RMSNorm(t.d_model)
        self.event_head = nn.Linear(t.d_model, config.stream.n_events)
        self.code_in = nn.Linear(2 * t.d_model, 2 * t.d_model)
        self.code_out = nn.Linear(2 * t.d_model, t.d_model)
        self.code_norm = nn.RMSNorm(t.d_model)
        self.end_head = nn.Linear(t.d_model, N_REWARD_CLASSES + 2)
        self.pointer = Pointer(t) if t.pointer else None
        self.motion_head = nn.Linear(t.d_model, config.stream.n_motions) if config.stream.max_motion else None
        self.ballistics = Ballistics(config) if t.ballistics else None
        self.apply(self._initialise)
        for block in self.layers():
            for linear in (block.out, block.down):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * t.n_layers))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def layers(self) -> list[Block]:
        """Return the blocks, first to last."""
        return [cast(Block, block) for block in self.blocks]

    @torch.no_grad()
    def set_code_embedding(self, codebook: Tensor) -> None:
        """Start code embeddings (8192, d_model) as a random projection of the tokenizer's codebook (8192, D).

        Codes that look alike then start alike, which the loss alone would take long to find out.
        """
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(codebook.shape[1], self.code.embedding_dim, generator=generator)
        embedding = (codebook - codebook.mean(0)) @ projection
        self.code.weight.copy_(embedding / embedding.std() * 0.05)

    def embed(self, rows: Tensor) -> Tensor:
        """Embed token rows (..., 6) into (..., d_model)."""
        indices, codes = token_features(rows, self.table)
        code = self.code(codes.clamp(min=0)) * (codes >= 0)[..., None]
        return summed(self.small, indices) + code

    def forward(self, rows: Tensor, kv_noise: KVTransform | None = None) -> tuple[Tensor, Tensor]:
        """Run whole streams from position 0.

        Args:    rows: (B, S, 6) integer. kv_noise: applied to keys and values, to train
                 for the quantised cache.
        Returns: hidden states (B, S, d_model), normed, what the heads read; keys of the last
                 block (B, S, nkv, hd), rotated, what pointer and ballistic attention compare with.
        """
        window = self.config.transformer.window
        size = rows.shape[1]
        positions = torch.arange(size, device=rows.device)
        rotary = rotary_embedding(rows, positions.expand(rows.shape[:2]), self.config)
        x = self.embed(rows)
        for block in self.layers():
            x, keys = block(x, rotary, window, kv_noise)
        return self.norm(x), keys

    def event_logits(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., n_events), not yet masked by the grammar."""
        return self.event_head(hidden)

    def code_query(self, hidden: Tensor, cells: Tensor, origins: Tensor, present: Tensor) -> Tensor:
        """Return what is compared with every code's embedding.

        Args:    hidden: (..., d_model); cells (...) the chosen cells; origins (..., 2) scroll
                 register (x, y); present (...) the cells' present codes. All integers int64.
        Returns: (..., d_model).
        """
        described = summed(self.small, cell_features(cells, origins, self.table)) + self.code(present)
        query = self.code_out(F.silu(self.code_in(torch.cat([hidden, described], dim=-1))))
        return self.code_norm(hidden + query)

    def vocabulary_logits(self, code_query: Tensor) -> Tensor:
        """(..., d_model) -> logits over codes (..., codebook_size); the present code is not yet masked."""
        return F.linear(code_query, self.code.weight)

    def motion_logits(self, code_query: Tensor, astray: Tensor) -> Tensor:
        """(..., d_model) -> scores of motions (..., n_motions) beside those of the pointer.

        That of (0, 0), which is no motion, is the anchor's: -inf unless the cell is `astray` (...) bool. Sprites have
        none.
        """
        if self.motion_head is None:
            return code_query.new_zeros(*code_query.shape[:-1], 0)
        logits = self.motion_head(code_query)
        if not self.config.transformer.anchor:
            astray = torch.zeros_like(astray)
        motion, stream = torch.arange(logits.shape[-1], device=logits.device), self.config.stream
        still = motion % stream.n_vectors == stream.still
        return logits.masked_fill(still & ~(astray[..., None] & (motion < stream.n_vectors)), -torch.inf)

    def end_logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(..., d_model) -> reward logits (..., 3) and termination logits (..., 2)."""
        return self.end_head(hidden).split([N_REWARD_CLASSES, 2], dim=-1)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def matrices(model: Transformer) -> Sequence[nn.Parameter]:
    """The weight matrices inside the blocks: what a matrix optimiser should own."""
    return [p for p in model.blocks.parameters() if p.ndim == 2]
