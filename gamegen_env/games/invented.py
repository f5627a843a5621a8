"""Games invented by chance: rules, levels and pictures are drawn anew for every episode.

    invented:roam    from above: a walker among walls, things to take, things that hunt
    invented:leap    from the side: gravity, ledges, jumps or flaps
    invented:catch   the player slides along a line; things fall, fly by, bounce; some may be shot
    invented:tour    as roam or leap, in a world wider than the view, which a camera follows

A player can learn such a game by heart no more than its colours: what a key does, what is
solid, what pays and what ends the game must be read from what has been seen. That is what
a game made from a strange picture asks for.

Lengths are pixels, times are steps, y points down. Equal seeds and keys give equal frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gamegen_env.actions import BUTTONS, N_DIRECTIONS, OFFSETS, token
from gamegen_env.games.artwork import Sprite, backdrop, colours, sprite, walls
from gamegen_env.games.base import FRAME_SIZE, GameSource, Step, check_tokens

VERSION = 2  # of what equal seeds give; recordings tell by it what they are
EPISODE = 192  # steps at most
TILE = 4  # pixels; levels are built of them
MAX_FALL = 5.0  # pixels per step
_SEED = {"train": 0, "heldout": 1, "reserved": 2}  # splits never share a game
_FIRE = BUTTONS.index("FIRE")
_STRAIGHT = tuple(token(name) for name in ("NOOP", "UP", "RIGHT", "LEFT", "DOWN"))
_ALL_WAYS = tuple(range(N_DIRECTIONS))
TOKENS = {
    "roam": (*_ALL_WAYS, token("NOOP", "FIRE")),
    "leap": tuple(token(name) for name in ("NOOP", "UP", "RIGHT", "LEFT", "UPRIGHT", "UPLEFT")),
    "catch": (*_STRAIGHT, token("NOOP", "FIRE"), token("LEFT", "FIRE"), token("RIGHT", "FIRE")),
    "tour": _ALL_WAYS,
}


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
        player: what the keys move; control: "walk", "hop", "slide", "drift", "leap" or "flap".
        axes: (2,) bool, along which the keys move the player. diagonal: whether both at once.
        speed: of the player; gravity, leap: per step, for those who fall.
        armed: whether FIRE shoots; aim: where to, (2,), or None for where the player looks.
        shot: the picture of a shot. refill: whether what is taken comes back elsewhere.
    """

    rng: np.random.Generator
    solid: np.ndarray
    picture: np.ndarray
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
            place = np.array([x, self.rng.choice(rows)], float) // TILE * TILE
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
            thing.position[other] = TILE * self.rng.integers(0, max(1, high // TILE + 1))
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


def _level(kind: str, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Build what is solid, (height, width) bool: a border or none, and what the kind of game needs."""
    tiles = np.zeros((height // TILE, width // TILE), bool)
    rows, columns = tiles.shape
    if kind == "leap" or rng.random() < 0.6:
        tiles[0], tiles[-1], tiles[:, 0], tiles[:, -1] = True, True, True, True
    area = rows * columns // 256
    if kind == "leap":
        for _ in range(int(rng.integers(3, 8)) * area):
            y, x = rng.integers(3, rows - 1), rng.integers(0, columns - 2)
            tiles[y, x : x + rng.integers(2, 6)] = True
    elif kind == "roam":
        plan = rng.choice(("open", "blocks", "pillars", "maze"))
        if plan == "blocks":
            for _ in range(int(rng.integers(3, 10)) * area):
                y, x = rng.integers(1, rows - 1), rng.integers(1, columns - 1)
                tiles[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = True
        elif plan == "pillars":
            tiles[2:-1:4, 2:-1:4] = True
        elif plan == "maze":
            tiles |= _maze(rng, rows, columns)
    return tiles.repeat(TILE, 0).repeat(TILE, 1)


def _maze(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Carve a maze of ways two tiles wide, with some walls broken."""
    solid = np.ones((rows, columns), bool)
    ys, xs = range(1, rows - 2, 3), range(1, columns - 2, 3)
    stack, seen = [(0, 0)], {(0, 0)}
    solid[1:3, 1:3] = False
    while stack:
        y, x = stack[-1]
        ways = [
            (y + dy, x + dx)
            for dx, dy in OFFSETS[1:5]
            if 0 <= y + dy < len(ys) and 0 <= x + dx < len(xs) and (y + dy, x + dx) not in seen
        ]
        if not ways:
            stack.pop()
            continue
        there = ways[rng.integers(len(ways))]
        top, left = min(ys[y], ys[there[0]]), min(xs[x], xs[there[1]])
        solid[top : max(ys[y], ys[there[0]]) + 2, left : max(xs[x], xs[there[1]]) + 2] = False
        seen.add(there)
        stack.append(there)
    return solid & (rng.random((rows, columns)) > 0.08)


def _thing(rng: np.random.Generator, colour: np.ndarray, manner: str, touch: str, largest: int = 8) -> Thing:
    width = int(rng.integers(3, largest + 1))
    height = width if rng.random() < 0.6 else int(rng.integers(3, largest + 1))
    pace = float(rng.choice((0.5, 1.0, 1.0, 1.5, 2.0, 3.0)))
    velocity = np.zeros(2)
    if manner == "bounce":
        velocity = rng.choice((-1, 1), 2) * rng.uniform(0.5, 2.5, 2)
    elif manner == "fall":
        velocity[1] = pace
    elif manner == "pass":
        velocity[int(rng.random() < 0.15)] = pace * rng.choice((-1, 1))
    elif manner == "hunt":
        velocity[0] = min(pace, 1.0)
    elif manner == "wander":
        velocity[rng.integers(2)] = pace * rng.choice((-1, 1))
    return Thing(sprite(rng, colour, width, height), np.zeros(2), velocity, manner, touch)


def invent(kind: str, rng: np.random.Generator) -> Game:
    """Invent a game of a kind. Raises: KeyError for another kind."""
    controls = {
        "roam": ("walk", "walk", "hop", "drift"),
        "leap": ("leap", "leap", "leap", "flap"),
        "catch": ("slide",),
        "tour": ("walk", "walk", "leap", "leap", "drift"),
    }[kind]
    control = str(rng.choice(controls))
    falls = control in ("leap", "flap")
    width, height = FRAME_SIZE, FRAME_SIZE
    if kind == "tour":
        width, height = ((160, 64), (128, 128), (64, 160))[rng.integers(3)]
    palette = colours(rng, 8)
    solid = _level("leap" if falls else "catch" if kind == "catch" else "roam", rng, width, height)
    ground, wall = backdrop(rng, palette[0], width, height), walls(rng, palette[1], width, height)
    axes = np.ones(2, bool)
    player = _thing(rng, palette[2], "still", "", 7)
    if kind == "catch":
        axes[int(rng.random() < 0.7)] = False  # mostly left and right
        if rng.random() < 0.5:  # a racket or a bucket
            long, thin = int(rng.integers(8, 17)), int(rng.integers(2, 5))
            player.look = sprite(rng, palette[2], *((long, thin) if axes[0] else (thin, long)))
    runs = control == "leap" and kind == "leap" and rng.random() < 0.25  # on the spot: the world comes to the player
    if runs:
        axes[0], solid[:] = False, False
        solid[-TILE * int(rng.integers(2, 6)) :] = True
    speed = float(rng.choice((4.0, 8.0))) if control == "hop" else float(rng.choice((1.0, 1.5, 2.0, 3.0)))
    aim = None
    if kind == "catch":
        aim = np.array([0.0, -1.0]) if axes[0] else np.array([rng.choice((-1.0, 1.0)), 0.0])
    game = Game(
        rng, solid, ground, player, [],
        control=control, axes=axes, diagonal=bool(rng.random() < 0.5) or falls, speed=speed,
        gravity=float(rng.uniform(0.15, 0.45)) if falls else 0.0, leap=float(rng.uniform(2.0, 3.8)),
        armed=kind in ("roam", "catch") and rng.random() < 0.5, aim=aim,
        shot=sprite(rng, palette[6], 2, 2 if rng.random() < 0.5 else 3), refill=bool(rng.random() < 0.6),
    )  # fmt: skip
    _settle(game, kind)
    game.picture = np.where(game.solid[..., None], wall, ground)
    if runs:
        _oncoming(game, palette[3:])
    elif kind == "roam" and rng.random() < 0.2:
        _lanes(game, palette[3:])
    else:
        _populate(game, kind, palette[3:])
    return game


def _populate(game: Game, kind: str, palette: np.ndarray) -> None:
    """Put one to three kinds of things into a game."""
    rng = game.rng
    for k in range(int(rng.integers(1, 4))):
        touch = "take" if k == 0 and rng.random() < 0.8 else str(rng.choice(("harm", "harm", "take", "")))
        manners = {
            "roam": ("still", "still", "bounce", "hunt", "wander", "pass"),
            "leap": ("still", "still", "bounce", "wander", "pass", "fall"),
            "catch": ("fall", "fall", "pass", "bounce") if game.axes[0] else ("pass", "pass", "bounce"),
            "tour": ("still", "still", "bounce", "wander", "hunt"),
        }[kind]
        manner = str(rng.choice(manners))
        if kind == "catch" and manner == "bounce":
            touch = str(rng.choice(("deflect", "deflect", "take")))
        model = _thing(rng, palette[k], manner, touch, int(rng.choice((6, 8, 8, 12))))
        count = int(rng.integers(1, 4)) if manner != "still" else int(rng.integers(1, 6))
        for _ in range(count * (2 if kind == "tour" else 1)):
            thing = Thing(model.look, np.zeros(2), model.velocity.copy(), manner, touch)
            if manner == "bounce":
                thing.velocity *= rng.choice((-1, 1), 2)
            if manner in ("fall", "pass"):
                game.enter(thing)
                axis = int(thing.velocity[1] != 0)
                thing.position[axis] = float(rng.integers(0, game.span[axis]))
                place = None if thing.meets(game.player) else thing.position
            else:
                place = game.free(thing)
            if place is not None:
                thing.position = place
                game.things.append(thing)


def _lanes(game: Game, palette: np.ndarray) -> None:
    """Fill most rows with traffic, each row at one pace, some with things to take between."""
    rng = game.rng
    step = TILE * int(rng.choice((2, 3)))
    for row, y in enumerate(range(step, int(game.span[1]) - 2 * step + 1, step)):
        touch = str(rng.choice(("harm", "harm", "harm", "take", "")))
        if rng.random() < 0.3 or abs(y - game.player.position[1]) < step:
            continue
        model = _thing(rng, palette[row % 3], "pass", touch, step - 1)
        pace = float(rng.choice((-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)))
        count = int(rng.integers(1, 4))
        first = int(rng.integers(0, game.span[0]))
        for k in range(count):
            x = (first + k * game.span[0] // count) % game.span[0]
            game.things.append(Thing(model.look, np.array([x, y], float), np.array([pace, 0.0]), "lane", touch))


def _oncoming(game: Game, palette: np.ndarray) -> None:
    """Send things along the ground and above it at a runner, who may leap over them or into them."""
    rng = game.rng
    ground = int(np.flatnonzero(game.solid.all(1))[0])
    ahead = 1 if game.player.position[0] < game.span[0] / 2 else -1
    pace = float(rng.choice((1.0, 1.5, 2.0, 3.0)))
    game.facing = np.array([float(ahead), 0.0])
    for k in range(3):
        touch = str(rng.choice(("harm", "harm", "take"))) if k else "harm"
        model = _thing(rng, palette[k], "still", touch)
        high = ground - model.look.size[1] - (0 if k == 0 or rng.random() < 0.5 else int(rng.integers(8, 24)))
        for _ in range(int(rng.integers(1, 3))):
            start = game.player.position[0] + ahead * int(rng.integers(16, 96))
            place = np.array([start, float(high)])
            game.things.append(Thing(model.look, place, np.array([-ahead * pace, 0.0]), "lane", touch))


def _settle(game: Game, kind: str) -> None:
    """Put the player where the game begins; what is solid there gives way."""
    player = game.player
    room = game.span - player.look.size
    place = game.free(player)
    if place is None or kind == "catch":
        place = game.rng.integers(0, room + 1) // TILE * float(TILE)
    if kind == "catch":
        fixed = 1 if game.axes[0] else 0  # the line that the player slides along
        far = game.aim is not None and game.aim[fixed] < 0
        place[fixed] = room[fixed] - 2 * TILE if far else 2 * TILE
    player.position = place.clip(TILE, room - TILE)
    x, y = player.position.astype(int)
    width, height = player.look.size
    game.solid[y : y + height, x : x + width] = False


class InventedSource(GameSource):
    """Plays of games of one kind, a new game in every episode."""

    licence = "MIT (this project)"

    def __init__(self, game: str, num_envs: int, seed: int, split: str) -> None:
        kind = game.partition(":")[2]
        if kind not in TOKENS:
            raise ValueError(f"game: expected a kind of {sorted(TOKENS)}, got {kind!r}")
        super().__init__(game, num_envs, TOKENS[kind], {"version": VERSION}, ())
        self._kind = kind
        sequences = np.random.SeedSequence((seed, _SEED[split])).spawn(num_envs)
        self._rng = [np.random.default_rng(sequence) for sequence in sequences]
        self._over = np.zeros(num_envs, bool)
        self.games = [invent(kind, rng) for rng in self._rng]

    def reset(self) -> np.ndarray:
        self.games = [invent(self._kind, rng) for rng in self._rng]
        self._over[:] = False
        return np.stack([game.draw() for game in self.games])

    def step(self, action_tokens: np.ndarray) -> Step:
        tokens = check_tokens(action_tokens, self.num_envs)
        rewards, terminated = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        for i, game in enumerate(self.games):
            if self._over[i]:
                self.games[i] = invent(self._kind, self._rng[i])
            else:
                rewards[i], terminated[i] = game.step(int(tokens[i]))
        truncated = np.array([game.age >= EPISODE for game in self.games]) & ~terminated
        self._over = terminated | truncated
        return np.stack([game.draw() for game in self.games]), rewards, terminated, truncated

    def hint(self) -> np.ndarray:
        """Return the tokens of a player who goes for what pays, (n,)."""
        return np.array([game.hint() for game in self.games])

    def close(self) -> None:
        self.games = []
