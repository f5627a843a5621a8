"""Procgen through envpool: 16 games with endless levels, 64x64 native.

Found by experiment with envpool 1.2.5 (Gymnasium interface), in all 16 games: the frame
that arrives with `terminated` or `truncated` is the last one of its own episode (it differs
from the one before as little as any other, and `level_seed` is still the old one; deaths in
miner and leaper often leave the picture as it was). The step after it ignores its action and
returns the first frame of the next level, with reward 0 and `elapsed_step` 0. That is the
rule of `GameSource`, so nothing is repeated or dropped. Frames carry no text overlay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gamegen_env.actions import BUTTONS, DIRECTIONS, PROCGEN, token
from gamegen_env.games.base import GameSource, Step, action_table, check_tokens, require

LICENCE = "code MIT (Procgen) and Apache-2.0 (envpool); art CC0, CC-BY and OGA-BY, credits required"

# split -> (first level, number of levels)
LEVELS = {"train": (0, 5_000), "heldout": (50_000, 10_000), "reserved": (100_000, 100_000)}
STYLES: dict[str, dict[str, bool]] = {
    "": {},
    "generated": {"use_generated_assets": True},
    "monochrome": {"use_monochrome_assets": True},
}

_EIGHT_WAYS = tuple(token(d) for d in DIRECTIONS)
_FOUR_WAYS = tuple(token(d) for d in ("NOOP", "UP", "RIGHT", "LEFT", "DOWN"))
_JUMP = tuple(token(d) for d in ("NOOP", "UP", "RIGHT", "LEFT", "UPRIGHT", "UPLEFT"))
_SIDEWAYS = tuple(token(d) for d in ("NOOP", "RIGHT", "LEFT"))
_FIRE = (token("NOOP", "FIRE"),)

# name -> the tokens whose effects differ, found by playing every action from equal states
TOKENS: dict[str, tuple[int, ...]] = {
    "bigfish": _EIGHT_WAYS,
    "bossfight": _EIGHT_WAYS + _FIRE,
    "caveflyer": _EIGHT_WAYS + _FIRE,
    "chaser": _EIGHT_WAYS,
    "climber": _JUMP,
    "coinrun": (*_JUMP, token("DOWN")),
    "dodgeball": _EIGHT_WAYS + _FIRE,
    "fruitbot": _SIDEWAYS + _FIRE,
    "heist": _EIGHT_WAYS,
    "jumper": _JUMP,
    "leaper": _FOUR_WAYS,
    "maze": _FOUR_WAYS,
    "miner": _FOUR_WAYS,
    "ninja": (*_JUMP, *(token("NOOP", b) for b in BUTTONS[1:5])),
    "plunder": _SIDEWAYS + _FIRE,
    "starpilot": (*_EIGHT_WAYS, *_FIRE, token("NOOP", "B")),
}


class ProcgenSource(GameSource):
    """Plays of a Procgen game in its easy version."""

    licence = LICENCE

    def __init__(self, game: str, num_envs: int, seed: int, split: str) -> None:
        name, _, style = game.partition(":")[2].partition("@")
        if name not in TOKENS:
            raise ValueError(f"game: expected a Procgen game of {sorted(TOKENS)}, got {name!r}")
        if style not in STYLES:
            raise ValueError(f"game: expected a style of {sorted(s for s in STYLES if s)}, got {style!r}")
        start_level, num_levels = LEVELS[split]
        kwargs: dict[str, Any] = {
            "task_id": f"{name.capitalize()}Easy-v0",
            "start_level": start_level,
            "num_levels": num_levels,
            **STYLES[style],
        }
        seeds = np.random.SeedSequence(seed).generate_state(num_envs) & 0x7FFFFFFF
        self._pool = require("envpool").make_gymnasium(
            **kwargs,
            num_envs=num_envs,
            num_threads=1,
            seed=seeds.tolist(),
            channel_first=False,
        )
        super().__init__(game, num_envs, TOKENS[name], kwargs, ("envpool",))
        noop = PROCGEN.index(token("NOOP"))
        self._actions = np.array(action_table({t: i for i, t in enumerate(PROCGEN)}, noop), np.int32)

    def reset(self) -> np.ndarray:
        return self._pool.reset()[0].copy()

    def step(self, action_tokens: np.ndarray) -> Step:
        actions = self._actions[check_tokens(action_tokens, self.num_envs)]
        frames, rewards, terminated, truncated, _ = self._pool.step(actions)
        # copies: envpool may reuse its buffers
        return frames.copy(), rewards.astype(np.float32), terminated.astype(bool), truncated.astype(bool)

    def close(self) -> None:
        self._pool.close()
