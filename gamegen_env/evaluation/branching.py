"""Does the game obey? Equal states, different keys, real branches against generated ones.

A real game is brought into one state several times, by equal seeds and keys, and in each
copy another key is then held. The model gets the same history and holds the same keys. A
generated branch is right if, of all real branches, it looks most like its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gamegen_env.actions import token
from gamegen_env.checkpoint import Checkpoint
from gamegen_env.codec import encode_clips
from gamegen_env.evaluation.rollouts import CONTEXT
from gamegen_env.games import make_source
from gamegen_env.games.policies import Policy
from gamegen_env.world import World

KEYS = tuple(token(name) for name in ("UP", "RIGHT", "LEFT", "DOWN", "NOOP"))  # the first that a game knows
BRANCHES = 4  # or as many as the game has keys
HELD = 8  # steps
MAX_LEAD = 200  # steps before a state is taken
ATTEMPTS = 20  # states tried per state found; a game may end within HELD steps


@dataclass(frozen=True)
class Branches:
    """One state of a real game, and what k held keys make of it."""

    frames: np.ndarray  # (CONTEXT + 1, H, W, 3) uint8, the history; the last is the common state
    actions: np.ndarray  # (CONTEXT + 1,) int64, tokens that led to them, the first meaningless
    rewards: np.ndarray  # (CONTEXT + 1,) float32
    keys: tuple[int, ...]  # k tokens
    real: np.ndarray  # (k, HELD, H, W, 3) uint8


def branch(game_id: str, split: str, seed: int) -> Branches | None:
    """Play a game to a state that depends on the seed, then hold each key in a copy of it.

    Returns: None if an episode ended on the way.
    Raises:  RuntimeError if equal seeds and keys do not lead to equal frames; as `make_source`.
    """
    probe = make_source(game_id, 1, seed, split)
    keys = tuple(key for key in KEYS if key in probe.action_tokens)[:BRANCHES]
    sources = [probe, *(make_source(game_id, 1, seed, split) for _ in keys[1:])]
    try:
        policy = Policy(probe, seed)
        lead = CONTEXT + int(np.random.default_rng(seed).integers(MAX_LEAD))
        frames, actions, rewards = [np.concatenate([s.reset() for s in sources])], [0], [0.0]
        begun = 0  # the first frame of the episode
        for t in range(1, lead + 1):
            pressed = policy.act(frames[-1][:1])
            outcomes = [source.step(pressed) for source in sources]
            frames.append(np.concatenate([outcome[0] for outcome in outcomes]))
            actions.append(int(pressed[0]))
            rewards.append(float(outcomes[0][1][0]))
            if outcomes[0][2][0] or outcomes[0][3][0]:
                begun = t + 1
        if lead - begun < CONTEXT:
            return None
        if (frames[-1] != frames[-1][:1]).any():
            raise RuntimeError(f"{game_id}: expected equal frames from equal seeds and keys, got different ones")
        real = []
        for _ in range(HELD):
            outcomes = [source.step(np.array([key])) for source, key in zip(sources, keys, strict=True)]
            if any(outcome[2][0] or outcome[3][0] for outcome in outcomes):
                return None
            real.append(np.concatenate([outcome[0] for outcome in outcomes]))
    finally:
        for source in sources:
            source.close()
    last = slice(-CONTEXT - 1, None)
    return Branches(
        np.stack([f[0] for f in frames[last]]),
        np.array(actions[last]),
        np.array(rewards[last], np.float32),
        keys,
        np.stack(real, axis=1),
    )


def find(game_id: str, split: str, count: int) -> list[Branches]:
    """Find `count` states in which no key ends the game at once. Raises: ValueError if there are too few."""
    found = []
    for seed in range(count * ATTEMPTS):
        one = branch(game_id, split, seed)
        if one is not None:
            found.append(one)
        if len(found) == count:
            return found
    raise ValueError(f"{game_id}: expected {count} states to branch from, got {len(found)} of {count * ATTEMPTS} tried")


def generate(world: World, checkpoint: Checkpoint, start: Branches) -> np.ndarray:
    """Let the model hold the same keys after the same history: (k, HELD, H, W, 3) uint8."""
    stream = encode_clips(
        [start.frames],
        [start.actions],
        [start.rewards],
        [np.zeros(len(start.frames), bool)],
        checkpoint.config,
        checkpoint.tokenizer,
        game="branch",
        fingerprint=checkpoint.fingerprint,
    )
    slots = range(len(start.keys))
    # One noise for all: what differs between branches is the key alone.
    world.reset(slots, [start.frames[0]] * len(slots), [0] * len(slots))
    for step, seen in zip(stream.steps(0), start.frames[1:], strict=True):
        world.observe(slots, [step] * len(slots), np.stack([seen] * len(slots)))
    return np.stack([world.step(slots, start.keys).frames for _ in range(HELD)], axis=1)


def matches(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Return per generated branch 1 if its own real branch is nearest, less where real ones tie for it.

    A model that ignores the keys gets 1 / k on average, whatever it shows.

    Args:    real, generated: (k, ..., H, W, 3) uint8.
    Returns: (k,) float64.
    """
    flat = real.reshape(len(real), -1).astype(np.float32)
    distance = np.stack([np.square(g.reshape(-1).astype(np.float32) - flat).mean(1) for g in generated])
    nearest = distance == distance.min(1, keepdims=True)
    return np.diag(nearest) / nearest.sum(1)


def evaluate_branches(world: World, checkpoint: Checkpoint, starts: Sequence[Branches]) -> dict[str, float | int]:
    """Measure obedience: share of branches matched, beside what real frames themselves allow, and chance."""
    matched = [matches(start.real, generate(world, checkpoint, start)).mean() for start in starts]
    allowed = [matches(start.real, start.real).mean() for start in starts]
    half = 1.96 * float(np.std(matched, ddof=1)) / len(matched) ** 0.5 if len(matched) > 1 else 0.0
    return {
        "branch": round(float(np.mean(matched)), 3),
        "branch_interval": round(half, 3),
        "branch_ceiling": round(float(np.mean(allowed)), 3),
        "branch_chance": round(1 / len(starts[0].keys), 3),
    }
