"""Recordings to streams and back: streams of whole clips, on disk too, encoded and decoded.

The encoder's single steps are in `closed_loop.py`; what a stream may say is in `stream.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gamegen_env.canvas import Canvas, CellCoder
from gamegen_env.closed_loop import ClosedLoop, Updates
from gamegen_env.config import FORMAT_VERSION, N_REWARD_CLASSES, ModelConfig, StreamConfig, from_dict
from gamegen_env.files import write_atomic
from gamegen_env.stream import Carried, Step

_META = "stream"  # the header key, as in recorded shards

# array -> (dtype, counted in)
_ARRAYS = {
    "clip_ptr": ("int64", "clips + 1"), "codes": ("uint16", "clips"), "action": ("uint8", "steps"),
    "scroll": ("int8", "steps"), "reward_class": ("uint8", "steps"), "done": ("uint8", "steps"),
    "end_flag": ("uint8", "steps"), "update_ptr": ("int64", "steps + 1"),
    "update_cell": ("uint16", "updates"), "update_code": ("uint16", "updates"), "update_flag": ("uint8", "updates"),
    "update_motion": ("int16", "updates"),
    "carried_ptr": ("int64", "steps + 1"),
    "carried_cell": ("uint16", "carried"), "carried_code": ("uint16", "carried"),
    "carried_motion": ("int16", "carried"),
}  # fmt: skip


def _begins(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _tails(settings: StreamConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of what an array's entries are, where they are no numbers."""
    return {"codes": (settings.n_cells,), "scroll": (2,)}


class Player(Protocol):
    """Who takes some of the steps of recorded clips instead of the encoder; see `training/selfplay.py`."""

    def start(self, slots: np.ndarray, clips: np.ndarray, codes: np.ndarray) -> None: ...

    def turns(self, clips: np.ndarray, times: np.ndarray) -> np.ndarray: ...

    def play(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, Any]: ...

    def carry(self, slots: np.ndarray, updates: Updates) -> None: ...

    def watch(self, slots: np.ndarray, steps: Sequence[Step]) -> None: ...


