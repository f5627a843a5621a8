"""Figures under true histories: what the heads believe, token by token, on held-out streams.

event_loss, code_loss   mean cross-entropy, nats
train_event_loss, train_code_loss   the same on recordings to train on, without errors on purpose: a model that has
                     their levels by heart is much better on these
reward_f1, done_f1   of the most likely class at END; rewards: mean over negative and
                     positive, as far as they occur
returns_1/8/32       permanence: of the updates that bring a cell back to a code it had
                     1 step, 2 to 8, 9 to 32 steps ago, the share whose most likely code is that one
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from gamegen_env.checkpoint import Checkpoint
from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import KEY, UPD
from gamegen_env.games.shards import iter_clips, read_shard
from gamegen_env.kv4 import FakeQuantise
from gamegen_env.training.batches import Batch, Sampler
from gamegen_env.training.objective import predict

SEED = 2**42
AGES = (1, 8, 32)  # steps, the upper bounds
TRAIN_SHARDS = 16  # at most, evenly spread; the first clip of each


def absences(batch: Batch) -> np.ndarray:
    """Return for every scored code target how many steps ago its cell last had that code, (U,) int64, 0: never seen."""
    size = batch.rows.shape[1]
    targets = dict(zip(batch.code_at.tolist(), range(len(batch.code)), strict=True))
    absent = np.zeros(len(batch.code), np.int64)
    for sequence, rows in enumerate(batch.rows.tolist()):
        now: dict[int, int] = {}
        left: dict[tuple[int, int], int] = {}  # (cell, code) -> time at which something else took its place
        for place, (kind, cell, code, _, _, time) in enumerate(rows):
            if kind == KEY and now.get(cell, code) != code:
                left = {}  # another clip begins
            elif kind == UPD:
                target = targets.get(sequence * size + place - 1)
                if target is not None and (cell, code) in left:
                    absent[target] = time - left[cell, code]
                left[cell, now[cell]] = time
            if kind in (KEY, UPD):
                now[cell] = code
    return absent


def f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """F1 of a yes-no decision; NaN if it never occurs."""
    both = int(predicted.sum() + truth.sum())
    return 2 * int((predicted & truth).sum()) / both if truth.any() else float("nan")


def evaluate_histories(checkpoint: Checkpoint, stream: Stream, sequences: int) -> dict[str, float]:
    """Measure one game on `sequences` windows of it."""
    config = checkpoint.config
    sampler = Sampler([stream], config, config.transformer.window, 1, SEED)
    seen: dict[str, list[np.ndarray]] = defaultdict(list)
    for i in range(sequences):
        batch = sampler(i)
        with torch.inference_mode():
            predicted = predict(checkpoint.transformer, batch, FakeQuantise())
        for name, logits, right in (("event", predicted.event, batch.event), ("code", predicted.code, batch.choice)):
            target = torch.from_numpy(right)
            seen[f"{name}_loss"].append(F.cross_entropy(logits, target, reduction="none").numpy())
        for name, logits in (("code", predicted.code), ("reward", predicted.reward), ("done", predicted.done)):
            seen[f"{name}_predicted"].append(logits.argmax(1).numpy())
            seen[name].append(batch.choice if name == "code" else getattr(batch, name))
        seen["absent"].append(absences(batch))
    all_of = {name: np.concatenate(parts) for name, parts in seen.items()}
    rewards = [f1(all_of["reward_predicted"] == c, all_of["reward"] == c) for c in (0, 2)]
    figures = {
        "event_loss": float(all_of["event_loss"].mean()),
        "code_loss": float(all_of["code_loss"].mean()),
        "reward_f1": float(np.nanmean(rewards)) if not np.isnan(rewards).all() else float("nan"),
        "done_f1": f1(all_of["done_predicted"] == 1, all_of["done"] == 1),
    }
    hit = all_of["code_predicted"] == all_of["code"]
    for low, high in zip((0, *AGES), AGES, strict=False):
        back = (all_of["absent"] > low) & (all_of["absent"] <= high)
        figures[f"returns_{high}"] = float(hit[back].mean()) if back.any() else float("nan")
    return figures


def evaluate_training(checkpoint: Checkpoint, shards: Sequence[Path], sequences: int) -> dict[str, float]:
    """Measure the losses on `sequences` windows of recordings to train on, given as their shards, at least one."""
    spread = shards[:: -(-len(shards) // TRAIN_SHARDS)]
    clips = [next(iter_clips(read_shard(path))) for path in spread]
    stream = encode_clips(
        [clip.frames for clip in clips],
        [clip.action for clip in clips],
        [clip.reward for clip in clips],
        [clip.terminated for clip in clips],
        checkpoint.config,
        checkpoint.tokenizer,
        game="train",
        fingerprint=checkpoint.fingerprint,
    )
    figures = evaluate_histories(checkpoint, stream, sequences)
    return {f"train_{name}": figures[name] for name in ("event_loss", "code_loss")}
