"""Record real games: play them and write shards of whole clips.

Shard k of a game is a pure function of (game, split, seed, k): it opens its own plays. So
a killed run is continued by running it again, and the result is the same bytes. One run
at a time per output folder; different games may be recorded by different processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gamegen_env.games import POCKET_MIX, check_split, make_source, parse_game_id
from gamegen_env.games.base import SPLITS, GameSource
from gamegen_env.games.policies import Policy
from gamegen_env.games.shards import Shard, read_meta, write_shard

SHARD_FRAMES = 4096
MIX_STRAY, MIX_HELDOUT = 0.15, 4096  # of the pocket mix: stray actions in training, frames per held-out game
MAX_WARMUP = 512  # steps; odd shards skip up to this many, so that later stages of a game are seen too


def game_folder(out: str | Path, split: str, game_id: str) -> Path:
    """Return where a game's shards lie: out/split/source-name."""
    return Path(out) / split / game_id.replace(":", "-")


def play_shard(source: GameSource, policy: Policy, frames: int, warmup: int) -> Shard:
    """Play `frames` frames, `frames / num_envs` of each play in a row.

    Args:
        source: a newly opened game; its number of plays divides `frames`.
        policy: presses the keys.
        frames: frames to keep.
        warmup: steps to play before the first frame that is kept.

    Returns: a shard without meta. A clip that began in the warm-up starts like any other; an
        episode that ends or begins at the very edge can leave a clip of a single frame.
    """
    n, steps = source.num_envs, frames // source.num_envs
    image, over = source.reset(), np.zeros(n, bool)
    for _ in range(warmup):
        image, _, ended, cut = source.step(policy.act(image))
        over = ended | cut
    frames_out = np.empty((n, steps, *image.shape[1:]), np.uint8)
    action, first, terminated, truncated = (np.zeros((n, steps), np.uint8) for _ in range(4))
    reward = np.zeros((n, steps), np.float32)
    frames_out[:, 0], first[:, 0] = image, 1
    for t in range(1, steps):
        tokens = policy.act(image)
        image, reward[:, t], terminated[:, t], truncated[:, t] = source.step(tokens)
        frames_out[:, t] = image
        first[:, t] = over
        action[:, t] = np.where(over, 0, tokens)
        over = (terminated[:, t] | truncated[:, t]).astype(bool)
    return Shard(
        frames=frames_out.reshape(frames, *image.shape[1:]),
        first=first.reshape(frames),
        action=action.reshape(frames),
        reward=reward.reshape(frames),
        terminated=terminated.reshape(frames),
        truncated=truncated.reshape(frames),
    )


