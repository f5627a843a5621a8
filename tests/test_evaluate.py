"""The yardstick itself: known pictures, known figures, and one run on the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gamegen_env.checkpoint import load_checkpoint, tokenizer_fingerprint
from gamegen_env.closed_loop import RULES_VERSION
from gamegen_env.evaluation import branching, histories, metrics, rollouts
from gamegen_env.evaluation.command import main
from gamegen_env.games.shards import Shard, iter_clips, read_shard, write_shard
from gamegen_env.training.data import load_streams
from gamegen_env.world import World


def test_psnr_of_known_errors() -> None:
    truth = np.zeros((3, 8, 8, 3), np.uint8)
    frames = truth.copy()
    frames[1] += 255
    frames[2, :4] += 10
    assert metrics.psnr(frames, truth)[0] == metrics.PSNR_CAP
    assert metrics.psnr(frames, truth)[1] == pytest.approx(0)
    assert metrics.psnr(frames, truth)[2] == pytest.approx(10 * np.log10(255**2 / 50))
    mask = np.zeros((3, 8, 8), bool)
    mask[2, :4] = True
    masked = metrics.psnr(frames, truth, mask)
    assert np.isnan(masked[:2]).all()
    assert masked[2] == pytest.approx(10 * np.log10(255**2 / 100))


def test_ssim_is_one_for_equal_pictures_and_falls_with_structure() -> None:
    truth = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3), dtype=np.uint8)
    values = metrics.ssim(truth, truth)
    assert values.shape == (2, 1)
    assert values == pytest.approx(1)
    brighter = (truth // 2 + 60).astype(np.uint8)
    assert metrics.ssim(truth[:, :, ::-1], truth).max() < 0.2 < metrics.ssim(brighter, truth).min() < 1


def test_moving_marks_whole_cells_that_differ() -> None:
    frozen = np.zeros((8, 8, 3), np.uint8)
    truth = frozen.copy()
    truth[1, 1] = 9
    truth[7, 7] = 8  # not more than 8: not moving
    mask = metrics.moving(frozen, truth)
    assert mask[:4, :4].all()
    assert mask.sum() == 16


def test_flicker_is_what_blinks_where_the_truth_is_still() -> None:
    truth = np.zeros((1, 5, 8, 8, 3), np.uint8)
    truth[:, 3:, 4:, 4:] = 200  # one of four cells moves, at step 3
    assert metrics.flicker(truth, truth).tolist() == [0]
    played = truth.copy()
    played[:, 2, :4, :4] = 99
    # Still at steps 1, 2, 3: three cells always, the fourth at step 1 only.
    assert metrics.flicker(played, truth).tolist() == [pytest.approx(1 / 10)]
    played[:, 3:, :4, :4] = 99  # it stays: wrong, but no flicker
    assert metrics.flicker(played, truth).tolist() == [0]


def test_ghosts_are_cells_that_never_moved_in_the_truth() -> None:
    before = np.zeros((1, 8, 8, 3), np.uint8)
    truth = np.zeros((1, 3, 8, 8, 3), np.uint8)
    truth[:, 1, :4, :4] = 200
    played = np.zeros_like(truth)
    played[:, :, :4, :4] = 99  # too early at step 0; from step 1 on it is where something has been
    played[:, 2, 4:, :4] = 99
    assert metrics.ghosts(played, truth, before).tolist() == [[1, 0, 1]]


@pytest.fixture
def recording(tmp_path: Path, picture: np.ndarray) -> Path:
    """Three clips of a picture with a square that walks."""
    frames = []
    for start in range(3):
        for t in range(90):
            frame = picture.copy()
            x = (start * 5 + t) % 56
            frame[4:12, x : x + 8] = (255, 0, 0)
            frames.append(frame)
    n = len(frames)
    first = (np.arange(n) % 90 == 0).astype(np.uint8)
    zeros = np.zeros(n, np.uint8)
    action = np.where(first, 0, 2).astype(np.uint8)
    meta = {"game": "test:walk", "source": "test", "split": "heldout", "seed": 0, "licence": "MIT", "ships": True}
    shard = Shard(np.stack(frames), first, action, zeros.astype(np.float32), zeros, zeros.copy(), meta)
    write_shard(tmp_path / "heldout" / "test-walk" / "shard-00000.safetensors", shard)
    return tmp_path


def test_true_history_is_what_the_ceiling_shows(recording: Path, tiny_checkpoint: Path) -> None:
    """Observing the coded steps through the world equals decoding the stream."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    stream = load_streams(recording, "heldout", checkpoint.config, checkpoint.tokenizer, 0.0)[0]
    frames = [np.asarray(c.frames) for c in iter_clips(read_shard(next(recording.rglob("shard-0*"))))]
    clips = rollouts.choose(stream, frames, 2, np.random.default_rng(0))
    assert clips.horizon == 64
    world = World(str(tiny_checkpoint), 2)
    decoded = rollouts.ceiling(world, clips)
    world.reset([0, 1], [f[0] for f in clips.frames], [0, 1])
    for t in range(20):
        shown = world.observe([0, 1], [steps[t] for steps in clips.steps])
        assert np.array_equal(shown, decoded[:, t])
        if t < rollouts.CONTEXT:
            truth = clips.truth(t, t + 1)[:, 0]
            world.canvas.show(np.arange(2), truth)
            assert np.array_equal(world.canvas.view(np.arange(2)), truth)
    assert np.array_equal(clips.truth(3, 5)[0, 1], clips.frames[0][5])
    assert (clips.actions(0, 3) == 2).all()


