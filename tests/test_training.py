"""Training: targets, runs that survive a kill, and a loss that falls."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.codec import Stream, encode_clips
from gamegen_env.config import ACT, END, KEY, SCROLL, UPD, ModelConfig, TransformerConfig
from gamegen_env.games.shards import Shard, write_shard
from gamegen_env.stream import Grammar
from gamegen_env.training import data, train_world
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from gamegen_env.training.describe import statistics
from gamegen_env.training.objective import losses, measure, predict, total, turn
from gamegen_env.training.run import Run
from gamegen_env.transformer import Transformer
from tests.conftest import random_model

ROOT = Path(__file__).parent.parent


def clip(seed: int, length: int = 40) -> Shard:
    """A square that bounces over a pattern, and a camera that pans in the second half."""
    rng = np.random.default_rng(seed)
    world = rng.integers(0, 4, (40, 40, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8) * 60
    frames = np.zeros((length, 64, 64, 3), np.uint8)
    for t in range(length):
        pan = max(0, t - length // 2) * 3 % 64
        frames[t] = world[:64, pan : pan + 64]
        x = abs((5 * t + seed * 7) % 112 - 56)
        frames[t, 24:32, x : x + 8] = (250, 250, 40)
    actions = rng.integers(0, 9, length).astype(np.uint8)
    reward = (rng.random(length) < 0.1).astype(np.float32)
    first, zeros = np.zeros(length, np.uint8), np.zeros(length, np.uint8)
    first[0] = 1
    actions[0], reward[0] = 0, 0
    return Shard(frames, first, actions, reward, zeros, zeros.copy(), {"game": "test:square"})


def coded(config: ModelConfig, error_rate: float = 0.0) -> Stream:
    clips = [clip(seed) for seed in range(4)]
    return encode_clips(
        [c.frames for c in clips],
        [c.action for c in clips],
        [c.reward for c in clips],
        [c.terminated for c in clips],
        config,
        random_model(config)[0],
        game="square",
        fingerprint="test",
        error_rate=error_rate,
    )


@pytest.fixture(scope="module")
def long_window(tiny_config: ModelConfig) -> ModelConfig:
    return ModelConfig(
        name="t",
        tokenizer=tiny_config.tokenizer,
        transformer=TransformerConfig(n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_ff=64, window=900),
    )


def test_sequences_obey_the_grammar_and_targets_point_at_the_next_token(long_window: ModelConfig) -> None:
    sampler = Sampler([coded(long_window)], long_window, 900, 3, seed=0)
    grammar = Grammar(long_window)
    kinds = set()
    for step in range(6):
        batch = sampler(step)
        assert batch.rows.shape == (3, 900, 6)
        for rows in batch.rows:
            last = int(np.flatnonzero(rows[:, 0] == END)[-1]) + 1
            grammar.validate(rows[:last])
        flat = batch.rows.reshape(-1, 6)
        after = flat[batch.event_at + 1]
        kinds |= set(after[:, 0].tolist())
        expected = np.select(
            [after[:, 0] == UPD, after[:, 0] == SCROLL, after[:, 0] == END],
            [after[:, 1], grammar.n_cells + after[:, 2] * 17 + after[:, 1], grammar.end_event],
            -1,
        )
        assert np.array_equal(batch.event, expected)
        assert set(flat[batch.event_at, 0].tolist()) <= {ACT, SCROLL, UPD}
        update = flat[batch.code_at + 1]
        assert (update[:, 0] == UPD).all()
        assert np.array_equal(batch.cell, update[:, 1])
        assert np.array_equal(batch.code, update[:, 2])
        assert np.array_equal(batch.origin, update[:, 3:5])
        assert (batch.present != batch.code).all()
        end = flat[batch.end_at + 1]
        assert (end[:, 0] == END).all()
        assert np.array_equal(np.stack([batch.reward, batch.done], 1), end[:, 1:3])
    assert kinds == {SCROLL, UPD, END}


def test_a_share_of_the_sequences_comes_from_restyled_streams(long_window: ModelConfig) -> None:
    plain, other = coded(long_window), coded(long_window)
    other.action[:] = 60  # by which its sequences are known
    rows = Sampler([plain], long_window, 400, 80, 0, [([other], 0.25)])(0).rows
    from_other = [(sequence[sequence[:, 0] == ACT, 1] == 60).all() for sequence in rows]
    assert 10 <= sum(from_other) <= 30
    with pytest.raises(ValueError, match="variants: expected a stream for each of 1, got 0"):
        Sampler([plain], long_window, 400, 1, 0, [([], 0.5)])
    with pytest.raises(ValueError, match=r"variants: expected shares .* got \[0.5, 0.6\]"):
        Sampler([plain], long_window, 400, 1, 0, [([other], 0.5), ([other], 0.6)])


def test_streams_are_the_same_whoever_codes_them(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, found, pools = load_checkpoint(tiny_checkpoint), [], []

    class CountedPool(ProcessPoolExecutor):
        def __init__(self, workers: int, *arguments: object) -> None:
            pools.append(workers)
            super().__init__(workers, *arguments)

    monkeypatch.setattr(data, "ProcessPoolExecutor", CountedPool)
    for name, cores in (("alone", {0}), ("two", {0, 1})):
        for game in ("a", "b"):
            write_shard(tmp_path / name / "train" / game / "shard-00000.safetensors", clip(ord(game)))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        for restyled in (False, True):
            load_streams(tmp_path / name, "train", checkpoint.config, checkpoint.tokenizer, 0.1, None, restyled)
        found.append({p.name: p.read_bytes() for p in (tmp_path / name).rglob("streams/**/*.safetensors")})
    assert pools == [2, 2]  # plain and restyled, where there are two cores
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_statistics_count_what_a_stream_holds(long_window: ModelConfig) -> None:
    stream = coded(long_window)
    s = statistics(stream)
    assert (s["steps"], s["clips"]) == (156, 4)
    assert s["updates"] == pytest.approx(len(stream.update_cell) / 156)
    assert s["scroll"] == pytest.approx(stream.scroll.any(1).sum() / 156)
    assert s["actions"] == len(np.unique(stream.action))
    assert 0.9 < s["balance"] <= 1  # drawn from nine, all alike
    assert s["plus"] == pytest.approx(1000 * (stream.reward_class == 2).sum() / 156)
    assert (s["minus"], s["ends"]) == (0, 0)


def test_present_codes_are_those_of_the_replayed_map(long_window: ModelConfig) -> None:
    batch = Sampler([coded(long_window)], long_window, 900, 1, seed=3)(0)
    present = dict(zip(batch.code_at.tolist(), batch.present.tolist(), strict=True))
    codes: dict[int, int] = {}
    for position, (kind, a, b, *_) in enumerate(batch.rows[0].tolist()):
        if kind == UPD and position - 1 in present:
            assert present[position - 1] == codes[a]
        if kind in (KEY, UPD):
            codes[a] = b


def test_injected_errors_are_not_scored(long_window: ModelConfig) -> None:
    clean, spoilt = (Sampler([coded(long_window, rate)], long_window, 900, 4, seed=1)(0) for rate in (0.0, 0.3))
    for batch, errors in ((clean, False), (spoilt, True)):
        kinds = batch.rows[..., 0]
        scored = len(batch.code_at) / (kinds == UPD).sum()
        assert (scored < 0.95) == errors
        decided = np.isin(kinds[:, :-1], (ACT, SCROLL, UPD)).sum()
        assert (len(batch.event_at) < decided) == errors


def test_batches_repeat_by_seed_and_step(long_window: ModelConfig) -> None:
    stream = coded(long_window)
    a, b, c = (Sampler([stream], long_window, 600, 2, seed)(5) for seed in (1, 1, 2))
    assert np.array_equal(a.rows, b.rows)
    assert not np.array_equal(a.rows, c.rows)


@pytest.mark.parametrize("pointer", [False, True])
def test_losses_are_those_of_the_whole_distributions(long_window: ModelConfig, pointer: bool) -> None:
    torch.manual_seed(0)
    transformer = dataclasses.replace(long_window.transformer, pointer=pointer, ballistics=True)
    config = dataclasses.replace(long_window, transformer=transformer)
    model, batch = Transformer(config), Sampler([coded(config)], config, 600, 2, seed=0)(0)
    with torch.no_grad():
        torch.nn.init.normal_(model.code.weight, std=0.5)
    fast, whole = losses(model, batch), measure(predict(model, batch), batch)
    gradients = []
    for parts in (fast, whole):
        model.zero_grad()
        total(parts).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for name, value in fast.items():
        assert value.item() == pytest.approx(whole[name].item(), rel=1e-5)
    assert torch.allclose(*gradients, atol=1e-5)


def test_turn_counts_every_sequence_alike(long_window: ModelConfig) -> None:
    batch = Sampler([coded(long_window)], long_window, 600, 3, seed=0)(0)
    rows = batch.rows.copy()
    rows[1][rows[1, :, 0] == ACT, 0] = UPD  # a sequence without a step is not counted
    rows[2][(rows[2, :, 0] == ACT).nonzero()[0][1:], 0] = UPD  # one with a single step is, as much as one with many
    batch = dataclasses.replace(batch, rows=rows)
    logits = torch.randn(len(batch.event), long_window.stream.n_events, generator=torch.Generator().manual_seed(0))
    each = -logits.log_softmax(1)[torch.arange(len(logits)), torch.from_numpy(batch.event)].numpy()
    first = rows.reshape(-1, 6)[batch.event_at, 0] == ACT
    sequence = batch.event_at // 600
    expected = (each[first & (sequence == 0)].mean() + each[first & (sequence == 2)].mean()) / 2
    assert (first & (sequence == 0)).sum() > 1
    assert (first & (sequence == 2)).sum() == 1
    assert turn(logits, batch).item() == pytest.approx(expected, rel=1e-5)


def test_loss_falls_to_memorise_one_batch(long_window: ModelConfig) -> None:
    torch.manual_seed(0)
    model = Transformer(long_window)
    batch = Sampler([coded(long_window)], long_window, 600, 1, seed=0)(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(40):
        loss = total(losses(model, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    # From about 1.5 ln(579) + ln(256) = 15 nats.
    assert 13 < history[0] < 19
    assert history[-1] < 0.6 * history[0]


def test_sampler_refuses_what_does_not_fit(long_window: ModelConfig) -> None:
    with pytest.raises(ValueError, match="sequence: expected at most the window 900, got 901"):
        Sampler([coded(long_window)], long_window, 901, 1, 0)
    with pytest.raises(ValueError, match="streams: expected at least one"):
        Sampler([], long_window, 600, 1, 0)


# --- Runs ---


def test_run_resumes_model_optimizer_and_metrics(tmp_path: Path) -> None:
    def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def advance(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            model(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    straight = parts()
    advance(*straight, range(6))
    run, first = Run(tmp_path, {"lr": 0.1, "steps": 3}), parts()
    advance(*first, range(3))
    run.log(3, loss=1.0)
    run.save(3, *first)
    run.log(4, loss=9.0)  # written before the kill, but never saved
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # cut short by the kill
    again, second = Run(tmp_path, {"lr": 0.1, "steps": 6}), parts()
    assert again.resume(*second) == 3
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [3]
    advance(*second, range(3, 6))
    for a, b in zip(straight[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_run_refuses_other_options_and_broken_checkpoints(tmp_path: Path) -> None:
    Run(tmp_path, {"lr": 0.1, "steps": 3})
    with pytest.raises(ValueError, match=r"other options \(was, now\): {'lr': \(0.1, 0.2\)}"):
        Run(tmp_path, {"lr": 0.2, "steps": 3})
    run = Run(tmp_path, {"lr": 0.1, "steps": 9})
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    run.checkpoint.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="expected a training checkpoint"):
        run.resume(model, optimizer)
    run.save(1, torch.nn.Linear(5, 2), optimizer)
    with pytest.raises(ValueError, match="belongs to another model"):
        run.resume(model, optimizer)


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, {})
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    run.save(1, model, optimizer)
    before = run.checkpoint.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*No space left on device; what was there before is intact"):
        run.save(2, model, optimizer)
    assert run.checkpoint.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "config.json"]


# --- The two commands, small and real ---


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("recording")
    for split, seeds in (("train", range(6)), ("heldout", range(6, 8))):
        shards = [clip(seed) for seed in seeds]
        joined = {
            name: np.concatenate([getattr(s, name) for s in shards])
            for name in ("frames", "first", "action", "reward", "terminated", "truncated")
        }
        rng = np.random.default_rng(0)
        # A tenth of noise, so that there are as many distinct patches as codes.
        noise = rng.integers(0, 40, joined["frames"].shape, dtype=np.uint8)
        joined["frames"] = np.where(rng.random(joined["frames"].shape) < 0.1, noise, joined["frames"])
        meta = {"game": "test:square", "source": "test", "split": split, "seed": 0, "licence": "MIT", "ships": True}
        write_shard(data / split / "test-square" / "shard-00000.safetensors", Shard(**joined, meta=meta))
    return data


def gamegen(*arguments: str, **options: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "gamegen_env.cli", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )  # type: ignore[call-overload]


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def tokenizer_run(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tokenizer"
    finish(
        gamegen(
            "train-tokenizer",
            "--data",
            str(recording),
            "--out",
            str(out),
            "--steps",
            "6",
            "--batch",
            "2",
            "--checkpoint-every",
            "2",
        )
    )
    return out


def test_world_training_survives_kill_9_and_gives_a_playable_model(
    recording: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    """A run killed in mid-work and resumed ends with the very weights of one that was never killed."""
    common = [
        "train-world",
        "--data",
        str(recording),
        "--tokenizer",
        str(tokenizer_run),
        "--batch",
        "1",
        "--sequence",
        "700",
        "--no-compile",
        "--checkpoint-every",
        "1",
        "--steps",
        "5",
    ]
    finish(gamegen(*common, "--out", str(tmp_path / "straight")))
    killed = tmp_path / "killed"
    process = gamegen(*common, "--out", str(killed))
    deadline = time.monotonic() + 240
    while not (killed / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(gamegen(*common, "--out", str(killed)))

    expected, got = tensors(tmp_path / "straight"), tensors(killed)
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert set(steps) == {1, 2, 3, 4, 5}
    config = json.loads((killed / "config.json").read_text())
    assert config["batch"] == 1
    assert config["model"]["transformer"]["window"] == 2048
    assert load_checkpoint(killed / "model").config.name == "pocket"


def test_training_refuses_in_one_line(recording: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (
            ["train-tokenizer", "--data", str(tmp_path), "--out", str(tmp_path / "a")],
            "expected recorded games, found none",
        ),
        (
            ["train-world", "--data", str(recording), "--tokenizer", str(tmp_path), "--out", str(tmp_path / "b")],
            "expected one of",
        ),
        (
            [
                "train-world",
                "--data",
                str(recording),
                "--tokenizer",
                str(tokenizer_run),
                "--out",
                str(tmp_path / "c"),
                "--games",
                "chess",
            ],
            "games: expected some of",
        ),
    ):
        process = gamegen(*arguments)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2
        assert message in output
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--ghosts", "1.5"], "--ghosts: expected a share from 0 to 1, got 1.5"),
        (["--overtime", "-1"], "--overtime: expected a share from 0 to 1, got -1"),
        (["--player", "pocket"], "--player: expected a share for --self-play or --ruins beside it, got none"),
        (["--self-play", "0.5"], "--self-play, --ruins: expected --player or --from MODEL, which is to play, got none"),
    ],
)
def test_train_world_refuses_shares_and_players_that_mean_nothing(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_world.main(["--data", "d", "--tokenizer", "pocket", "--out", "o", *words])
    assert problem in capsys.readouterr().err