def record(
    game_ids: Sequence[str],
    frames_per_game: int,
    out: str | Path,
    split: str = "train",
    seed: int = 0,
    num_envs: int = 16,
    stray: float = 0.0,
    shard_frames: int = SHARD_FRAMES,
) -> list[Path]:
    """Record games, skipping the shards that are there already.

    Args:
        game_ids: games, "source:name" each.
        frames_per_game: frames wanted of each game, rounded up to whole shards.
        out: output folder; shards go to out/split/source-name/shard-00000.safetensors.
        split: "train", "heldout" or "reserved".
        seed: what everything depends on, >= 0.
        num_envs: plays per shard; each gives shard_frames / num_envs frames in a row.
        stray: chance that a blind play draws any of ALE's 18 tokens, whether or not the game knows it.
        shard_frames: frames per shard, a multiple of num_envs.

    Returns: the paths of all shards, old and new.

    Raises: ValueError for a bad argument, an unknown game, a reserved game outside its split, or a shard on
        disk that is damaged or was recorded otherwise; OSError if a shard cannot be written.
    """
    for game_id in game_ids:
        check_split(game_id, split)
    if frames_per_game < 1:
        raise ValueError(f"frames_per_game: expected >= 1, got {frames_per_game}")
    if num_envs < 1 or shard_frames < 1 or shard_frames % num_envs:
        raise ValueError(f"shard_frames: expected a multiple of num_envs={num_envs}, both >= 1, got {shard_frames}")
    if not 0 <= stray <= 1:
        raise ValueError(f"stray: expected 0..1, got {stray}")
    n_shards = -(-frames_per_game // shard_frames)
    for game_id in game_ids:  # a name that no game has shows before an hour of the others is recorded
        if not game_folder(out, split, game_id).exists():
            make_source(game_id, 1, seed, split).close()
    paths = []
    with tqdm(total=len(game_ids) * n_shards * shard_frames, unit="frame", unit_scale=True) as bar:
        for game_id in game_ids:
            folder = game_folder(out, split, game_id)
            for stale in folder.glob("*.tmp"):  # left by a killed run
                stale.unlink()
            for k in range(n_shards):
                bar.set_description(f"{game_id} {k + 1}/{n_shards}")
                path = folder / f"shard-{k:05d}.safetensors"
                wanted = {
                    "game": game_id,
                    "split": split,
                    "seed": seed,
                    "shard": k,
                    "num_envs": num_envs,
                    "stray": stray,
                }
                if path.exists():
                    _check_same(path, wanted, shard_frames)
                else:
                    write_shard(path, _record_shard(wanted, shard_frames))
                paths.append(path)
                bar.update(shard_frames)
    return paths


def _record_shard(wanted: dict[str, Any], frames: int) -> Shard:
    game_id, split, k = wanted["game"], wanted["split"], wanted["shard"]
    entropy = (wanted["seed"], zlib.crc32(f"{split}/{game_id}".encode()), k)
    source_seed, policy_seed, warmup_seed = np.random.SeedSequence(entropy).generate_state(3).tolist()
    warmup = warmup_seed % MAX_WARMUP if k % 2 else 0
    source = make_source(game_id, wanted["num_envs"], source_seed, split)
    try:
        policy = Policy(source, policy_seed, wanted["stray"])
        shard = play_shard(source, policy, frames, warmup)
        meta = {
            **wanted,
            "source": parse_game_id(game_id)[0],
            "licence": source.licence,
            "ships": source.ships,
            "policy": policy.name,
            "warmup": warmup,
            "env_kwargs": source.env_kwargs,
            "packages": source.packages,
        }
    finally:
        source.close()
    return dataclasses.replace(shard, meta=meta)


def _check_same(path: Path, wanted: dict[str, Any], frames: int) -> None:
    meta, n = read_meta(path)
    got = {key: meta.get(key) for key in wanted}
    if got != wanted or n != frames:
        raise ValueError(
            f"{path}: expected a shard of {frames} frames with {wanted}, got {n} frames with {got}; "
            "record into another folder or delete it"
        )


def record_mix(out: str | Path, seed: int = 0) -> None:
    """Record what the pocket model learns from and is measured on. Raises: as `record`."""
    for game_id, frames in POCKET_MIX.items():
        record([game_id], frames, out, "train", seed, stray=MIX_STRAY)
        record([game_id], MIX_HELDOUT, out, "heldout", seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gamegen record`; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="gamegen record", description="Record real games into shards of frames, actions and rewards."
    )
    parser.add_argument("--games", required=True, help="comma-separated game ids, or 'pocket' for the pocket model's")
    parser.add_argument(
        "--frames",
        type=int,
        help="frames per game, rounded up to whole shards; 'pocket' without it: the whole mix, training and held-out",
    )
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-envs", type=int, default=16, help="plays per shard")
    parser.add_argument(
        "--stray", type=float, default=0.0, help="chance of an action that the game may not know (0..1)"
    )
    args = parser.parse_args(argv)
    games = tuple(POCKET_MIX) if args.games == "pocket" else tuple(g for g in args.games.split(",") if g)
    if args.frames is None and args.games != "pocket":
        parser.error("argument --frames: expected a number of frames per game, got none")
    try:
        if args.frames is None:
            record_mix(args.out, args.seed)
            return 0
        record(games, args.frames, args.out, args.split, args.seed, args.num_envs, args.stray)
    except (ValueError, ImportError, OSError) as error:
        print(f"gamegen record: {error}", file=sys.stderr)
        return 1
    return 0
