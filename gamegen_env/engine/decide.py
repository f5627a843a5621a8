"""From a hidden state to the next token: heads, grammar mask, sampler. Shared by the PyTorch engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gamegen_env import sampling
from gamegen_env.ballistics import Paths
from gamegen_env.config import ACT, END, SCROLL, UPD
from gamegen_env.motion import Motions
from gamegen_env.pointer import mixture
from gamegen_env.stream import Grammar
from gamegen_env.transformer import Transformer

# What an engine's window holds, for the pointer: (queries (n, nkv, hd), not rotated; rows (n, 6), the updates
# to come) -> scores (n, W) and codes (n, W) int64, -1 where there is nothing to copy.
Recall = Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]
# For ballistic attention: queries (n, heads, hd), not rotated -> the latest updates, compared with them.
Follow = Callable[[Tensor], Paths]


@dataclass(frozen=True)
class Decoded:
    """One slot's finished step."""

    scroll: np.ndarray  # (2,) int64
    cells: np.ndarray  # (u,) int64
    codes: np.ndarray  # (u,) int64
    motions: np.ndarray  # (u,) int64, -1 where a cell is repainted
    reward_class: int
    done: bool
    tokens: int
    origin: np.ndarray  # (2,) int64, after the step


class Decoding:
    """The steps being decoded in R rows; row r works for slot `slot[r]`, or for none (-1)."""

    def __init__(self, grammar: Grammar, rows: int, motions: Motions | None) -> None:
        self.grammar, self.motions = grammar, motions
        self.slot = np.full(rows, -1)
        self.token = np.zeros((rows, 6), np.int64)  # the last token appended
        self.token[:, 0] = ACT
        self.count = np.zeros(rows, np.int64)  # tokens of the step so far
        self.seed = np.zeros(rows, np.int64)
        self.codes = np.zeros((rows, grammar.n_cells), np.int64)
        self.before = self.codes.copy()  # the maps when the steps began
        self.anchor = self.codes.copy()  # theirs
        self.scroll = np.zeros((rows, 2), np.int64)
        self.updates: list[list[tuple[int, int, int]]] = [[] for _ in range(rows)]

    def start(
        self, row: int, slot: int, action: int, camera: int, codes: np.ndarray, anchor: np.ndarray, origin: np.ndarray,
        time: int, seed: int,
    ) -> None:  # fmt: skip
        """Begin a step: its first token is ACT; camera: how the step before moved it."""
        self.slot[row], self.seed[row] = slot, seed
        self.codes[row], self.before[row], self.anchor[row] = codes, codes, anchor
        self.token[row] = (ACT, action, camera, *origin, time)
        self.count[row], self.scroll[row], self.updates[row] = 1, 0, []

    def result(self, row: int) -> Decoded:
        """Return the finished step of a row, whose last token is END."""
        _, reward_class, done, x, y, _ = (int(v) for v in self.token[row])
        cells, codes, motions = zip(*self.updates[row], strict=True) if self.updates[row] else ((), (), ())
        return Decoded(
            self.scroll[row].copy(),
            np.array(cells, np.int64),
            np.array(codes, np.int64),
            np.array(motions, np.int64),
            reward_class,
            bool(done),
            int(self.count[row]),
            np.array([x, y]),
        )

    def advance(self, model: Transformer, hidden: Tensor, recall: Recall, follow: Follow, temperature: float) -> None:
        """Choose the next token of the first n rows, where there is a step whose last token is not END.

        Args: hidden: (n, d_model) at the last tokens. All n rows are computed, in one
              shape, so that a row's result does not depend on how many are in use.
              recall: asked only if the model has a pointer; follow: if it has ballistic attention.
        """
        grammar, n = self.grammar, len(hidden)
        token, count, codes = self.token[:n], self.count[:n], self.codes[:n]
        keys = sampling.noise_keys(*(torch.from_numpy(x) for x in (self.seed[:n], token[:, 5], count)))

        def draw(logits: Tensor, purpose: int, temperature: float = temperature) -> np.ndarray:
            return sampling.sample(logits, keys[purpose], temperature).numpy()

        kind = token[:, 0]
        last_cell = np.where(kind == UPD, token[:, 1], -1)
        allowed = grammar.event_mask(token[:, 3:5], last_cell, kind == ACT)
        logits = model.event_logits(hidden)
        if model.ballistics is not None:
            logits[:, : grammar.n_cells] += model.ballistics(hidden, follow(model.ballistics.queries(hidden)))
        logits = logits.masked_fill(~torch.from_numpy(allowed), -torch.inf)
        event = draw(logits, sampling.EVENT)
        live = (self.slot[:n] >= 0) & (kind != END)
        updating, ending = live & (event < grammar.n_cells), live & (event == grammar.end_event)

        if updating.any():
            cells = np.where(updating, event, 0)
            present = torch.from_numpy(codes[np.arange(n), cells])
            origins = torch.from_numpy(token[:, 3:5])
            query = model.code_query(hidden, torch.from_numpy(cells), origins, present)
            anchor = torch.from_numpy(self.anchor[np.arange(n), cells])
            code_logits = model.vocabulary_logits(query).scatter(1, present[:, None], -torch.inf)
            if model.pointer is not None:
                update = token.copy()
                update[:, 0], update[:, 1] = UPD, cells
                copy_query, sentinel = model.pointer(query)
                copied, held = recall(copy_query, update)
                copied = copied.masked_fill((held < 0) | (held == present[:, None]), -torch.inf)
                moves = model.motion_logits(query, anchor != present)
                code_logits = mixture(code_logits, sentinel, copied, held.clamp_min(0), moves, anchor, grammar.still)
                code_logits = code_logits.scatter(1, present[:, None], -torch.inf)
            drawn = draw(code_logits, sampling.CODE)
            motion = np.where(drawn < grammar.n_codes, -1, drawn - grammar.n_codes)
            moved = (updating & (motion >= 0)).nonzero()[0]
            if len(moved) and self.motions is not None:
                drawn[moved] = self.motions.moved_codes(
                    self.before[moved], self.anchor[moved], cells[moved], motion[moved]
                )
            content = grammar.contents(drawn, motion)
            for row in updating.nonzero()[0]:
                token[row, :3] = UPD, cells[row], content[row]
                codes[row, cells[row]] = drawn[row]
                self.updates[row].append((int(cells[row]), int(drawn[row]), int(motion[row])))
        if ending.any():
            reward_logits, done_logits = model.end_logits(hidden)
            # A cooler picture must not make rewards and game overs rarer than the model believes.
            outcome = 1.0 if temperature else 0.0
            reward = draw(reward_logits, sampling.REWARD, outcome)
            done = draw(done_logits, sampling.DONE, outcome)
            for row in ending.nonzero()[0]:
                token[row, :3] = END, reward[row], done[row]
        for row in (live & ~updating & ~ending).nonzero()[0]:
            self.scroll[row] = grammar.event_scroll(int(event[row]))
            token[row, :3] = SCROLL, *(self.scroll[row] + grammar.max_scroll)
            token[row, 3:5] = grammar.move(token[row, 3:5], self.scroll[row])
        count[live] += 1
