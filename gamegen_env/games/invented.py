"""Games invented by chance: rules, levels and pictures are drawn anew for every episode.

    invented:roam    from above: a walker among walls, things to take, things that hunt
    invented:leap    from the side: gravity, ledges, jumps or flaps
    invented:catch   the player slides along a line; things fall, fly by, bounce; some may be shot
    invented:tour    as roam or leap, in a world wider than the view, which a camera follows
    invented:delve   on a grid (`delve.py`): mazes, soil to dig, boulders, locks, foes that go from cell to cell

A player can learn such a game by heart no more than its colours: what a key does, what is
solid, what pays and what ends the game must be read from what has been seen. That is what
a game made from a strange picture asks for.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.actions import N_DIRECTIONS, token
from gamegen_env.games.artwork import backdrop, colours, sprite, walls
from gamegen_env.games.base import FRAME_SIZE, SPLITS, GameSource, Step, check_tokens
from gamegen_env.games.delve import delve
from gamegen_env.games.grid import GridGame
from gamegen_env.games.maze import carve
from gamegen_env.games.rules import Game, Thing

VERSION = 3  # of what equal seeds give; recordings tell by it what they are
EPISODE = 192  # steps at most
TILES = (3, 4, 4, 4, 5, 6, 7, 8)  # pixels of a tile; half of them lie across a tokenizer's cells
MARGIN = 4  # pixels between a player and the edge, at the start
_STRAIGHT = tuple(token(name) for name in ("NOOP", "UP", "RIGHT", "LEFT", "DOWN"))
_ALL_WAYS = tuple(range(N_DIRECTIONS))
TOKENS = {
    "roam": (*_ALL_WAYS, token("NOOP", "FIRE")),
    "leap": tuple(token(name) for name in ("NOOP", "UP", "RIGHT", "LEFT", "UPRIGHT", "UPLEFT")),
    "catch": (*_STRAIGHT, token("NOOP", "FIRE"), token("LEFT", "FIRE"), token("RIGHT", "FIRE")),
    "tour": _ALL_WAYS,
    "delve": _STRAIGHT,
}


def _level(kind: str, rng: np.random.Generator, width: int, height: int, tile: int) -> np.ndarray:
    """Build what is solid, (height, width) bool: a border or none, and what the kind of game needs."""
    tiles = np.zeros((-(-height // tile), -(-width // tile)), bool)
    rows, columns = tiles.shape
    if kind == "leap" or rng.random() < 0.6:
        tiles[0], tiles[-1], tiles[:, 0], tiles[:, -1] = True, True, True, True
    area = max(0.5, rows * columns / 256)
    if kind == "leap":
        for _ in range(int(rng.integers(3, 8) * area)):
            y, x = rng.integers(3, rows - 1), rng.integers(0, columns - 2)
            tiles[y, x : x + rng.integers(2, 6)] = True
    elif kind == "roam":
        plan = rng.choice(("open", "blocks", "pillars", "maze"))
        if plan == "blocks":
            for _ in range(int(rng.integers(3, 10) * area)):
                y, x = rng.integers(1, rows - 1), rng.integers(1, columns - 1)
                tiles[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = True
        elif plan == "pillars":
            tiles[2:-1:4, 2:-1:4] = True
        elif plan == "maze":
            tiles |= carve(rng, rows, columns, 2) & (rng.random((rows, columns)) > 0.08)  # some walls are broken
    return tiles.repeat(tile, 0).repeat(tile, 1)[:height, :width]


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


def invent(kind: str, rng: np.random.Generator) -> Game | GridGame:
    """Invent a game of a kind. Raises: KeyError for another kind."""
    return delve(rng) if kind == "delve" else roll(kind, rng)


def roll(kind: str, rng: np.random.Generator) -> Game:
    """Invent a game that is not on a grid. Raises: KeyError for another kind."""
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
    tile = int(rng.choice(TILES))
    solid = _level("leap" if falls else "catch" if kind == "catch" else "roam", rng, width, height, tile)
    ground, wall = backdrop(rng, palette[0], width, height), walls(rng, palette[1], width, height, tile)
    axes = np.ones(2, bool)
    player = _thing(rng, palette[2], "still", "", min(7, 2 * tile))  # mazes are two tiles wide
    if kind == "catch":
        axes[int(rng.random() < 0.7)] = False  # mostly left and right
        if rng.random() < 0.5:  # a racket or a bucket
            long, thin = int(rng.integers(8, 17)), int(rng.integers(2, 5))
            player.look = sprite(rng, palette[2], *((long, thin) if axes[0] else (thin, long)))
    runs = control == "leap" and kind == "leap" and rng.random() < 0.25  # on the spot: the world comes to the player
    if runs:
        axes[0], solid[:] = False, False
        solid[-int(rng.integers(8, 24)) :] = True
    speed = float(tile * rng.choice((1, 2))) if control == "hop" else float(rng.choice((1.0, 1.5, 2.0, 3.0)))
    aim = None
    if kind == "catch":
        aim = np.array([0.0, -1.0]) if axes[0] else np.array([rng.choice((-1.0, 1.0)), 0.0])
    game = Game(
        rng, solid, ground, tile, player, [],
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
    step = int(rng.integers(6, 13))
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
        place = game.rng.integers(0, room + 1) // game.tile * float(game.tile)
    if kind == "catch":
        fixed = 1 if game.axes[0] else 0  # the line that the player slides along
        far = game.aim is not None and game.aim[fixed] < 0
        place[fixed] = room[fixed] - 2 * MARGIN if far else 2 * MARGIN
    player.position = place.clip(MARGIN, room - MARGIN)
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
        sequences = np.random.SeedSequence((seed, SPLITS.index(split))).spawn(num_envs)  # splits never share a game
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