def test_trying_the_next_frame_leaves_no_trace(recording: Path, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    stream = load_streams(recording, "heldout", checkpoint.config, checkpoint.tokenizer, 0.0)[0]
    frames = [np.asarray(c.frames) for c in iter_clips(read_shard(next(recording.rglob("shard-0*"))))]
    clips = rollouts.choose(stream, frames, 2, np.random.default_rng(0))
    world = World(str(tiny_checkpoint), 2)
    actions = clips.actions(rollouts.CONTEXT, rollouts.CONTEXT + 5)
    _, rollout = rollouts.play_on(world, clips, actions)
    world.reset([0, 1], [f[0] for f in clips.frames], [1000, 1001])
    for t in range(rollouts.CONTEXT):
        shown = world.observe([0, 1], [steps[t] for steps in clips.steps], clips.truth(t, t + 1)[:, 0])
    assert np.array_equal(shown, clips.truth(rollouts.CONTEXT - 1, rollouts.CONTEXT)[:, 0])
    straight = np.stack([world.step([0, 1], actions[:, t].tolist()).frames for t in range(5)], axis=1)
    assert np.array_equal(rollout, straight)


def test_command_writes_figures_strips_films_and_curves(
    recording: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "evaluation"
    arguments = ["--model", str(tiny_checkpoint), "--data", str(recording), "--out", str(out)]
    main([*arguments, "--clips", "2", "--sequences", "1"])
    assert "| test-walk |" in capsys.readouterr().out
    report = json.loads((out / "figures.json").read_text())
    figures = report["games"]["test-walk"]
    assert figures["next_frozen"] < metrics.PSNR_CAP
    assert figures["16_moving_frozen"] < figures["16_frozen"]
    assert {"next_model", "16_model", "16_shuffled", "64_model", "64_ceiling"} <= set(figures)
    assert "event_loss" in figures
    assert "train_event_loss" not in figures  # nothing was recorded to train on
    with Image.open(out / "test-walk.png") as strip:
        assert strip.size == (8 * 64 * 2, 2 * 64 * 2)
    with Image.open(out / "test-walk.gif") as film:
        assert film.size == (2 * 64 * 2, 64 * 2)
        assert film.n_frames > 1
    assert len(figures["curves"]["model"]) == 64
    assert figures["curves"]["model"][-1] == pytest.approx(figures["64_model"], abs=0.01)
    assert (out / "curves.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="test-walk: expected 9 clips of 17 steps, got 3"):
        main([*arguments, "--clips", "9"])


def test_losses_on_what_is_trained_on_stand_beside_the_heldout_ones(recording: Path, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    stream = load_streams(recording, "heldout", checkpoint.config, checkpoint.tokenizer, 0.0)[0]
    heldout = histories.evaluate_histories(checkpoint, stream, 2)
    clips = list(iter_clips(read_shard(next(recording.rglob("shard-0*")))))
    shards = [recording / "train" / "test-walk" / f"shard-{i:05}.safetensors" for i in range(3)]
    for shard, clip in zip(shards, clips, strict=True):
        write_shard(shard, clip)
    same = histories.evaluate_training(checkpoint, shards, 2)
    assert same == {name: heldout[name.removeprefix("train_")] for name in ("train_event_loss", "train_code_loss")}
    assert histories.evaluate_training(checkpoint, shards[:1], 2) != same


def test_streams_of_another_tokenizer_are_not_reused(recording: Path, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    load_streams(recording, "heldout", checkpoint.config, checkpoint.tokenizer, 0.0)
    name = tokenizer_fingerprint(checkpoint.tokenizer)
    assert [p.parent.parent.name for p in (recording / "streams").rglob("*.safetensors")] == [
        f"{name}-rules{RULES_VERSION}-tolerance150-errors0"
    ]


def test_a_longer_recording_is_coded_again(recording: Path, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)

    def n_clips() -> int:
        return load_streams(recording, "heldout", checkpoint.config, checkpoint.tokenizer, 0.0)[0].n_clips

    assert n_clips() == 3
    first = recording / "heldout" / "test-walk" / "shard-00000.safetensors"
    shutil.copy(first, first.with_name("shard-00001.safetensors"))
    assert n_clips() == 6


# --- branching


def test_a_branch_matches_the_real_branch_it_looks_most_like() -> None:
    real = np.zeros((3, 2, 4, 4, 3), np.uint8)
    real[1], real[2] = 100, 200
    assert branching.matches(real, real).tolist() == [1, 1, 1]
    assert branching.matches(real, real[[1, 1, 2]] + np.uint8(9)).tolist() == [0, 1, 1]
    # Whoever ignores the keys gets 1 / k, also where two keys do the same.
    assert branching.matches(real, real[[2, 2, 2]]).mean() == pytest.approx(1 / 3)
    alike = real[[0, 0, 2]]
    assert branching.matches(alike, alike).tolist() == [0.5, 0.5, 1]
    assert branching.matches(alike, alike[[0, 0, 0]]).mean() == pytest.approx(1 / 3)


@pytest.mark.parametrize("game", ["procgen:maze", "gameworld:Impact"])
def test_branches_leave_one_state_of_the_real_game(game: str) -> None:
    starts = branching.find(game, "heldout", 2)
    for start in starts:
        assert start.frames.shape == (rollouts.CONTEXT + 1, 64, 64, 3)
        k = len(start.keys)
        assert start.real.shape == (k, branching.HELD, 64, 64, 3)
        assert k == {"procgen:maze": 4, "gameworld:Impact": 3}[game]
    # A key shows at once somewhere, and in more than one state.
    assert all((start.real[:, -1] != start.real[:1, -1]).any() for start in starts)
    assert not np.array_equal(starts[0].frames, starts[1].frames)
    again = branching.find(game, "heldout", 1)[0]
    assert np.array_equal(again.real, starts[0].real)


def test_generated_branches_differ_by_their_keys_alone(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    world = World(str(tiny_checkpoint), branching.BRANCHES)
    start = branching.find("procgen:maze", "heldout", 1)[0]
    shown = branching.generate(world, checkpoint, start)
    assert shown.shape == start.real.shape
    same = branching.Branches(start.frames, start.actions, start.rewards, (start.keys[0],) * 4, start.real)
    repeated = branching.generate(world, checkpoint, same)
    assert (repeated == repeated[:1]).all()
    assert np.array_equal(repeated[0], shown[0])
    figures = branching.evaluate_branches(world, checkpoint, [start, start])
    assert 0 <= figures["branch"] <= 1
    assert figures["branch_interval"] == 0
    assert figures["branch_chance"] == 0.25