@dataclass(frozen=True)
class Stream:
    """The steps of many clips of one game, laid end to end; the view of each starts at (0, 0).

    Attributes:
        clip_ptr: (clips + 1,) int64, clip i has steps clip_ptr[i]:clip_ptr[i + 1].
        codes: (clips, n_cells) uint16, the map before a clip's first step.
        action, reward_class, done: (steps,) uint8. scroll: (steps, 2) int8, (dx, dy).
        end_flag: (steps,) uint8, bits AFTER_DROP (END came too early: updates before it were dropped) and NO_OUTCOME
            (the reward and termination are not the game's).
        update_ptr: (steps + 1,) int64, step i has updates update_ptr[i]:update_ptr[i + 1].
        update_cell, update_code: (updates,) uint16.
        update_flag: (updates,) uint8, bits WRONG_CODE (the code is an error) and AFTER_DROP (the
            choice of the cell is: one that should have come before it was dropped).
        update_motion: (updates,) int16, the motion by which the picture moves there, -1 where it is repainted.
        carried_ptr, carried_cell, carried_code, carried_motion: likewise, what things carry along (`things.py`): no
            tokens, but cells of the map that change.
        game: where the clips come from. tokenizer: fingerprint of what made the codes.
        settings, cell_size: the tile map's. error_rate: share of updates that are errors.
    """

    clip_ptr: np.ndarray
    codes: np.ndarray
    action: np.ndarray
    scroll: np.ndarray
    reward_class: np.ndarray
    done: np.ndarray
    end_flag: np.ndarray
    update_ptr: np.ndarray
    update_cell: np.ndarray
    update_code: np.ndarray
    update_flag: np.ndarray
    update_motion: np.ndarray
    carried_ptr: np.ndarray
    carried_cell: np.ndarray
    carried_code: np.ndarray
    carried_motion: np.ndarray
    game: str
    tokenizer: str
    settings: StreamConfig
    cell_size: int
    error_rate: float

    @classmethod
    def empty(cls, *, game: str, tokenizer: str, settings: StreamConfig, cell_size: int, error_rate: float) -> Stream:
        """Return a stream of no clips."""
        tails, one = _tails(settings), {"clips + 1": 1, "steps + 1": 1}
        arrays: dict[str, Any] = {
            name: np.zeros((one.get(counted, 0), *tails.get(name, ())), dtype)
            for name, (dtype, counted) in _ARRAYS.items()
        }
        return cls(
            game=game, tokenizer=tokenizer, settings=settings, cell_size=cell_size, error_rate=error_rate, **arrays
        )

    @property
    def n_clips(self) -> int:
        return len(self.codes)

    def only(self, clip: int) -> Stream:
        """Return a clip alone; its arrays are views of these."""
        steps = slice(int(self.clip_ptr[clip]), int(self.clip_ptr[clip + 1]))
        ptr, carried = (p[steps.start : steps.stop + 1] for p in (self.update_ptr, self.carried_ptr))
        part = {
            "steps": steps, "updates": slice(int(ptr[0]), int(ptr[-1])), "clips": slice(clip, clip + 1),
            "carried": slice(int(carried[0]), int(carried[-1])),
        }  # fmt: skip
        arrays: dict[str, Any] = {
            name: getattr(self, name)[part[counted]] for name, (_, counted) in _ARRAYS.items() if counted in part
        }
        arrays["clip_ptr"] = np.array([0, steps.stop - steps.start])
        return replace(self, update_ptr=ptr - ptr[0], carried_ptr=carried - carried[0], **arrays)

    def keep(self, clips: np.ndarray) -> Stream:
        """Return some of the clips. Args: clips: (n_clips,) bool."""
        steps = np.repeat(clips, np.diff(self.clip_ptr))
        kept = {"clips": clips, "steps": steps}
        arrays: dict[str, Any] = {"clip_ptr": _begins(np.diff(self.clip_ptr)[clips])}
        for counted, name in (("updates", "update_ptr"), ("carried", "carried_ptr")):
            counts = np.diff(getattr(self, name))
            kept[counted] = np.repeat(steps, counts)
            arrays[name] = _begins(counts[steps])
        for name, (_, counted) in _ARRAYS.items():
            if counted in kept:
                arrays[name] = getattr(self, name)[kept[counted]]
        return replace(self, **arrays)

    def steps(self, clip: int) -> Iterator[Step]:
        """Yield the steps of a clip."""
        for i in range(int(self.clip_ptr[clip]), int(self.clip_ptr[clip + 1])):
            updates = slice(int(self.update_ptr[i]), int(self.update_ptr[i + 1]))
            along = slice(int(self.carried_ptr[i]), int(self.carried_ptr[i + 1]))
            yield Step(
                int(self.action[i]), (int(self.scroll[i, 0]), int(self.scroll[i, 1])),
                self.update_cell[updates].astype(np.int32), self.update_code[updates].astype(np.int32),
                int(self.reward_class[i]), bool(self.done[i]), self.update_motion[updates].astype(np.int32),
                _carried(self, along),
            )  # fmt: skip

    def map_at(self, clip: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the map (n_cells,) int32 and origin (2,) int32 after `step` steps of a clip."""
        first = int(self.clip_ptr[clip])
        _, cells, new = self.changes(first, first + step)
        codes = self.codes[clip].astype(np.int32)
        codes[cells] = new  # of equal indices the last one stays
        moved = self.scroll[first : first + step].sum(0, dtype=np.int32)
        return codes, moved % np.int32(self.settings.map_cells * self.cell_size)

    def changes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what changes in the maps in steps [start, stop), told or carried along.

        Returns: the steps (k,) int64, ascending from 0, their cells (k,) and new codes (k,) int64; a step's cells are
                 all different, and those that it updates itself come first.
        """
        parts = []
        for ptr, cell, code in (
            (self.update_ptr, self.update_cell, self.update_code),
            (self.carried_ptr, self.carried_cell, self.carried_code),
        ):
            part = slice(int(ptr[start]), int(ptr[stop]))
            step = np.repeat(np.arange(stop - start), np.diff(ptr[start : stop + 1]))
            parts.append((step, cell[part].astype(np.int64), code[part].astype(np.int64)))
        step, cells, codes = (np.concatenate(x) for x in zip(*parts, strict=True))
        order = np.argsort(step, kind="stable")
        return step[order], cells[order], codes[order]

    def save(self, path: str | Path) -> None:
        """Write the stream, all of it or nothing. Raises: OSError if the file cannot be written."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        meta = {
            "format_version": FORMAT_VERSION, "game": self.game, "tokenizer": self.tokenizer,
            "settings": asdict(self.settings), "cell_size": self.cell_size, "error_rate": self.error_rate,
        }  # fmt: skip
        write_atomic(Path(path), save(arrays, {_META: json.dumps(meta, sort_keys=True)}))

    @classmethod
    def load(cls, path: str | Path) -> Stream:
        """Read a stream and check it.

        Raises: FileNotFoundError; ValueError naming the file, what was expected and what was found.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
                meta = json.loads((file.metadata() or {}).get(_META, "{}"))
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a whole safetensors file, got {error}") from None
        version = meta.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"{path}: expected a stream of format_version {FORMAT_VERSION}, got {version!r}")
        if set(arrays) != set(_ARRAYS):
            raise ValueError(f"{path}: expected arrays {sorted(_ARRAYS)}, got {sorted(arrays)}")
        if set(meta) != {"game", "tokenizer", "settings", "cell_size", "error_rate"}:
            raise ValueError(f"{path}: expected a stream's description in the header, got {sorted(meta)}")
        meta["settings"] = from_dict(StreamConfig, meta["settings"], f"{path}: settings")
        stream = cls(**arrays, **meta)
        stream._check(str(path))
        return stream

    def _check(self, where: str) -> None:
        n_clips, n_steps, n_updates = len(self.codes), len(self.action), len(self.update_cell)
        counts = {"clips": n_clips, "clips + 1": n_clips + 1, "steps": n_steps, "steps + 1": n_steps + 1,
                  "updates": n_updates, "carried": len(self.carried_cell)}  # fmt: skip
        tails = _tails(self.settings)
        for name, (dtype, counted) in _ARRAYS.items():
            array, shape = getattr(self, name), (counts[counted], *tails.get(name, ()))
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{where}: {name}: expected {dtype} {shape}, got {array.dtype} {array.shape}")
        totals = {"clip_ptr": n_steps, "update_ptr": n_updates, "carried_ptr": counts["carried"]}
        for name, total in totals.items():
            ptr = getattr(self, name)
            if ptr[0] != 0 or ptr[-1] != total or (np.diff(ptr) < 0).any():
                raise ValueError(f"{where}: {name}: expected to rise from 0 to {total}, got {ptr[0]}..{ptr[-1]}")
        limits = {
            "update_cell": self.settings.n_cells, "reward_class": N_REWARD_CLASSES, "done": 2,
            "update_motion": max(1, self.settings.n_motions), "carried_cell": self.settings.n_cells,
            "carried_motion": max(1, self.settings.n_motions),
        }  # fmt: skip
        for name, limit in limits.items():
            if (getattr(self, name) >= limit).any():
                raise ValueError(f"{where}: {name}: expected 0..{limit - 1}, got {getattr(self, name).max()}")
        if (np.abs(self.scroll.astype(np.int32)) > self.settings.max_scroll).any():
            raise ValueError(f"{where}: scroll: expected at most {self.settings.max_scroll} pixels per axis")


