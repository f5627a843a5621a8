"""The reference engine: recomputes the whole stream for every token, in fp32. Slow, obvious, the definition.

What it defines beside the model: keys and values of earlier steps are seen through the
4-bit format, those of the step (or keyframe) being decoded through fp16; a token sees
the `window` last tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gamegen_env.ballistics import REACH, Paths
from gamegen_env.config import END, KEY, UPD
from gamegen_env.engine.base import Engine, State, StepBatch
from gamegen_env.engine.decide import Decoding, Follow, Recall
from gamegen_env.kv4 import dequantise, hadamard, quantise
from gamegen_env.pointer import scores
from gamegen_env.transformer import rotary_embedding, rotate


class ReferenceEngine(Engine):
    """Keeps nothing but the tokens of every slot."""

    name = "reference"

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._stream = [np.zeros((0, 6), np.int64) for _ in range(self.num_slots)]

    def _clear(self, slot: int) -> None:
        self._stream[slot] = self._stream[slot][:0]

    def _prefill(self, slot: int, rows: np.ndarray) -> None:
        self._stream[slot] = np.concatenate([self._stream[slot], rows])

    @torch.inference_mode()
    def _step(self, slots: Sequence[int], actions: Sequence[int]) -> StepBatch:
        results = []
        for slot, action in zip(slots, actions, strict=True):
            decoding = Decoding(self.grammar, 1, self.motions)
            camera, time, seed = int(self.camera[slot]), int(self.time[slot]), int(self.seed[slot])
            decoding.start(0, slot, action, camera, self.codes[slot], self.anchor[slot], self.origin[slot], time, seed)
            while True:
                self._stream[slot] = np.concatenate([self._stream[slot], decoding.token])
                if decoding.token[0, 0] == END:
                    break
                hidden, recall, follow = self._hidden(self._stream[slot])
                decoding.advance(self.transformer, hidden[-1:], recall, follow, self.temperature)
            results.append(decoding.result(0))
        return self._finish(slots, results)

    def _hidden(self, stream: np.ndarray) -> tuple[Tensor, Recall, Follow]:
        """Hidden states (S, d_model) of a whole stream (S, 6), what an update after it may recall, and what
        its last token may follow."""
        model = self.transformer
        rows = torch.from_numpy(stream)
        size = len(stream)
        position = torch.arange(size)
        rotary = rotary_embedding(rows, position, self.config)
        # A keyframe and a step are each committed as one; a token's unit says which it is in.
        starts = np.concatenate([[True], (stream[1:, 0] == KEY) != (stream[:-1, 0] == KEY)])
        starts |= np.concatenate([[False], stream[:-1, 0] == END])
        unit = torch.from_numpy(np.cumsum(starts))
        distance = position[:, None] - position
        seen = (distance >= 0) & (distance < self.config.transformer.window)
        same = unit[:, None] == unit
        x = model.embed(rows)
        for block in model.layers():
            q, k, v = (y.transpose(0, 1) for y in block.project(x, rotary))  # (heads, S, hd)
            staged_k, stored_k = self._cached(k)
            staged_v, stored_v = self._cached(v)
            group = q.shape[0] // k.shape[0]
            q = q @ hadamard()

            def per_head(y: Tensor, group: int = group) -> Tensor:
                return y.repeat_interleave(group, dim=0)

            logits = torch.where(same, q @ per_head(staged_k).transpose(1, 2), q @ per_head(stored_k).transpose(1, 2))
            weights = (logits * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf).softmax(-1)
            mixed = (weights * same) @ per_head(staged_v) + (weights * ~same) @ per_head(stored_v)
            x = x + block.out((mixed @ hadamard()).transpose(0, 1).flatten(1))
            x = x + block.feed_forward(x)

        hidden = model.norm(x)
        window = self.config.transformer.window
        # What comes next belongs to the unit of the last token, whose keys are not yet committed.
        keys = torch.where(same[-1, :, None], staged_k, stored_k).transpose(0, 1)

        def recall(query: Tensor, update: np.ndarray) -> tuple[Tensor, Tensor]:
            rotary = rotary_embedding(torch.from_numpy(update), torch.tensor([size]), self.config)
            query = rotate(query, rotary[..., None, :, :]) @ hadamard()
            carries = (rows[:, 0] == KEY) | (rows[:, 0] == UPD)
            carries &= size - position < window
            return scores(query, keys), torch.where(carries, rows[:, 2] % self.grammar.n_codes, -1)[None]

        def follow(query: Tensor) -> Paths:
            assert model.ballistics is not None
            query = rotate(query[0], rotary[-1]) @ hadamard()  # (heads, hd)
            latest = ((rows[:, 0] == UPD) & (size - 1 - position < window)).nonzero()[-REACH:, 0]
            per_head = keys[latest].repeat_interleave(len(query) // keys.shape[1], dim=1)
            compared = torch.einsum("hd,khd->hk", query, per_head) * query.shape[-1] ** -0.5
            elapsed = (rows[-1, 5] - rows[latest, 5]).float()
            return Paths(
                compared[None], rows[latest, 1][None], model.ballistics.motion(hidden[latest])[None], elapsed[None]
            )

        return hidden, recall, follow

    def _cached(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys or values as the step being decoded sees them, and as later steps do."""
        staged = (x @ hadamard()).half().float()
        return staged, dequantise(*quantise(staged)) if self.kv_bits == 4 else staged

    def _save_context(self, slot: int) -> State:
        return {"stream": self._stream[slot].copy()}

    def _load_context(self, slot: int, state: State) -> None:
        self._stream[slot] = state["stream"].copy()
