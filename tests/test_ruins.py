"""Ruins: what a model makes of a game carries no loss; the way back to the nearest recorded picture does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import Stream
from gamegen_env.config import ModelConfig
from gamegen_env.games.shards import Shard, write_shard
from gamegen_env.training import ruins
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from tests.patch_table import PatchTable


def recorded(count: int = 3, length: int = 80) -> list[Shard]:
    """A square that moves along a line of its own in every clip, again and again."""
    clips = []
    for i in range(count):
        frames = np.full((length, 64, 64, 3), 60, np.uint8)
        for t in range(length):
            at = 4 * (t % 14)
            frames[t, 16 * i + 4 : 16 * i + 12, at : at + 8] = 250
        zeros, first = np.zeros(length, np.uint8), (np.arange(length) == 0).astype(np.uint8)
        action = np.where(first, 0, 2 + i).astype(np.uint8)
        clips.append(Shard(frames, first, action, (np.arange(length) % 7 == 0).astype(np.float32), zeros, zeros))
    return clips


def ruined(clip: Shard, time: int) -> ruins.Piece:
    """What a model might have made of it: pieces stay behind."""
    frames = clip.frames[time - ruins.BEFORE : time + 1].copy()
    frames[1:, 52:60, 4:12] = 250
    return frames, np.full(ruins.BEFORE + 1, 5, np.uint8)


@pytest.fixture(scope="module")
def coder() -> PatchTable:
    clips = recorded()
    pictures = [c.frames for c in clips] + [ruined(c, 40)[0] for c in clips]
    return PatchTable(np.concatenate(pictures), 256)


def test_a_ruin_goes_on_as_the_nearest_recorded_picture_did(tiny_config: ModelConfig) -> None:
    clips = recorded()
    piece = ruined(clips[1], 40)
    (clip,) = ruins.splice([piece], clips, tiny_config, np.random.default_rng(0))
    own = ruins.BEFORE + 1
    assert np.array_equal(clip.frames[:own], piece[0])
    assert np.array_equal(clip.frames[own:], clips[1].frames[40 : 40 + ruins.AFTER])
    assert np.array_equal(clip.action[own + 1 :], clips[1].action[41 : 40 + ruins.AFTER])
    assert np.array_equal(clip.reward[own + 1 :], clips[1].reward[41 : 40 + ruins.AFTER])
    assert not clip.reward[: own + 1].any()  # the jump earns nothing


def test_what_looks_like_a_recording_is_no_ruin(tiny_config: ModelConfig) -> None:
    clips = recorded()
    whole = clips[1].frames[8:41], np.full(ruins.BEFORE + 1, 5, np.uint8)
    foreign = np.random.default_rng(0).integers(0, 256, whole[0].shape, np.uint8), whole[1]
    assert ruins.splice([whole, foreign], clips, tiny_config, np.random.default_rng(0)) == []


def test_recordings_too_short_to_go_on_have_no_way_out(tiny_config: ModelConfig) -> None:
    short = recorded(length=ruins.AFTER - 1)
    assert ruins.splice([ruined(recorded()[0], 40)], short, tiny_config, np.random.default_rng(0)) == []


def test_the_models_part_carries_no_loss_and_the_repair_does(
    tiny_config: ModelConfig, coder: PatchTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = recorded()
    monkeypatch.setattr(ruins, "play", lambda *_: [ruined(c, 40) for c in clips])
    how = {"game": "g", "fingerprint": "f", "error_rate": 0.0}
    assert ruins.ruins("a model", clips, tiny_config, coder, **how).n_clips == 0  # three are too few
    monkeypatch.setattr(ruins, "FEWEST", 3)
    stream = ruins.ruins("a model", clips, tiny_config, coder, **how)
    assert stream.n_clips == len(clips)
    time = np.arange(len(stream.action)) % (ruins.BEFORE + ruins.AFTER)
    own = np.repeat(time < ruins.BEFORE, np.diff(stream.update_ptr))
    assert own.any()
    assert (stream.update_flag[own] == 3).all()
    assert not stream.update_flag[~own].any()
    assert (stream.end_flag != 0).tolist() == (time < ruins.BEFORE).tolist()
    repair = stream.update_cell[np.repeat(time == ruins.BEFORE, np.diff(stream.update_ptr))]
    m = tiny_config.stream.map_cells
    for row in (13, 14):
        for column in (1, 2):  # the piece that was left behind
            assert (repair == row * m + column).sum() == len(clips)


def test_clips_that_scroll_on_the_way_are_left_out(tiny_config: ModelConfig, coder: PatchTable) -> None:
    clips = recorded()
    pieces = [ruined(c, 40) for c in clips]
    spliced = ruins.splice(pieces, clips, tiny_config, np.random.default_rng(0))
    stream = ruins.encode_clips(
        [c.frames for c in spliced], [c.action for c in spliced], [c.reward for c in spliced],
        [c.terminated for c in spliced], tiny_config, coder, game="g", fingerprint="f",
    )  # fmt: skip
    steps = ruins.BEFORE + ruins.AFTER
    stream.scroll[steps + ruins.BEFORE] = 1, 0  # the second clip's repair
    stream.scroll[3 * steps - 1] = 1, 0  # the third's last recorded step
    kept = ruins.unscored(stream)
    assert kept.n_clips == 2
    for clip, of in enumerate((0, 2)):
        mine, its = kept.only(clip), stream.only(of)
        for name in ("codes", "action", "scroll", "update_ptr", "update_cell", "update_code", "update_motion"):
            assert np.array_equal(getattr(mine, name), getattr(its, name)), name


def test_a_model_plays_on_from_recorded_pictures(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLOTS", 2), ("STEPS", 80), ("STILL", 1.0), ("BEFORE", 4), ("EVERY", 8)):
        monkeypatch.setattr(ruins, name, value)
    clips = recorded()
    one, other = (ruins.play(str(tiny_checkpoint), clips, np.random.default_rng(3)) for _ in range(2))
    assert one
    starts = {frame.tobytes() for clip in clips for frame in clip.frames}
    for (frames, actions), again in zip(one, other, strict=True):
        assert frames.shape == (5, 64, 64, 3)
        assert actions.shape == (5,)
        assert frames[0].tobytes() in starts
        assert set(actions[1:].tolist()) <= {2, 3, 4}
        assert np.array_equal(frames, again[0])


def test_games_whose_camera_moves_have_no_ruins(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruins, "SLOTS", 2)
    monkeypatch.setattr(ruins, "STILL", -1.0)
    assert ruins.play(str(tiny_checkpoint), recorded(), np.random.default_rng(0)) == []


def test_streams_of_ruins_are_kept_by_the_players_name_and_games_without_any_are_not_drawn(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, clip = load_checkpoint(tiny_checkpoint), recorded(1)[0]
    write_shard(tmp_path / "train" / "square" / "shard-00000.safetensors", clip)
    monkeypatch.setattr(ruins, "play", lambda *_: [])

    def load(**how: object) -> list[Stream]:
        return load_streams(tmp_path, "train", loaded.config, loaded.tokenizer, 0.0, **how)  # type: ignore[arg-type]

    none = load(player=str(tiny_checkpoint), ruined=True)
    assert none[0].n_clips == 0
    assert any("ruins" in p.name and loaded.fingerprint in p.name for p in tmp_path.rglob("streams/**/*.safetensors"))
    plain, window = load(), loaded.config.transformer.window
    other = load(restyled=True)  # a share that a game has nothing for is not the next one's
    drawn = Sampler(plain, loaded.config, window, 2, 0, [(none, 0.9), (other, 0.1)])(0)
    assert np.array_equal(drawn.rows, Sampler(plain, loaded.config, window, 2, 0, [(plain, 0.9), (other, 0.1)])(0).rows)
    with pytest.raises(ValueError, match="ruined: expected a player beside it"):
        load(ruined=True)


def test_in_other_styles_many_clips_have_the_same(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, clips = load_checkpoint(tiny_checkpoint), recorded(1, 40) * (ruins.STYLES + 1)
    for i, clip in enumerate(clips):
        write_shard(tmp_path / "train" / "square" / f"shard-{i:05}.safetensors", clip)
    played: list[Shard] = []
    monkeypatch.setattr(ruins, "play", lambda _, clips, __: played.extend(clips) or [])
    for restyled in (False, True):
        played.clear()
        load_streams(
            tmp_path, "train", loaded.config, loaded.tokenizer, 0.0,
            restyled=restyled, player=str(tiny_checkpoint), ruined=True,
        )  # fmt: skip
        styles = {clip.frames.tobytes() for clip in played[:-1]}
        assert len(styles) == (ruins.STYLES if restyled else 1)
        assert np.array_equal(played[-1].frames, played[0].frames)