def encode_clips(
    frames: Sequence[np.ndarray],
    actions: Sequence[np.ndarray],
    rewards: Sequence[np.ndarray],
    terminated: Sequence[np.ndarray],
    config: ModelConfig,
    tokenizer: CellCoder,
    *,
    game: str,
    fingerprint: str,
    num_slots: int = 64,
    error_rate: float = 0.0,
    seed: int = 0,
    player: Player | None = None,
) -> Stream:
    """Turn recorded clips of one game into a stream.

    Args:    frames: per clip (T, H, W, 3) uint8; actions, rewards, terminated: per clip (T,), what led
             to each frame: entry 0, before the clip, is ignored. game, fingerprint: kept with the stream.
             num_slots: clips encoded side by side; the result does not depend on it.
             error_rate: share of updates to get wrong; seed: which ones.
             player: plays some of the steps, in as many slots.
    Raises:  ValueError naming the clip that has another shape, dtype, length or range.
    """
    length = _check_clips(frames, actions, rewards, terminated, config)
    loop = ClosedLoop(config, tokenizer, num_slots, error_rate, seed)
    codes = np.zeros((len(frames), config.stream.n_cells), np.uint16)
    clip, time = np.full(num_slots, -1), np.zeros(num_slots, np.int64)
    started, parts, places = 0, [], []
    while True:
        done = (clip < 0) | (time + 1 >= length[clip])
        free = done.nonzero()[0][: len(frames) - started]
        clip[done], time[done] = -1, 0
        if len(free):
            clip[free] = np.arange(started, started + len(free))
            started += len(free)
            loop.start(free, np.stack([frames[i][0] for i in clip[free]]))
            codes[clip[free]] = loop.canvas.codes[free]
            if player is not None:
                player.start(free, clip[free], loop.canvas.codes[free])
        slots = ((clip >= 0) & (length[clip] > 1)).nonzero()[0]
        if not len(slots):  # all clips are done, or those just started have one frame only
            if started == len(frames):
                break
            continue
        time[slots] += 1
        if player is not None:
            turn = slots[player.turns(clip[slots], time[slots])]
            if len(turn):
                keys = np.array([actions[i][t] for i, t in zip(clip[turn], time[turn], strict=True)])
                holds, played = player.play(turn, keys)
                row = np.repeat(holds, np.diff(played.ptr))
                ptr = np.concatenate([[0], np.cumsum(np.diff(played.ptr)[holds])])
                parts.append(loop.accept(turn[holds], ptr, played.cells[row], played.codes[row], played.motions[row]))
                player.carry(turn[holds], parts[-1])
                places.append(np.stack([clip[turn[holds]], time[turn[holds]]]))
                slots = np.setdiff1d(slots, turn[holds])
                if not len(slots):
                    continue
        after = [frames[i][t] for i, t in zip(clip[slots], time[slots], strict=True)]
        parts.append(loop.step(slots, np.stack(after), clip[slots], time[slots]))
        places.append(np.stack([clip[slots], time[slots]]))
        if player is not None:
            seen = zip(clip[slots], time[slots], strict=True)
            player.watch(slots, [_as_step(parts[-1], k, actions[i][t], rewards[i][t], terminated[i][t])
                                 for k, (i, t) in enumerate(seen)])  # fmt: skip
    return _gather(parts, places, length, codes, actions, rewards, terminated, {
        "game": game, "tokenizer": fingerprint, "settings": config.stream,
        "cell_size": config.tokenizer.cell_size, "error_rate": error_rate,
    })  # fmt: skip


