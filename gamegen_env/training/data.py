"""Recorded games as training batches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint, tokenizer_fingerprint
from gamegen_env.closed_loop import LASTING, RULES_VERSION
from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import ModelConfig
from gamegen_env.games.restyle import restyle
from gamegen_env.games.shards import Shard, iter_clips, read_meta, read_shard
from gamegen_env.tokenizer import Tokenizer
from gamegen_env.training import ruins
from gamegen_env.training.selfplay import RUNS, SelfPlay

RESTYLED = 4  # one clip in so many is coded in another style, too
PLAYED_FRAMES = 8192  # per game, are coded with a model playing some of the steps
PLAYED_SHARE = 0.2  # of their steps
SLOTS = 64  # clips encoded side by side
WORKERS = 4  # games coded at a time, at most: each holds the frames of its game in memory


def game_folders(data: str | Path, split: str) -> list[Path]:
    """Return the folders of the recorded games of one split, sorted.

    Raises: FileNotFoundError if there are none.
    """
    root = Path(data) / split
    folders = sorted(path.parent for path in root.glob("*/shard-00000.safetensors"))
    if not folders:
        raise FileNotFoundError(f"{root}: expected recorded games, found none; run `gamegen record --out {data}` first")
    return folders


def load_frames(data: str | Path, split: str, per_game: int) -> np.ndarray:
    """Load up to `per_game` frames of every game, evenly spread.

    Returns: (N, H, W, 3) uint8.
    """
    chosen = []
    for folder in game_folders(data, split):
        paths = sorted(folder.glob("shard-*.safetensors"))
        share = -(-per_game // len(paths))
        for path in paths:
            frames = read_shard(path).frames
            chosen.append(frames[:: max(1, len(frames) // share)][:share])
    return np.concatenate(chosen)


def load_streams(
    data: str | Path,
    split: str,
    config: ModelConfig,
    tokenizer: Tokenizer,
    error_rate: float,
    games: Sequence[str] | None = None,
    restyled: bool = False,
    player: str | None = None,
    ruined: bool = False,
) -> list[Stream]:
    """Return the recorded games of a split as streams, coding those that are not coded yet.

    Streams are kept under `data/streams/`, by tokenizer, rules of the encoder, tolerance, error rate and what was
    recorded: a game recorded again, or longer, is coded again. One process per core; a kill loses at most the games
    in work.

    Args:   games: folder names such as "procgen-maze"; default all.
            restyled: some of the clips, in other styles, instead of all as they were recorded.
            player: a model of the same tokenizer and stream, but that it may lack things; some of the clips, in which
            it plays some of the steps.
            ruined: what the player makes of games in a long time, instead, and the way out (`ruins.py`); restyled, in
            a few styles, each of which many clips have.
    Raises: FileNotFoundError if nothing is recorded; ValueError on an unknown game, a player of another kind, or ruins
            without a player.
    """
    if ruined and player is None:
        raise ValueError("ruined: expected a player beside it, got none")
    fingerprint = tokenizer_fingerprint(tokenizer)
    kind = f"{fingerprint}-rules{RULES_VERSION}-tolerance{config.stream.tolerance:g}-errors{error_rate:g}"
    if error_rate:
        kind += f"-lasting{LASTING}"
    if config.stream.max_motion:
        kind += f"-motion{config.stream.max_motion}" + "-sprites" * config.stream.sprites
        kind += "-things" * config.stream.things
    folders = {folder.name: folder for folder in game_folders(data, split)}
    unknown = sorted(set(games or ()) - set(folders))
    if unknown:
        raise ValueError(f"games: expected some of {sorted(folders)}, got {unknown}")
    variant, described = "", split
    if restyled:
        variant, described = f"-restyled{RESTYLED}", f"{split}, restyled"
    if player is not None:
        model = load_checkpoint(player)
        if tokenizer_fingerprint(model.tokenizer) != fingerprint:
            raise ValueError(f"player {player}: expected a model of tokenizer {fingerprint}, got one of another")
        if dataclasses.replace(config.stream, things=model.config.stream.things) != model.config.stream:
            raise ValueError(f"player {player}: expected {config.stream}, got {model.config.stream}")
        runs = "-".join(map(str, RUNS))
        how = ruins.NAME if ruined else f"played{PLAYED_FRAMES}-{PLAYED_SHARE:g}x{runs}"
        variant += f"-{how}-{model.fingerprint}"
        described += ", ruined" if ruined else ", played"
    paths, missing = [], {}
    for name in games or sorted(folders):
        shards = sorted(folders[name].glob("shard-*.safetensors"))
        path = Path(data) / "streams" / kind / split / f"{name}-{_digest(shards)}{variant}.safetensors"
        paths.append(path)
        if not path.exists():
            missing[path] = (name, shards, config, tokenizer, fingerprint, error_rate, restyled, player, ruined)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, WORKERS, len(missing))
    with tqdm(total=len(missing), desc=f"streams ({described})", unit="game", disable=not missing) as bar:
        if workers < 2:
            for path, what in missing.items():
                _encode(path, *what)
                bar.update()
        else:
            spawn = get_context("spawn")  # a forked child may wait for ever on the parent's OpenMP threads
            with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
                for done in [pool.submit(_encode, path, *what) for path, what in missing.items()]:
                    done.result()
                    bar.update()
    return [Stream.load(path) for path in paths]


def _digest(shards: Sequence[Path]) -> str:
    """Identify a recording by what its shards say of themselves: each is a pure function of that."""
    described = json.dumps([read_meta(path) for path in shards], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def _encode(
    path: Path, game: str, shards: Sequence[Path], config: ModelConfig, tokenizer: Tokenizer, fingerprint: str,
    error_rate: float, restyled: bool, player: str | None, ruined: bool,
) -> None:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    if ruined and player is not None:
        clips = [clip for shard in shards for clip in iter_clips(read_shard(shard))]
        if restyled:
            clips = [restyle(clip, i % ruins.STYLES) for i, clip in enumerate(clips)]
        ruined_clips = ruins.ruins(
            player, clips, config, tokenizer, game=game, fingerprint=fingerprint, error_rate=error_rate
        )
        ruined_clips.save(path)
        return
    numbered: Iterable[tuple[int, Shard]] = enumerate(clip for path in shards for clip in iter_clips(read_shard(path)))
    if restyled:
        numbered = ((i, restyle(clip, i)) for i, clip in numbered if i % RESTYLED == 0)
    selfplay, num_slots = None, SLOTS
    if player is not None:
        model = load_checkpoint(player)
        selfplay = SelfPlay(model.config, model.transformer, PLAYED_SHARE, patches=model.patches)
        num_slots = selfplay.num_slots
        # Shards hold plays of equal length one after the other: a stride takes some of each.
        stride = max(1, sum(read_meta(path)[1] for path in shards) // PLAYED_FRAMES)
        numbered = ((i, clip) for n, (i, clip) in enumerate(numbered) if n % stride == 0)
    clips = [clip for _, clip in numbered]
    stream = encode_clips(
        [c.frames for c in clips],
        [c.action for c in clips],
        [c.reward for c in clips],
        [c.terminated for c in clips],
        config,
        tokenizer,
        game=game,
        fingerprint=fingerprint,
        error_rate=error_rate,
        num_slots=num_slots,
        player=selfplay,
    )
    stream.save(path)
