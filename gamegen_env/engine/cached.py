"""The `torch` engine: cached keys and values, ragged batches of slots, PyTorch on the CPU.

Persistent memory per slot is the 4-bit ring of the last `window` tokens. Steps are
decoded in a tile of up to ROWS rows. A row holds one slot's window in fp32 (loaded from
the ring when another slot was there before), decodes its step token by token, commits
the step's keys and values to the ring, and takes the next slot that waits: a slot that
has ended its step costs nothing.

A row's result depends neither on its place in the tile nor on the tile's size (`tiles`
makes sure), so a game is the same to the bit alone or in a batch. Ring and window are
indexed by stream position modulo `window`: writing token p overwrites token p - window,
which is just the one that left the window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gamegen_env.ballistics import Paths
from gamegen_env.config import END, KEY, UPD, ModelConfig
from gamegen_env.engine.base import Engine, State, StepBatch
from gamegen_env.engine.cache import Ring, Window, attend, scores, with_new
from gamegen_env.engine.decide import Decoded, Decoding
from gamegen_env.engine.latest import Latest
from gamegen_env.kv4 import hadamard
from gamegen_env.transformer import Transformer, rotary_embedding, rotate

ROWS = 24
FEW_SLOTS = 4  # fewer games than this do not pay for waking threads


def tiles(model: Transformer) -> list[int]:
    """Return the tile sizes in which every matrix product gives a row the same bits, ROWS the last.

    A BLAS may choose another kernel, with another order of sums, for another number of rows; that is its
    own affair, so it is asked. (One row alone goes another way in all that we met.)
    """
    generator = torch.Generator().manual_seed(0)
    sizes = list(range(4, ROWS + 1, 4))
    for shape in sorted({tuple(p.shape) for p in model.parameters() if p.ndim == 2}):
        weight, rows = (torch.randn(n, shape[1], generator=generator) for n in (shape[0], ROWS))
        whole = F.linear(rows, weight)
        sizes = [n for n in sizes if torch.equal(F.linear(rows[:n], weight), whole[:n])]
    return sizes


def carried(tokens: np.ndarray, n_codes: int) -> np.ndarray:
    """Return the codes (n,) that token rows (n, 6) carry, -1 where none."""
    return np.where(np.isin(tokens[:, 0], (KEY, UPD)), tokens[:, 2] % n_codes, -1)


@contextmanager
def single_thread(wanted: bool) -> Iterator[None]:
    """Compute in one thread, if wanted. Small products are faster so: OpenMP threads spin for each other, and
    beside another busy process they wait for it."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CachedEngine(Engine):
    """Decodes all slots together, one token of up to ROWS slots per pass."""

    name = "torch"

    def __init__(
        self,
        config: ModelConfig,
        transformer: Transformer,
        num_slots: int,
        *,
        temperature: float = 1.0,
        kv_bits: int = 4,
        patches: np.ndarray | None = None,
    ) -> None:
        super().__init__(config, transformer, num_slots, temperature=temperature, kv_bits=kv_bits, patches=patches)
        t = config.transformer
        self.ring = Ring(config, num_slots, kv_bits)
        rows = min(ROWS, num_slots)
        self._resident = np.full(rows, -1)  # whose window each row holds
        self._window = Window(config, rows)
        self._tiles = tiles(transformer)
        self._length = np.zeros(num_slots, np.int64)  # tokens of each slot's last step
        self._place = torch.arange(t.window)
        self._held = np.full((num_slots, t.window), -1, np.int16)  # the codes that the ring's tokens carry
        self._latest = Latest(num_slots)

    def _clear(self, slot: int) -> None:
        self._evict(slot)
        self._held[slot] = -1
        self._latest.clear(slot)

    def _evict(self, slot: int) -> None:
        self._resident[self._resident == slot] = -1

    def _row_for(self, slot: int) -> int:
        """Return the row that holds the slot's window, else a free one, else any."""
        for wanted in (slot, -1):
            rows = (self._resident == wanted).nonzero()[0]
            if len(rows):
                return int(rows[0])
        return slot % len(self._resident)

    def _load(self, row: int, slot: int) -> None:
        """Make `row` hold the window of `slot`."""
        if self._resident[row] != slot:
            self._evict(slot)
            self.ring.read(slot, self._window, row)
            self._resident[row] = slot

    def _commit(self, row: int, slot: int, start: int, stop: int) -> None:
        """Quantise tokens [start, stop) of the stream, in the row so far as fp16, into the ring."""
        at = torch.arange(start, stop) % self.config.transformer.window
        self.ring.write(slot, at, self._window.values[:, :, row].index_select(3, at))
        self.ring.read(slot, self._window, row, at)

    @torch.inference_mode()
    def _step(self, slots: Sequence[int], actions: Sequence[int]) -> StepBatch:
        with single_thread(len(slots) < FEW_SLOTS):
            return self._decode(slots, actions)

    def _decode(self, slots: Sequence[int], actions: Sequence[int]) -> StepBatch:
        decoding = Decoding(self.grammar, ROWS, self.motions)
        results: dict[int, Decoded] = {}
        # Slots whose window is still in a row go first and stay there.
        held = {int(slot): row for row, slot in enumerate(self._resident)}
        action_of = dict(zip(slots, actions, strict=True))
        # Of the others those with the longest last step go first, so that few are left over at the end.
        waiting = deque(sorted((s for s in slots if s not in held), key=lambda s: -self._length[s]))
        for slot in slots:
            if slot in held:
                self._start(decoding, held[slot], slot, action_of[slot])
        free = decoding.slot[: len(self._resident)]
        while waiting or (free >= 0).any():
            for row in (free < 0).nonzero()[0]:
                if not waiting:
                    break
                slot = waiting.popleft()
                self._load(int(row), slot)
                self._start(decoding, int(row), slot, action_of[slot])
            hidden = self._forward(decoding)
            ended = (decoding.slot >= 0) & (decoding.token[:, 0] == END)
            for row in ended.nonzero()[0]:
                slot = int(decoding.slot[row])
                start = int(self.position[slot])
                self._commit(int(row), slot, start, start + int(decoding.count[row]))
                results[slot] = decoding.result(int(row))
                self._length[slot] = decoding.count[row]
                decoding.slot[row] = -1
            if (decoding.slot >= 0).any():
                recall, follow = partial(self._recall, decoding), partial(self._follow, decoding)
                decoding.advance(self.transformer, hidden, recall, follow, self.temperature)
        return self._finish(slots, [results[slot] for slot in slots])

    def _start(self, decoding: Decoding, row: int, slot: int, action: int) -> None:
        camera, time, seed = int(self.camera[slot]), int(self.time[slot]), int(self.seed[slot])
        decoding.start(row, slot, action, camera, self.codes[slot], self.anchor[slot], self.origin[slot], time, seed)

    def _forward(self, decoding: Decoding) -> Tensor:
        """Append the last token of every busy row; return hidden states (tile, d_model) of the first rows."""
        model, t = self.transformer, self.config.transformer
        busy = (decoding.slot >= 0).nonzero()[0]
        # Rows beyond the last busy one attend to nothing: no work for idle rows of the tile.
        used = int(busy[-1]) + 1
        tile = next(n for n in self._tiles if n >= used)
        rows = torch.from_numpy(decoding.token[:tile])
        live = decoding.slot[:tile] >= 0
        position = torch.from_numpy(np.where(live, self.position[decoding.slot[:tile]] + decoding.count[:tile] - 1, 0))
        rotary = rotary_embedding(rows, position, self.config)
        row_index = torch.from_numpy(busy)
        at = position[row_index] % t.window
        self._held[decoding.slot[busy], at.numpy()] = carried(decoding.token[busy], self.grammar.n_codes)
        empty = (self._place > position[:used, None])[:, None, None]  # (used, 1, 1, window)
        unseen = empty if empty.any() else None
        x = model.embed(rows)
        attended = torch.zeros(tile, t.n_heads, t.head_dim)
        for layer, block in enumerate(model.layers()):
            q, k, v = (torch.cat(block.project(x, rotary), dim=1) @ hadamard()).split(
                [t.n_heads, t.n_kv_heads, t.n_kv_heads], dim=1
            )
            self._window.stage(layer, row_index, at, torch.stack([k, v])[:, row_index].half().float())
            q = q[:used].unflatten(1, (t.n_kv_heads, -1))
            attended[:used] = attend(q, self._window.layer(layer, slice(used)), unseen).flatten(1, 2)
            x = x + block.out((attended @ hadamard()).flatten(1))
            x = x + block.feed_forward(x)
        hidden = model.norm(x)
        if model.ballistics is not None:
            motion = model.ballistics.motion(hidden)
            for row in busy:
                slot = int(decoding.slot[row])
                self._latest.add(slot, int(position[row]), decoding.token[row : row + 1], motion[row : row + 1])
        return hidden

    def _follow(self, decoding: Decoding, query: Tensor) -> Paths:
        """Compare the last tokens of all rows with the latest updates: see `decide.Follow`."""
        t, tile = self.config.transformer, len(query)
        slots = decoding.slot[:tile]
        used = int((slots >= 0).nonzero()[0][-1]) + 1
        token = decoding.token[:tile]
        position = np.where(slots >= 0, self.position[slots] + decoding.count[:tile] - 1, 0)
        rotary = rotary_embedding(torch.from_numpy(token), torch.from_numpy(position), self.config)
        query = (rotate(query, rotary[:, None]) @ hadamard()).unflatten(1, (t.n_kv_heads, -1))
        compared = torch.zeros(tile, t.n_heads, t.window)
        compared[:used] = scores(query[:used], self._window.layer(t.n_layers - 1, slice(used))).flatten(1, 2)
        return self._latest.paths(slots, token, position, compared)

    def _recall(self, decoding: Decoding, query: Tensor, update: np.ndarray) -> tuple[Tensor, Tensor]:
        """Compare the updates to come with the windows of their rows: see `decide.Recall`."""
        t, tile = self.config.transformer, len(query)
        used = int((decoding.slot[:tile] >= 0).nonzero()[0][-1]) + 1
        slots = decoding.slot[:used]
        position = np.zeros(tile, np.int64)
        position[:used] = np.where(slots >= 0, self.position[slots] + decoding.count[:used], 0)
        rotary = rotary_embedding(torch.from_numpy(update), torch.from_numpy(position), self.config)
        query = rotate(query, rotary[..., None, :, :]) @ hadamard()
        copied = torch.zeros(tile, t.window)
        copied[:used] = scores(query[:used, :, None], self._window.layer(t.n_layers - 1, slice(used))).sum(1)[:, 0]
        held = np.full((tile, t.window), -1, np.int64)
        held[:used] = self._held[slots]
        held[np.arange(tile), position % t.window] = -1  # what the update will overwrite has left its window
        return copied, torch.from_numpy(held)

    @torch.inference_mode()
    def _prefill(self, slot: int, tokens: np.ndarray) -> None:
        model, t = self.transformer, self.config.transformer
        row = self._row_for(slot)
        self._load(row, slot)
        start, size = int(self.position[slot]), len(tokens)
        rows = torch.from_numpy(tokens)
        position = torch.arange(start, start + size)
        rotary = rotary_embedding(rows, position, self.config)
        # Stream position of what each ring place holds before these tokens; negative: nothing.
        held_position = start - 1 - (start - 1 - self._place) % t.window
        key_position = torch.cat([held_position, position]) if start else position
        distance = position[:, None] - key_position
        unseen = (distance < 0) | (distance >= t.window) | (key_position < 0)
        at = position % t.window
        self._held[slot, at.numpy()] = carried(tokens, self.grammar.n_codes)
        group = t.n_heads // t.n_kv_heads
        staged = []
        x = model.embed(rows)
        for layer, block in enumerate(model.layers()):
            q, k, v = block.project(x, rotary)
            new = (torch.stack([k, v]) @ hadamard()).half().float().transpose(1, 2)  # (2, nkv, size, hd)
            # A first keyframe has no past to attend to.
            held = self._window.layer(layer, slice(row, row + 1)) if start else None
            q = (q @ hadamard()).transpose(0, 1).unflatten(0, (t.n_kv_heads, -1)).flatten(1, 2)
            seen = with_new(held, new[:, None])
            attended = attend(q[None], seen, unseen.repeat(group, 1))[0].unflatten(1, (group, -1)).flatten(0, 1)
            x = x + block.out((attended @ hadamard()).transpose(0, 1).flatten(1))
            x = x + block.feed_forward(x)
            staged.append(new)
        if model.ballistics is not None:
            self._latest.add(slot, start, tokens, model.ballistics.motion(model.norm(x)))
        self._window.values[:, :, row].index_copy_(3, at, torch.stack(staged, dim=1))
        self._commit(row, slot, start, start + size)

    def _save_context(self, slot: int) -> State:
        context = {name: array[slot].numpy().copy() for name, array in self.ring.arrays.items()}
        latest = {name: array[slot].copy() for name, array in self._latest.arrays.items()}
        return context | latest | {"held_codes": self._held[slot].copy()}

    def _load_context(self, slot: int, state: State) -> None:
        for name, array in self.ring.arrays.items():
            array[slot] = torch.from_numpy(np.asarray(state[name]))
        for name, remembered in self._latest.arrays.items():
            remembered[slot] = state[name]
        self._held[slot] = state["held_codes"]
        self._evict(slot)
