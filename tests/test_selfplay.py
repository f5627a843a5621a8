"""Streams in which a model plays some of the steps: its errors carry no loss, their repair does."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen_env.checkpoint import Checkpoint, load_checkpoint
from gamegen_env.closed_loop import AFTER_DROP, WRONG_CODE
from gamegen_env.codec import Stream, decode_stream, encode_clips
from gamegen_env.games.shards import Shard, write_shard
from gamegen_env.stream import Grammar
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from gamegen_env.training.selfplay import RUNS, SelfPlay
from tests.patch_table import PatchTable


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    """Random weights that seldom move the camera and update some dozen cells."""
    loaded = load_checkpoint(tiny_checkpoint)
    transformer = copy.deepcopy(loaded.transformer)
    cells = loaded.config.stream.n_cells
    with torch.no_grad():
        transformer.event_head.bias[cells:-1] = -12
        transformer.event_head.bias[-1] = 1
    return dataclasses.replace(loaded, transformer=transformer)


def clips(count: int = 3, length: int = 24) -> list[np.ndarray]:
    """A square that moves past another; the camera stands still."""
    frames = np.full((count, length, 64, 64, 3), 60, np.uint8)
    frames[:, :, 40:48, 41:50] = 120
    for t in range(length):
        frames[:, t, 20:28, 2 * t : 2 * t + 8] = 250
    return list(frames)


def encode(checkpoint: Checkpoint, share: float | None, num_slots: int = 2) -> Stream:
    frames = clips()
    actions, zeros = [np.full(len(f), 2, np.uint8) for f in frames], [np.zeros(len(f)) for f in frames]
    config, player = checkpoint.config, None
    if share is not None:
        player = SelfPlay(config, checkpoint.transformer, share, num_slots=num_slots, temperature=1.0)
    return encode_clips(
        frames, actions, zeros, zeros, config, CODER, game="g", fingerprint="f",
        num_slots=num_slots, player=player,
    )  # fmt: skip


CODER = PatchTable(np.concatenate(clips(1)), 256)  # every patch of the clips has its code


@pytest.fixture(scope="module")
def played(checkpoint: Checkpoint) -> Stream:
    return encode(checkpoint, 0.4)


def test_the_models_steps_come_in_runs_and_carry_no_loss(checkpoint: Checkpoint, played: Stream) -> None:
    mine = played.end_flag.astype(bool)
    assert 10 < mine.sum() < 60
    updates = np.repeat(mine, np.diff(played.update_ptr))
    assert (played.update_flag[updates] == WRONG_CODE | AFTER_DROP).all()
    assert not played.update_flag[~updates].any()
    assert updates.sum() > 50  # random weights change much
    for clip in range(played.n_clips):  # a run is cut short only where the model moved the camera
        steps = mine[played.clip_ptr[clip] : played.clip_ptr[clip + 1]]
        wanted = SelfPlay(checkpoint.config, checkpoint.transformer, 0.4, num_slots=1).turns(
            np.full(len(steps), clip), np.arange(1, len(steps) + 1)
        )
        assert not steps[~wanted].any()


def test_every_clip_has_a_length_of_run_and_all_lengths_occur(checkpoint: Checkpoint) -> None:
    player, times = SelfPlay(checkpoint.config, checkpoint.transformer, 0.2, num_slots=1), np.arange(1, 2049)
    met, share = set(), []
    for clip in range(30):
        wanted = player.turns(np.full(len(times), clip), times)
        ends = np.diff(wanted.astype(int)).nonzero()[0] + 1
        met.add(max(run for run in RUNS if (ends % run == 0).all()))
        share.append(wanted.mean())
    assert met == set(RUNS)
    assert 0.17 < np.mean(share) < 0.23


def test_the_encoder_repairs_what_the_model_did(checkpoint: Checkpoint, played: Stream) -> None:
    mine, plain = played.end_flag.astype(bool), encode(checkpoint, None)
    repairs = np.flatnonzero(mine[:-1] & ~mine[1:]) + 1
    counts = np.diff(played.update_ptr)
    assert counts[repairs].mean() > 2 * np.diff(plain.update_ptr).mean()
    for clip, frames in enumerate(clips()):
        shown = decode_stream(played, clip, frames[0], checkpoint.config, CODER)
        faultless = decode_stream(plain, clip, frames[0], checkpoint.config, CODER)
        error, least = (np.square(x.astype(float) - frames).mean((1, 2, 3)) for x in (shown, faultless))
        first = played.clip_ptr[clip]
        for step in repairs[(repairs >= first) & (repairs < played.clip_ptr[clip + 1])] - first:
            assert error[step + 1] < least[step + 1] + checkpoint.config.stream.tolerance
            assert error[step] > least[step]


def test_a_played_stream_obeys_the_grammar(checkpoint: Checkpoint, played: Stream) -> None:
    batch = Sampler([played], checkpoint.config, checkpoint.config.transformer.window, 2, 0)(0)
    kinds = batch.rows[..., 0]
    for rows, kind in zip(batch.rows, kinds, strict=True):
        Grammar(checkpoint.config).validate(rows[: int(np.flatnonzero(kind == 4)[-1]) + 1])
    assert len(batch.code_at) < (kinds == 3).sum()


def test_a_played_stream_does_not_depend_on_the_number_of_slots(checkpoint: Checkpoint, played: Stream) -> None:
    other = encode(checkpoint, 0.4, num_slots=3)
    for name in ("codes", "update_ptr", "update_cell", "update_code", "update_flag", "end_flag"):
        assert np.array_equal(getattr(other, name), getattr(played, name)), name


def test_streams_a_model_has_played_in_are_kept_by_its_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded, frames = load_checkpoint(tiny_checkpoint), clips(1, 40)[0]
    zeros, first = np.zeros(40, np.uint8), np.eye(40, dtype=np.uint8)[0]
    shard = Shard(frames, first, zeros, zeros.astype(np.float32), zeros, zeros, {"game": "test:square"})
    write_shard(tmp_path / "train" / "square" / "shard-00000.safetensors", shard)

    def load(**how: str) -> Stream:
        return load_streams(tmp_path, "train", loaded.config, loaded.tokenizer, 0.0, **how)[0]

    assert not load().end_flag.any()
    assert load(player=str(tiny_checkpoint)).end_flag.any()
    names = sorted(path.name for path in tmp_path.rglob("streams/**/*.safetensors"))
    assert [loaded.fingerprint in name for name in names] == [True, False]
    with pytest.raises(ValueError, match="player pocket: expected a model of tokenizer"):
        load(player="pocket")
    moving = dataclasses.replace(loaded.config.stream, max_motion=2)
    pointing = dataclasses.replace(loaded.config.transformer, pointer=True)
    moving_config = dataclasses.replace(loaded.config, stream=moving, transformer=pointing)
    with pytest.raises(ValueError, match=r"player .*: expected StreamConfig\(.*max_motion=2, .*\), got"):
        load_streams(tmp_path, "train", moving_config, loaded.tokenizer, 0.0, player=str(tiny_checkpoint))


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_selfplay_refuses_a_share_that_is_none(checkpoint: Checkpoint, share: float) -> None:
    with pytest.raises(ValueError, match="share: expected 0 < share < 1"):
        SelfPlay(checkpoint.config, checkpoint.transformer, share)
