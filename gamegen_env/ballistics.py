"""Ballistic attention, the physics proxy: an attention whose values are places in flight.

Each update predicts, from its hidden state, how the thing that it draws moves: a velocity, a
gravity, and per axis a contact: a time from which it flies back, and the part of its velocity
that is given back. At the next event these paths are followed to the present,

    path(dt) = place + v min(dt, contact) - restitution v max(dt - contact, 0) + g dt^2 / 2,

the event's query says by attention which of them matter (the latest most, to begin with),
how far beside them to look and how closely, and what is there gains in likelihood:

    logit(cell) += gain_h * sum over the updates k of w_hk * N(cell; path_k + offset_h, spread_h)

for every head h. What the event head must learn for every cell apart, that a thing goes on as
it went, is here the same all over the map.

Source: ours; the falling-off with age is that of ALiBi (arXiv 2108.12409). Queries are compared
with the keys of the last block, which the cache holds anyway: an update costs MOTION numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gamegen_env.config import ModelConfig

REACH = 64  # latest updates whose paths are followed
MOTION = 8  # numbers per update: velocity, gravity, contact, restitution, each down and right
GAIN = 4.0  # of the logit of a cell to which all attention leads, to begin with
SPREAD = 0.15  # cells, the least: below half a cell a place is one cell anyway


@dataclass(frozen=True)
class Paths:
    """The latest updates that each of E events can see; K of them.

    Attributes:
        scores: (E, heads, K) float32, -inf where there is no update.
        cells: (E, K) int64; motion: (E, K, MOTION); elapsed: (E, K) float32, steps since the update.
    """

    scores: Tensor
    cells: Tensor
    motion: Tensor
    elapsed: Tensor


Gaussians = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def gaussians(place: Tensor, precision: Tensor, weight: Tensor, size: int) -> Tensor:
    """Return weighted sums of Gaussians over the cells of a torus, each normalised along both axes: (E, size, size).

    Args: place: (E, 2, N) float32, in cells, not yet on the torus, row and column; precision, weight: (E, N).
    """
    apart = torch.arange(size, dtype=torch.float32, device=place.device)[:, None] - place[:, :, None]
    apart = apart - size * torch.round(apart / size)
    row, col = (apart.square() * (precision / -2)[:, None, None]).softmax(2).unbind(1)  # (E, size, N)
    return (row * weight[:, None]) @ col.mT


class Ballistics(nn.Module):
    """The queries, and what predicts motion."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        t = config.transformer
        self.map_cells = config.stream.map_cells
        self.heads = (t.n_heads, t.head_dim)
        self.query = nn.Linear(t.d_model, t.n_heads * t.head_dim, bias=False)
        self.norm = nn.RMSNorm(t.head_dim)
        self.aim = nn.Linear(t.d_model, 4 * t.n_heads)  # per head: offset down and right, spread, gain
        self.motion = nn.Linear(t.d_model, MOTION)
        self.ageing = nn.Parameter(0.5 ** torch.arange(t.n_heads, dtype=torch.float32))  # of a score, per step

    def queries(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., n_heads, head_dim), normed, not rotated."""
        return self.norm(self.query(hidden).unflatten(-1, self.heads).float())

    def follow(self, paths: Paths) -> Tensor:
        """Return where the things are now, in cells, not yet on the torus: (E, K, 2) float32, row and column."""
        m, dt = self.map_cells, paths.elapsed[..., None]
        place = torch.stack([paths.cells // m, paths.cells % m], dim=-1).float()
        velocity, gravity, contact, restitution = paths.motion.float().split(2, dim=-1)
        contact = 1 + F.softplus(contact + 4)
        before = torch.minimum(dt, contact)
        return place + velocity * (before - restitution.sigmoid() * (dt - before)) + gravity * dt * dt / 2

    def forward(self, hidden: Tensor, paths: Paths, gaussians: Gaussians = gaussians) -> Tensor:
        """Return what the paths add to the logits of the cells: (E, n_cells) float32.

        Args: hidden: (E, d_model), from which the events are to be predicted.
              gaussians: another way to compute the function of that name.
        """
        return gaussians(*self.aimed(hidden, paths), self.map_cells).flatten(1)

    def aimed(self, hidden: Tensor, paths: Paths) -> tuple[Tensor, Tensor, Tensor]:
        """Return where each head looks beside each path, how closely, and for what gain, N = heads * K.

        Returns: places (E, 2, N), precisions (E, N) and weights (E, N), float32, as `gaussians` takes them.
        """
        aim = self.aim(hidden).float().unflatten(-1, (-1, 4))
        scores = paths.scores - self.ageing[:, None] * paths.elapsed[:, None]
        # Beside a zero: an event may follow nothing at all.
        weights = torch.cat([torch.zeros_like(scores[..., :1]), scores], dim=-1).softmax(-1)[..., 1:]
        # Heads are folded into the paths: one product per event.
        place = self.follow(paths).mT[:, :, None] + aim[..., :2].mT[..., None]  # (E, 2, heads, K)
        precision = (F.softplus(aim[..., 2:3]) + SPREAD).pow(-2).expand_as(weights)
        return place.flatten(2), precision.flatten(1), (GAIN * (1 + aim[..., 3:]) * weights).flatten(1)
