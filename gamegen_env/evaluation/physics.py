"""Does the game keep to laws? Rooms of `games/physics.py`, whose laws and true paths are known.

A room is played for CONTEXT true steps, then the model plays on alone under the true keys.
The body is found in its frames by its colour, which nothing else in the room has. Figures:

    lost            share of frames in which no body is found
    position_8/..   distance of the body from its true place, pixels, after so many steps
    acceleration    error of the downward acceleration in free flight, pixels per step^2,
                    from a parabola through the body's places; beside it the mean gravity
    penetration     share of frames with a body of which a fifth or more stands in something solid
    bounce          error of the direction after the first contact, degrees

`still` gives the same figures for the frozen frame, `pixel` for true places as drawn, to
whole pixels: what a perfect player would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gamegen_env.checkpoint import Checkpoint
from gamegen_env.codec import encode_clips
from gamegen_env.games.physics import PhysicsSource, Room
from gamegen_env.games.policies import Policy
from gamegen_env.world import World

CONTEXT = 8  # true steps before the model plays on: most bodies are then still on their way
HORIZON = 32
AT = (8, 16, 32)  # steps
NEAR = 90  # sum of the channels' distances within which a pixel has the body's colour
MIN_FLIGHT = 10  # steps in free flight that a parabola needs
TURN = 0.02  # change of velocity in one step, beyond gravity, that is a contact; pixels per step


@dataclass(frozen=True)
class Path:
    """One play of a room: T = CONTEXT + HORIZON steps."""

    room: Room
    frames: np.ndarray  # (T + 1, H, W, 3) uint8
    actions: np.ndarray  # (T + 1,) int64, tokens, the first meaningless
    place: np.ndarray  # (T + 1, 2) float64, the body's centre, x and y


def centre(room: Room) -> np.ndarray:
    return room.position + (room.side - 1) / 2


def walk(kind: str, count: int, seed: int, split: str = "heldout") -> list[Path]:
    """Play `count` rooms."""
    source = PhysicsSource(f"physics:{kind}", count, seed, split)
    policy = Policy(source, seed)
    frames, actions = [source.reset()], [np.zeros(count, np.int64)]
    places = [np.stack([centre(room) for room in source.rooms])]
    for _ in range(CONTEXT + HORIZON):
        actions.append(policy.act(frames[-1]))
        frames.append(source.step(actions[-1])[0])
        places.append(np.stack([centre(room) for room in source.rooms]))
    return [
        Path(room, np.stack([f[i] for f in frames]), np.stack(actions)[:, i], np.stack(places)[:, i])
        for i, room in enumerate(source.rooms)
    ]


def find_body(frame: np.ndarray, room: Room) -> tuple[np.ndarray, float]:
    """Return the centre (x, y) of what has the body's colour, NaN if less than a third of it is there,
    and the share of it that stands in something solid."""
    mine = np.abs(frame.astype(int) - room.colour).sum(-1) < NEAR
    if 3 * mine.sum() < room.body.sum():
        return np.full(2, np.nan), np.nan
    y, x = mine.nonzero()
    return np.array([np.median(x), np.median(y)]), float((mine & room.solid).sum() / mine.sum())


def contacts(path: Path) -> np.ndarray:
    """Return the steps after the context at which the true body touches something: (k,) int64, from 0."""
    velocity = np.diff(path.place, axis=0)
    turn = np.diff(velocity, axis=0) - (0, path.room.gravity)
    return np.flatnonzero((np.abs(turn[CONTEXT:]) > TURN).any(1))


def rollout(world: World, checkpoint: Checkpoint, paths: Sequence[Path]) -> np.ndarray:
    """Give the model the context and let it play on: (n, HORIZON, H, W, 3) uint8."""
    slots = range(len(paths))
    steps = []
    for path in paths:
        n = len(path.frames)
        stream = encode_clips(
            [path.frames], [path.actions], [np.zeros(n, np.float32)], [np.zeros(n, bool)],
            checkpoint.config, checkpoint.tokenizer, game="physics", fingerprint=checkpoint.fingerprint,
        )  # fmt: skip
        steps.append(list(stream.steps(0)))
    world.reset(slots, [path.frames[0] for path in paths], [1000 + slot for slot in slots])
    for t in range(CONTEXT):
        world.observe(slots, [s[t] for s in steps], np.stack([path.frames[t + 1] for path in paths]))
    played = [
        world.step(slots, [int(path.actions[t + 1]) for path in paths]).frames
        for t in range(CONTEXT, CONTEXT + HORIZON)
    ]
    return np.stack(played, axis=1)


def measure(paths: Sequence[Path], played: np.ndarray) -> dict[str, float]:
    """Return the figures for frames (n, HORIZON, H, W, 3), means over what can be measured."""
    found = [[find_body(frame, path.room) for frame in frames] for path, frames in zip(paths, played, strict=True)]
    place = np.array([[body for body, _ in row] for row in found])  # (n, HORIZON, 2)
    inside = np.array([[share for _, share in row] for row in found])
    truth = np.stack([path.place[CONTEXT + 1 :] for path in paths])
    lost = np.isnan(place[..., 0])
    figures = {"lost": float(lost.mean()), "penetration": float((inside[~lost] >= 0.2).mean())}
    distance = np.hypot(*np.moveaxis(place - truth, -1, 0))
    for h in AT:
        figures[f"position_{h}"] = float(np.nanmean(distance[:, h - 1]))
    fall, turn = [], []
    for i, path in enumerate(paths):
        touched = contacts(path)
        free = int(touched[0]) if len(touched) else HORIZON
        if path.room.gravity and free >= MIN_FLIGHT and not lost[i, :free].any():
            fitted = 2 * np.polyfit(np.arange(free), place[i, :free, 1], 2)[0]
            fall.append(abs(fitted - path.room.gravity))
        # Directions over four steps, if nothing else is touched meanwhile.
        after = slice(free + 1, free + 6)
        again = touched[touched > free + 1]  # one contact turns the velocity of two steps
        if len(touched) and free + 6 <= HORIZON and not (again <= free + 5).any() and not lost[i, after].any():
            turn.append(_angle(place[i, after], truth[i, after]))
    figures["acceleration"] = float(np.mean(fall)) if fall else float("nan")
    figures["bounce"] = float(np.nanmean(turn)) if turn else float("nan")
    return figures


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees between the directions of two paths (n, 2); NaN if the true one stands still."""
    (ax, ay), (bx, by) = a[-1] - a[0], b[-1] - b[0]
    if np.hypot(bx, by) < 1:
        return float("nan")
    return float(np.degrees(np.abs(np.angle(np.exp(1j * (np.arctan2(ay, ax) - np.arctan2(by, bx)))))))


def evaluate_physics(world: World, checkpoint: Checkpoint, kind: str, count: int) -> dict[str, dict[str, float]]:
    """Measure one kind of room: the model, the frozen frame, and true places to whole pixels."""
    paths = walk(kind, count, seed=0)
    true = np.stack([path.frames[CONTEXT + 1 :] for path in paths])
    frozen = np.broadcast_to(np.stack([path.frames[CONTEXT] for path in paths])[:, None], true.shape)
    played = rollout(world, checkpoint, paths)
    return {"model": measure(paths, played), "still": measure(paths, frozen), "pixel": measure(paths, true)}
