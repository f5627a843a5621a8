"""Rooms of our own with known laws and real pixels: what the physics figures are measured on.

    physics:fall     a ball thrown in a closed room: gravity, floors that give back a part
    physics:bounce   a ball between walls, no gravity, nothing lost
    physics:jump     a square that walks and jumps on ledges under the keys

Every play of every episode has its own room, colours, size, gravity and restitution. A body
follows x + v t + a t^2 / 2 between contacts, advanced in SUBSTEPS; at a contact the part of
its velocity that points into the wall turns round, times the restitution. It is drawn at
the nearest whole pixel, as old consoles do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gamegen_env.actions import token
from gamegen_env.games.base import FRAME_SIZE, SPLITS, GameSource, Step, check_tokens

EPISODE = 96  # steps
SUBSTEPS = 16
WALK, LEAP = 1.5, 3.2  # pixels per step
_NOOP, _LEFT, _RIGHT = (token(name) for name in ("NOOP", "LEFT", "RIGHT"))
_UP, _UPLEFT, _UPRIGHT = (token(name) for name in ("UP", "UPLEFT", "UPRIGHT"))
TOKENS = {"fall": (_NOOP,), "bounce": (_NOOP,), "jump": (_NOOP, _LEFT, _RIGHT, _UP, _UPLEFT, _UPRIGHT)}


@dataclass
class Room:
    """One episode. Lengths in pixels, times in steps, y down.

    Attributes:
        solid: (64, 64) bool. picture: (64, 64, 3) uint8, the room without the body.
        body: (s, s) bool, its shape; colour: (3,) uint8, like nothing else in the room.
        position: (2,) float64, x and y of its top left corner; velocity: (2,).
        gravity: added to the velocity's y per step; restitution: 0..1.
        grounded: whether something solid is just below.
    """

    solid: np.ndarray
    picture: np.ndarray
    body: np.ndarray
    colour: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    gravity: float
    restitution: float
    grounded: bool = False
    age: int = 0

    @property
    def side(self) -> int:
        return len(self.body)

    def corner(self) -> np.ndarray:
        """The pixel (x, y) of the top left corner as drawn."""
        return np.floor(self.position + 0.5).astype(int)

    def draw(self) -> np.ndarray:
        frame = self.picture.copy()
        x, y = self.corner()
        frame[y : y + self.side, x : x + self.side][self.body] = self.colour
        return frame

    def blocked(self, position: np.ndarray) -> bool:
        """Tell whether a body there would stand in something solid."""
        low = np.floor(position + 1e-9).astype(int)
        high = np.ceil(position + self.side - 1e-9).astype(int)
        return bool(self.solid[low[1] : high[1], low[0] : high[0]].any())

    def advance(self) -> None:
        """Move the body by one step."""
        dt = 1 / SUBSTEPS
        self.grounded = False
        for _ in range(SUBSTEPS):
            move = self.velocity * dt + (0, self.gravity * dt * dt / 2)
            self.velocity[1] += self.gravity * dt
            for axis in (0, 1):
                there = self.position.copy()
                there[axis] += move[axis]
                if not self.blocked(there):
                    self.position = there
                    continue
                falling = axis == 1 and self.velocity[1] > 0
                self.velocity[axis] *= -self.restitution
                if falling and abs(self.velocity[1]) <= 4 * self.gravity * dt:
                    self.velocity[1], self.grounded = 0.0, True  # come to rest
        self.age += 1


def _texture(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A tile of 4x4 pixels around a colour, repeated over the frame; half of them are flat."""
    grain = rng.integers(-14, 15, (4, 4, 1)) if rng.random() < 0.5 else np.zeros((4, 4, 1), int)
    tile = np.clip(colour + grain, 0, 255).astype(np.uint8)
    return np.tile(tile, (FRAME_SIZE // 4, FRAME_SIZE // 4, 1))


def furnish(kind: str, rng: np.random.Generator) -> Room:
    """Build a room of a kind at random."""
    solid = np.zeros((FRAME_SIZE, FRAME_SIZE), bool)
    wall = 4 * int(rng.integers(1, 3))
    solid[:wall], solid[-wall:], solid[:, :wall], solid[:, -wall:] = True, True, True, True
    blocks = {"fall": rng.integers(0, 3), "bounce": rng.integers(0, 2), "jump": rng.integers(3, 6)}[kind]
    for _ in range(int(blocks)):
        width, height = 4 * rng.integers(2, 5), 4 * (1 if kind == "jump" else rng.integers(1, 3))
        x, y = 4 * rng.integers(2, 12), 4 * rng.integers(5, 14)
        solid[y : y + height, x : x + width] = True
    while True:
        colours = rng.integers(0, 256, (3, 3))
        if min(np.abs(colours[i] - colours[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2))) > 180:
            break
    picture = np.where(solid[..., None], _texture(rng, colours[1]), _texture(rng, colours[0]))
    side = int(rng.integers(4, 8))
    centre = np.abs(np.arange(side) - (side - 1) / 2)
    round_body = np.hypot(*np.meshgrid(centre, centre)) <= side / 2
    body = np.ones((side, side), bool) if kind == "jump" else round_body
    speed = {"fall": (2.5, 1.5), "bounce": (2.5, 2.5), "jump": (0.0, 0.0)}[kind]
    room = Room(
        solid, picture, body, colours[2].astype(np.uint8),
        position=np.zeros(2), velocity=rng.uniform(-1, 1, 2) * speed,
        gravity=0.0 if kind == "bounce" else float(rng.uniform(0.1, 0.35)),
        restitution={"fall": float(rng.choice([0.0, 0.5, 0.8])), "bounce": 1.0, "jump": 0.0}[kind],
    )  # fmt: skip
    free = (0, FRAME_SIZE // 2) if kind == "fall" else (0, FRAME_SIZE)
    while True:
        room.position = np.array([rng.integers(0, FRAME_SIZE - side), rng.integers(*free)], float)
        if not room.blocked(room.position):
            return room


class PhysicsSource(GameSource):
    """Plays of one kind of room."""

    licence = "MIT (this project)"

    def __init__(self, game: str, num_envs: int, seed: int, split: str) -> None:
        kind = game.partition(":")[2]
        if kind not in TOKENS:
            raise ValueError(f"game: expected a kind of {sorted(TOKENS)}, got {kind!r}")
        super().__init__(game, num_envs, TOKENS[kind], {}, ())
        self._kind = kind
        sequences = np.random.SeedSequence((seed, SPLITS.index(split))).spawn(num_envs)  # splits never share a room
        self._rng = [np.random.default_rng(sequence) for sequence in sequences]
        self.rooms = [furnish(kind, rng) for rng in self._rng]
        self._over = np.zeros(num_envs, bool)

    def reset(self) -> np.ndarray:
        self.rooms = [furnish(self._kind, rng) for rng in self._rng]
        self._over[:] = False
        return np.stack([room.draw() for room in self.rooms])

    def step(self, action_tokens: np.ndarray) -> Step:
        tokens = check_tokens(action_tokens, self.num_envs)
        for i, room in enumerate(self.rooms):
            if self._over[i]:
                self.rooms[i] = furnish(self._kind, self._rng[i])
                continue
            if self._kind == "jump":
                _press(room, int(tokens[i]))
            room.advance()
        self._over = np.array([room.age >= EPISODE for room in self.rooms])
        frames = np.stack([room.draw() for room in self.rooms])
        return frames, np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool), self._over.copy()

    def close(self) -> None:
        pass


def _press(room: Room, key: int) -> None:
    room.velocity[0] = WALK * ((key in (_RIGHT, _UPRIGHT)) - (key in (_LEFT, _UPLEFT)))
    if room.grounded and key in (_UP, _UPLEFT, _UPRIGHT):
        room.velocity[1] = -LEAP