def _as_step(updates: Updates, k: int, action: int, reward: float, terminated: bool) -> Step:
    """The k-th slot's step."""
    mine = slice(int(updates.ptr[k]), int(updates.ptr[k + 1]))
    dx, dy = updates.scroll[k].tolist()
    cells, codes = updates.cell[mine].astype(np.int32), updates.code[mine].astype(np.int32)
    motions = updates.motion[mine].astype(np.int32)
    along = slice(int(updates.carried_ptr[k]), int(updates.carried_ptr[k + 1]))
    return Step(
        int(action), (dx, dy), cells, codes, int(np.sign(reward)) + 1, bool(terminated), motions,
        _carried(updates, along),
    )  # fmt: skip


def _carried(source: Stream | Updates, part: slice) -> Carried:
    arrays = source.carried_cell, source.carried_code, source.carried_motion
    return Carried(*(array[part].astype(np.int32) for array in arrays))


def _check_clips(
    frames: Sequence[np.ndarray], actions: Sequence[np.ndarray], rewards: Sequence[np.ndarray],
    terminated: Sequence[np.ndarray], config: ModelConfig,
) -> np.ndarray:  # fmt: skip
    """Return the clips' lengths in frames: (clips,) int64."""
    if not len(frames):
        raise ValueError("frames: expected at least one clip, got none")
    for name, values in (("actions", actions), ("rewards", rewards), ("terminated", terminated)):
        if len(values) != len(frames):
            raise ValueError(f"{name}: expected one entry per clip, {len(frames)}, got {len(values)}")
    side, n_actions = config.frame_size, config.transformer.n_actions
    for i, clip in enumerate(zip(frames, actions, rewards, terminated, strict=True)):
        pictures, action, reward, end = (np.asarray(x) for x in clip)
        t = len(pictures)
        if pictures.dtype != np.uint8 or pictures.shape != (t, side, side, 3) or not t:
            raise ValueError(
                f"frames[{i}]: expected uint8 (T >= 1, {side}, {side}, 3), got {pictures.dtype} {pictures.shape}"
            )
        for name, array in (("actions", action), ("rewards", reward), ("terminated", end)):
            if array.shape != (t,):
                raise ValueError(f"{name}[{i}]: expected one value per frame, ({t},), got {array.shape}")
        if not ((action >= 0) & (action < n_actions)).all():
            raise ValueError(f"actions[{i}]: expected 0..{n_actions - 1}, got {action.min()}..{action.max()}")
        if not np.isfinite(reward).all():
            raise ValueError(f"rewards[{i}]: expected finite numbers, got {reward[~np.isfinite(reward)][0]}")
    return np.array([len(f) for f in frames], np.int64)


