"""Real games to learn from: one id, one interface, and which of them may be learned from.

A game id is "source:name", with "@style" behind it for a restyled Procgen game. The
game packages are optional and imported only when a game is opened.
"""

from __future__ import annotations

import importlib

from gamegen_env.games.base import SPLITS, GameSource

# source -> (module, class)
_SOURCES = {
    "ale": ("gamegen_env.games.ale", "AleSource"),
    "gameworld": ("gamegen_env.games.gameworld", "GameworldSource"),
    "invented": ("gamegen_env.games.invented", "InventedSource"),
    "physics": ("gamegen_env.games.physics", "PhysicsSource"),
    "procgen": ("gamegen_env.games.procgen", "ProcgenSource"),
    "vizdoom": ("gamegen_env.games.vizdoom", "VizdoomSource"),
}

# Kept for zero-shot evaluation: no shipped weights may have seen them.
RESERVED: dict[str, frozenset[str]] = {
    "ale": frozenset(
        (
            *("asteroids", "crazy_climber", "demon_attack", "gopher"),
            *("name_this_game", "tutankham", "up_n_down", "zaxxon"),
        )
    ),
    "gameworld": frozenset(("Drive", "Hunt", "Jump")),
    "procgen": frozenset(("jumper", "leaper", "ninja", "plunder")),
    "pyxel": frozenset(("cursed_caverns", "platformer", "vortexion")),
}

# What the pocket preset learns from, and how many frames of each. What counts is levels, not frames: 25,000 frames of
# maze show some 150 of them, which are learned by heart; of 100,000 of coinrun, dodgeball or caveflyer so is much of
# what a key does.
POCKET_MIX: dict[str, int] = {
    **{f"gameworld:{g}": 73_728 for g in ("Impact", "Bounce", "Explode", "Fruits", "Gold", "Cross", "Aviate")},
    **{f"procgen:{g}": 393_216 for g in ("maze", "heist")},
    "procgen:caveflyer": 425_984,
    "procgen:coinrun": 401_408,
    "procgen:dodgeball": 344_064,
    **{f"procgen:{g}": 294_912 for g in ("miner", "climber")},
    **{f"procgen:{g}": 196_608 for g in ("chaser", "bigfish", "bossfight")},
    **{f"procgen:{g}": 98_304 for g in ("starpilot", "fruitbot")},
    **{f"physics:{kind}": 98_304 for kind in ("fall", "bounce")},
    "physics:jump": 196_608,
    **{f"invented:{kind}": 131_072 for kind in ("roam", "leap", "catch", "tour")},
    "invented:delve": 262_144,
}


def parse_game_id(game_id: str) -> tuple[str, str, str]:
    """Split a game id into source, name and style ("" where there is none).

    Raises: ValueError if the id is not "source:name[@style]" with a known source.
    """
    source, colon, rest = game_id.partition(":")
    name, at, style = rest.partition("@")
    if not colon or not name or source not in _SOURCES or (at and not style):
        raise ValueError(f"game_id: expected 'source:name' with a source of {sorted(_SOURCES)}, got {game_id!r}")
    return source, name, style


def check_split(game_id: str, split: str) -> None:
    """Refuse to open a game that is kept for zero-shot evaluation in any other split.

    Raises: ValueError if the split is unknown, or the game or its style is reserved and
        the split is not "reserved".
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    source, name, style = parse_game_id(game_id)
    if split == "reserved":
        return
    if style:
        raise ValueError(
            f"game_id: {game_id!r} is a restyled game, reserved for zero-shot evaluation: "
            f"expected split='reserved', got {split!r}"
        )
    if name in RESERVED.get(source, ()):
        raise ValueError(
            f"game_id: {game_id!r} is reserved for zero-shot evaluation: expected split='reserved', got {split!r}"
        )


def make_source(game_id: str, num_envs: int, seed: int, split: str = "train") -> GameSource:
    """Open `num_envs` plays of a game.

    Args:
        game_id: "source:name", for example "procgen:coinrun" or "gameworld:Impact".
        num_envs: plays in the batch, at least 1.
        seed: what the plays depend on, >= 0; equal seeds give equal frames.
        split: "train", "heldout" (other levels or seeds) or "reserved" (zero-shot evaluation).

    Raises: ValueError for an unknown game or split, a reserved game outside its split or a
        bad number; ImportError if the game's package is missing.
    """
    check_split(game_id, split)
    if num_envs < 1:
        raise ValueError(f"num_envs: expected >= 1, got {num_envs}")
    if seed < 0:
        raise ValueError(f"seed: expected >= 0, got {seed}")
    module, cls = _SOURCES[parse_game_id(game_id)[0]]
    source: GameSource = getattr(importlib.import_module(module), cls)(game_id, num_envs, seed, split)
    return source
