"""What ballistic attention remembers: the latest updates of every slot, and how each goes on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gamegen_env.ballistics import MOTION, REACH, Paths
from gamegen_env.config import UPD


class Latest:
    """A ring of the REACH latest updates per slot.

    Arrays: latest_rows (num_slots, REACH, 3) int64, stream position (-1: none), cell, time;
    latest_motion (num_slots, REACH, MOTION) float32; latest_count (num_slots,) int64, updates so far.
    """

    def __init__(self, num_slots: int) -> None:
        self.arrays: dict[str, np.ndarray] = {
            "latest_rows": np.full((num_slots, REACH, 3), -1, np.int64),
            "latest_motion": np.zeros((num_slots, REACH, MOTION), np.float32),
            "latest_count": np.zeros(num_slots, np.int64),
        }

    def clear(self, slot: int) -> None:
        self.arrays["latest_rows"][slot] = -1
        self.arrays["latest_count"][slot] = 0

    def add(self, slot: int, position: int, tokens: np.ndarray, motion: Tensor) -> None:
        """Remember the updates among tokens (n, 6) from stream position `position`; motion (n, MOTION)."""
        rows, moves, count = self.arrays.values()
        for i in np.flatnonzero(tokens[:, 0] == UPD):
            at = count[slot] % REACH
            rows[slot, at] = position + i, tokens[i, 1], tokens[i, 5]
            moves[slot, at] = motion[i].numpy()
            count[slot] += 1

    def paths(self, slots: np.ndarray, token: np.ndarray, position: np.ndarray, scores: Tensor) -> Paths:
        """Return what the last tokens (n, 6) of `slots` (n,) at stream positions (n,) can follow.

        Args: scores: (n, heads, window), of the tokens at ring places.
        """
        rows, moves, _ = (array[slots] for array in self.arrays.values())
        at, cells, time = np.moveaxis(rows, -1, 0)
        window = scores.shape[-1]
        none = torch.from_numpy((at < 0) | (position[:, None] - at >= window))
        of = torch.from_numpy(at % window)[:, None].expand(-1, scores.shape[1], -1)
        return Paths(
            scores.gather(2, of).masked_fill(none[:, None], -torch.inf),
            torch.from_numpy(np.maximum(cells, 0)),
            torch.from_numpy(moves),
            torch.from_numpy(token[:, 5:] - time).float(),
        )
