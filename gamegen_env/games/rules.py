"""The rules of an invented game: what keys move, what moves by itself, what touching does.

Lengths are pixels, times are steps, y points down. Equal seeds and keys give equal frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gamegen_env.actions import BUTTONS, N_DIRECTIONS, OFFSETS, token
from gamegen_env.games.artwork import Sprite
from gamegen_env.games.base import FRAME_SIZE

MAX_FALL = 5.0  # pixels per step
_FIRE = BUTTONS.index("FIRE")


@dataclass
class Thing:
    """Something that moves or lies about.

    Attributes:
        look: its picture.
        position: (2,) float64, x and y of its top left corner; velocity: (2,), per step.
        manner: "still", "bounce", "fall", "pass", "lane" (as pass, always in its row), "hunt", "wander" or "shot".
        touch: what meeting the player does: "take" (+1), "harm" (-1, the end), "deflect" or "".
    """

    look: Sprite
    position: np.ndarray
    velocity: np.ndarray
    manner: str
    touch: str
    gone: bool = False

    def meets(self, other: Thing) -> bool:
        """Tell whether two boxes overlap."""
        apart = np.abs((self.position + self.look.size / 2) - (other.position + other.look.size / 2))
        return bool((apart < (self.look.size + other.look.size) / 2).all())


@dataclass
class Game:
    """One episode.

    Attributes:
        solid: (h, w) bool, per pixel. picture: (h, w, 3) uint8, the level without things.
        tile: pixels; levels are built of them.
        player: what the keys move; control: "walk", "hop", "slide", "drift", "leap" or "flap".
        axes: (2,) bool, along which the keys move the player. diagonal: whether both at once.
        speed: of the player; gravity, leap: per step, for those who fall.
        armed: whether FIRE shoots; aim: where to, (2,), or None for where the player looks.
        shot: the picture of a shot. refill: whether what is taken comes back elsewhere.
    """

    rng: np.random.Generator
    solid: np.ndarray
    picture: np.ndarray
    tile: int
    player: Thing
    things: list[Thing]
    control: str
    axes: np.ndarray
    diagonal: bool
    speed: float
    gravity: float
    leap: float
    armed: bool
    aim: np.ndarray | None
    shot: Sprite
    refill: bool
    facing: np.ndarray = field(default_factory=lambda: np.array([1.0, 0.0]))
    grounded: bool = False
    age: int = 0

    @property
    def span(self) -> np.ndarray:
        """Width and height of the world."""
        return np.array(self.solid.shape[::-1])

    def blocked(self, thing: Thing, position: np.ndarray) -> bool:
        """Tell whether a thing there would leave the world or stand in something solid."""
        low = np.floor(position + 1e-9).astype(int)
        high = np.ceil(position + thing.look.size - 1e-9).astype(int)
        if (low < 0).any() or (high > self.span).any():
            return True
        return bool(self.solid[low[1] : high[1], low[0] : high[0]].any())

    def free(self, thing: Thing, area: slice = slice(None)) -> np.ndarray | None:
        """Find a place for a thing, in some of the world's rows; None if chance does not find one."""
        rows = np.arange(self.solid.shape[0])[area]
        for _ in range(60):
            x = self.rng.integers(0, self.span[0] - thing.look.size[0] + 1)
            place = np.array([x, self.rng.choice(rows)], float) // self.tile * self.tile
            if not self.blocked(thing, place) and (thing is self.player or not thing.meets(self.player)):
                return place
        return None

    def move(self, thing: Thing, way: np.ndarray) -> np.ndarray:
        """Move a thing as far as walls let it, one pixel at a time; return per axis whether it was stopped."""
        stopped = np.zeros(2, bool)
        for axis in (0, 1):
            left = float(way[axis])
            while left and not stopped[axis]:
                part = np.clip(left, -1, 1)
                there = thing.position.copy()
                there[axis] += part
                if self.blocked(thing, there):
                    near = np.ceil if part > 0 else np.floor
                    there[axis] = near(thing.position[axis])  # close the gap that a fraction leaves
                    if not self.blocked(thing, there):
                        thing.position = there
                    stopped[axis] = True
                else:
                    thing.position, left = there, left - part
        return stopped

    def step(self, key: int) -> tuple[float, bool]:
        """Advance by one key: reward, and whether the game is over."""
        button, direction = divmod(key, N_DIRECTIONS)
        way = np.array(OFFSETS[direction], float) * self.axes
        if not self.diagonal and way.all():
            way[1] = 0.0
        if way.any() and self.control not in ("leap", "flap"):
            self.facing = way.copy()
        elif way[0]:
            self.facing = np.array([way[0], 0.0])
        self._press(way)
        if button == _FIRE and self.armed and not any(t.manner == "shot" for t in self.things):
            self._fire()
        reward, over = 0.0, False
        for thing in self.things:
            self._advance(thing)
        for thing in self.things:
            if not thing.gone and thing.touch and thing.meets(self.player):
                reward, over = self._touch(thing, reward, over)
        for shot in [t for t in self.things if t.manner == "shot" and not t.gone]:
            for thing in self.things:
                if thing.touch in ("harm", "take") and not thing.gone and shot.meets(thing):
                    shot.gone = True
                    reward += 1.0
                    self._away(thing)
                    break
        self.things = [t for t in self.things if not t.gone]
        self.age += 1
        return float(np.clip(reward, -1, 1)), over

    def _press(self, way: np.ndarray) -> None:
        player, velocity = self.player, self.player.velocity
        if self.control == "drift":
            velocity += way * self.speed / 4
            velocity *= 0.93
        elif self.control in ("leap", "flap"):
            velocity[0] = way[0] * self.speed
            if way[1] < 0 and (self.grounded or self.control == "flap"):
                velocity[1] = -self.leap
            velocity[1] = min(velocity[1] + self.gravity, MAX_FALL)
        else:
            velocity[:] = way * self.speed
        fell = velocity[1] > 0
        stopped = self.move(player, velocity)
        self.grounded = bool(stopped[1] and fell)
        velocity[stopped] = 0.0

    def _fire(self) -> None:
        way = self.facing if self.aim is None else self.aim
        middle = self.player.position + (self.player.look.size - self.shot.size) / 2
        start = middle + way * (self.player.look.size + self.shot.size) / 2
        self.things.append(Thing(self.shot, np.round(start), way * 4.0, "shot", ""))

    def _advance(self, thing: Thing) -> None:
        if thing.manner == "still":
            return
        if thing.manner == "hunt":
            gap = self.player.position - thing.position
            axis = int(np.abs(gap[1]) > np.abs(gap[0]))
            pace = float(np.abs(thing.velocity).max())
            thing.velocity[:] = 0.0
            thing.velocity[axis] = np.sign(gap[axis]) * min(pace, max(abs(gap[axis]), 0.25))
        elif thing.manner == "wander" and self.rng.random() < 0.08:
            thing.velocity = thing.velocity[::-1] * self.rng.choice((-1, 1))
        if thing.manner in ("fall", "pass", "lane"):  # through everything, and in again on the other side
            thing.position += thing.velocity
            ahead = np.sign(thing.velocity)
            if ((ahead < 0) & (thing.position < -thing.look.size)).any() or (
                (ahead > 0) & (thing.position > self.span)
            ).any():
                self.enter(thing)
            return
        stopped = self.move(thing, thing.velocity)
        if thing.manner == "shot":
            thing.gone = bool(stopped.any())
        elif thing.manner != "hunt":
            thing.velocity[stopped] *= -1

    def enter(self, thing: Thing) -> None:
        """Let something that falls or passes come in at the side it comes from."""
        axis = int(thing.velocity[1] != 0)
        other = 1 - axis
        if thing.manner != "lane" and (axis == 1 or self.rng.random() < 0.3):
            high = int(self.span[other] - thing.look.size[other])
            thing.position[other] = self.tile * self.rng.integers(0, max(1, high // self.tile + 1))
        thing.position[axis] = -thing.look.size[axis] if thing.velocity[axis] > 0 else self.span[axis]

    def _away(self, thing: Thing) -> None:
        if thing.manner in ("fall", "pass", "lane"):
            self.enter(thing)
            return
        place = self.free(thing) if self.refill else None
        if place is None:
            thing.gone = True
        else:
            thing.position = place

    def _touch(self, thing: Thing, reward: float, over: bool) -> tuple[float, bool]:
        if thing.touch == "harm":
            return reward - 1.0, True
        if thing.touch == "take":
            self._away(thing)
            return reward + 1.0, over
        # deflect: thrown back along the axis on which the boxes overlap least, as a racket does
        gap = (thing.position + thing.look.size / 2) - (self.player.position + self.player.look.size / 2)
        depth = (thing.look.size + self.player.look.size) / 2 - np.abs(gap)
        axis = int(depth[1] < depth[0])
        thing.velocity[axis] = abs(thing.velocity[axis]) * (1 if gap[axis] >= 0 else -1)
        return reward, over

    def draw(self) -> np.ndarray:
        """Return what the camera sees, (64, 64, 3) uint8."""
        middle = np.floor(self.player.position + self.player.look.size / 2).astype(int)
        corner = np.clip(middle - FRAME_SIZE // 2, 0, self.span - FRAME_SIZE)
        x, y = corner
        frame = self.picture[y : y + FRAME_SIZE, x : x + FRAME_SIZE].copy()
        for thing in (*self.things, self.player):
            look = thing.look
            if thing is self.player and self.facing[0] < 0:
                look = look.mirrored()
            look.draw(frame, np.floor(thing.position + 0.5).astype(int) - corner)
        return frame

    def hint(self) -> int:
        """Return the direction of the nearest thing to take, as a player would go."""
        wanted = [t for t in self.things if t.touch in ("take", "deflect")]
        if not wanted:
            return token("NOOP")
        gaps = [t.position + t.look.size / 2 - self.player.position - self.player.look.size / 2 for t in wanted]
        gap = min(gaps, key=lambda g: float(np.abs(g * self.axes).sum()))
        way = np.where(np.abs(gap) > 2, np.sign(gap), 0) * self.axes
        if way.all() and not self.diagonal:
            way[int(np.abs(gap[0]) > np.abs(gap[1]))] = 0
        if self.control in ("leap", "flap"):
            way[1] = min(way[1], 0)
        return OFFSETS.index((int(way[0]), int(way[1])))