def _gather(
    parts: list[Updates], places: list[np.ndarray], length: np.ndarray, codes: np.ndarray,
    actions: Sequence[np.ndarray], rewards: Sequence[np.ndarray], terminated: Sequence[np.ndarray],
    meta: dict[str, Any],
) -> Stream:  # fmt: skip
    """Bring the steps from the order of encoding into the order of clips."""

    def join(arrays: Sequence[np.ndarray], dtype: str, shape: tuple[int, ...] = (0,)) -> np.ndarray:
        return np.concatenate([np.zeros(shape), *arrays]).astype(dtype)

    clip, time = np.concatenate([np.zeros((2, 0), np.int64), *places], axis=1)
    order = np.lexsort((time, clip))

    def ragged(ptrs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The ptr of the steps in the order of clips, and where what it points to comes from."""
        count = join([np.diff(p) for p in ptrs], "int64")
        begin = np.cumsum(count) - count
        ptr = _begins(count[order])
        return ptr, np.repeat(begin[order] - ptr[:-1], count[order]) + np.arange(ptr[-1])

    update_ptr, source = ragged([p.ptr for p in parts])
    carried_ptr, along = ragged([p.carried_ptr for p in parts])
    return Stream(
        clip_ptr=_begins(length - 1),
        codes=codes,
        action=join([a[1:] for a in actions], "uint8"),
        scroll=join([p.scroll for p in parts], "int8", (0, 2))[order],
        reward_class=join([np.sign(r[1:]) + 1 for r in rewards], "uint8"),
        done=join([t[1:] for t in terminated], "uint8"),
        end_flag=join([p.end_flag for p in parts], "uint8")[order],
        update_ptr=update_ptr,
        update_cell=join([p.cell for p in parts], "uint16")[source],
        update_code=join([p.code for p in parts], "uint16")[source],
        update_flag=join([p.flag for p in parts], "uint8")[source],
        update_motion=join([p.motion for p in parts], "int16")[source],
        carried_ptr=carried_ptr,
        carried_cell=join([p.carried_cell for p in parts], "uint16")[along],
        carried_code=join([p.carried_code for p in parts], "uint16")[along],
        carried_motion=join([p.carried_motion for p in parts], "int16")[along],
        **meta,
    )


def decode_stream(
    stream: Stream, clip: int, frame: np.ndarray, config: ModelConfig, tokenizer: CellCoder
) -> np.ndarray:
    """Play a clip of a stream from its first picture (H, W, 3) uint8: (steps + 1, H, W, 3) uint8."""
    canvas, slot = Canvas(config, tokenizer, 1), np.zeros(1, np.int64)
    canvas.reset(slot, frame[None])
    shown = [canvas.view(slot)]
    for step in stream.steps(clip):
        scroll, ptr = np.array([step.scroll]), np.array([0, len(step.cells)])
        if step.motions is None or step.carried is None:
            canvas.apply(slot, scroll, ptr, step.cells, step.codes, step.motions)
        else:
            along = canvas.carried(slot, scroll, ptr, step.cells, step.motions)
            canvas.apply(slot, scroll, ptr, step.cells, step.codes, step.motions)
            canvas.carry(slot, along, step.carried.codes)
        shown.append(canvas.view(slot))
    return np.concatenate(shown)
