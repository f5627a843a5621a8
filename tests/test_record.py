"""Shards on disk and the recorder: alignment, atomic writes, resuming, refusals."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gamegen_env.actions import token
from gamegen_env.games import record as recorder
from gamegen_env.games.base import GameSource, Step
from gamegen_env.games.record import game_folder, main, record
from gamegen_env.games.shards import Shard, iter_clips, read_meta, read_shard, write_shard

GAME = "gameworld:Impact"  # an id that passes the checks; `CountingGame` stands in for it
EPISODE = 7


class CountingGame(GameSource):
    """A game that writes (step of the episode, action that led here, play) into its pixels."""

    licence = "test"

    def __init__(self, game_id: str, num_envs: int, seed: int, split: str) -> None:
        super().__init__(game_id, num_envs, (0, token("RIGHT"), token("LEFT")), {"k": 1}, ())
        self._seed = seed % 251
        self._age = np.zeros(num_envs, int)

    def _frames(self, led: np.ndarray) -> np.ndarray:
        frames = np.zeros((self.num_envs, 64, 64, 3), np.uint8)
        frames[:, 0, 0, 0], frames[:, 0, 0, 1], frames[:, 0, 0, 2] = self._age, led, self._seed
        return frames

    def reset(self) -> np.ndarray:
        self._age = np.arange(self.num_envs) % EPISODE
        return self._frames(np.zeros(self.num_envs, int))

    def step(self, action_tokens: np.ndarray) -> Step:
        fresh = self._age == EPISODE
        self._age = np.where(fresh, 0, self._age + 1)
        end = self._age == EPISODE
        even = np.arange(self.num_envs) % 2 == 0
        return self._frames(action_tokens), np.where(fresh, 0, self._age).astype("f"), end & even, end & ~even

    def close(self) -> None:
        pass


@pytest.fixture
def counting_game(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "make_source", CountingGame)


def small(out: Path, frames: int = 192, seed: int = 0, **kwargs: object) -> list[Path]:
    return record([GAME], frames, out, seed=seed, num_envs=4, shard_frames=64, **kwargs)  # type: ignore[arg-type]


def example(n: int = 6) -> Shard:
    rng = np.random.default_rng(0)
    first, terminated, truncated = (np.zeros(n, np.uint8) for _ in range(3))
    first[[0, 4]] = 1
    terminated[3] = 1
    return Shard(
        frames=rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8),
        first=first,
        action=np.arange(n, dtype=np.uint8),
        reward=rng.normal(size=n).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        meta={"game": GAME, "licence": "é"},
    )


# --- what the recorder stores


@pytest.mark.usefixtures("counting_game")
def test_record_actions_rewards_and_ends_belong_to_the_frame_they_led_to(tmp_path: Path) -> None:
    n_ends = 0
    for path in small(tmp_path):
        shard = read_shard(path)
        for clip in iter_clips(shard):
            age, led = clip.frames[:, 0, 0, 0].astype(int), clip.frames[:, 0, 0, 1]
            assert clip.first.tolist() == [1] + [0] * (len(clip) - 1)
            assert (clip.action[0], clip.reward[0]) == (0, 0)
            assert (clip.action[1:] == led[1:]).all()
            assert (np.diff(age) == 1).all()  # one play, no step missing, no next episode
            assert (clip.reward[1:] == age[1:]).all()
            ended = (clip.terminated | clip.truncated).astype(bool)
            assert (ended[1:] == (age[1:] == EPISODE)).all()
            assert not ended[:-1].any()
            assert not (clip.terminated & clip.truncated).any()
            n_ends += ended.sum()
    assert n_ends > 10


@pytest.mark.usefixtures("counting_game")
def test_record_meta_says_where_the_frames_come_from(tmp_path: Path) -> None:
    paths = small(tmp_path, 100, seed=9, split="heldout")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "heldout/gameworld-Impact/shard-00000.safetensors",
        "heldout/gameworld-Impact/shard-00001.safetensors",
    ]
    meta, n = read_meta(paths[1])
    assert n == 64
    expected = {"game": GAME, "source": "gameworld", "licence": "test", "ships": True, "split": "heldout"}
    expected |= {"seed": 9, "shard": 1, "env_kwargs": {"k": 1}, "packages": {}, "format_version": 1}
    assert {key: meta[key] for key in expected} == expected
    assert meta["policy"]


@pytest.mark.usefixtures("counting_game")
def test_record_shards_differ_by_index_seed_and_split(tmp_path: Path) -> None:
    paths = small(tmp_path / "a") + small(tmp_path / "b", seed=1) + small(tmp_path / "c", split="heldout")
    seeds = {int(read_shard(p).frames[0, 0, 0, 2]) for p in paths}
    assert len(seeds) == len(paths)


# --- resuming


@pytest.mark.usefixtures("counting_game")
def test_record_interrupted_run_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small(tmp_path / "whole")

    def interrupted(path: Path, shard: Shard) -> None:
        if path.name == "shard-00001.safetensors":
            path.with_name(path.name + ".tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write_shard(path, shard)

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "part")
    folder = game_folder(tmp_path / "part", "train", GAME)
    written = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    assert len(list(folder.glob("*.tmp"))) == 1
    part = small(tmp_path / "part")
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == written
    assert sorted(p.name for p in folder.iterdir()) == [p.name for p in whole]
    assert [p.read_bytes() for p in part] == [p.read_bytes() for p in whole]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_record_killed_process_continues_to_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("gameworld")

    def command(out: Path) -> list[str]:
        code = (
            "from gamegen_env.games.record import record;"
            f"record(['{GAME}'], 1024, {str(out)!r}, num_envs=4, shard_frames=128)"
        )
        return [sys.executable, "-c", code]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    killed = subprocess.Popen(command(tmp_path / "part"), stderr=subprocess.DEVNULL)
    folder = game_folder(tmp_path / "part", "train", GAME)
    while killed.poll() is None and not (folder / "shard-00001.safetensors").exists():
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for path in folder.glob("shard-*.safetensors"):
        read_shard(path)
    part = record([GAME], 1024, tmp_path / "part", num_envs=4, shard_frames=128)
    whole = sorted(game_folder(tmp_path / "whole", "train", GAME).iterdir())
    assert sorted(folder.iterdir()) == sorted(part)
    assert [p.read_bytes() for p in part] == [p.read_bytes() for p in whole]


@pytest.mark.usefixtures("counting_game")
def test_record_shard_of_another_seed_is_refused_and_kept(tmp_path: Path) -> None:
    path = small(tmp_path, 64)[0]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"shard-00000.*'seed': 1.*'seed': 0"):
        small(tmp_path, 64, seed=1)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("counting_game")
def test_record_full_disk_is_explained_and_earlier_shards_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small(tmp_path, 64)[0]
    before = first.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*No space left") as info:
        small(tmp_path, 128)
    assert info.value.errno == errno.ENOSPC
    assert "shard-00001.safetensors" in str(info.value)
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    assert first.read_bytes() == before


# --- refusals


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({"frames_per_game": 0}, "frames_per_game"),
        ({"num_envs": 0}, "num_envs"),
        ({"shard_frames": 63}, "shard_frames"),
        ({"stray": 1.5}, "stray"),
        ({"split": "all"}, "split"),
        ({"game_ids": ["procgen:ninja"]}, "reserved"),
    ],
)
def test_record_bad_argument_is_named_before_anything_is_written(tmp_path: Path, kwargs: dict, names: str) -> None:
    arguments = {"game_ids": [GAME], "frames_per_game": 64, "out": tmp_path / "x", "num_envs": 4, **kwargs}
    with pytest.raises(ValueError, match=names):
        record(**arguments)
    assert not (tmp_path / "x").exists()


def test_record_unknown_game_is_named_before_another_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a kind of .*'swim'"):
        record(["physics:fall", "physics:swim"], 64, tmp_path, num_envs=4, shard_frames=64)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_main_reserved_game_fails_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--games", f"{GAME},gameworld:Hunt", "--frames", "64", "--out", str(tmp_path / "x")])
    assert status == 1
    assert "gamegen record: game_id: 'gameworld:Hunt' is reserved" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_main_pocket_means_the_pocket_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(recorder, "record", lambda *args: calls.append(args))
    assert main(["--games", "pocket", "--frames", "7", "--out", "d", "--split", "heldout", "--seed", "3"]) == 0
    assert calls == [(tuple(recorder.POCKET_MIX), 7, "d", "heldout", 3, 16, 0.0)]


def test_main_pocket_without_frames_records_the_whole_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(recorder, "record", lambda games, frames, out, split, seed, stray=0.0: calls.append(
        (*games, frames, split, stray)
    ))  # fmt: skip
    assert main(["--games", "pocket", "--out", "d"]) == 0
    assert len(recorder.POCKET_MIX) >= 20
    for game_id, frames in recorder.POCKET_MIX.items():
        assert frames % recorder.SHARD_FRAMES == 0
        assert (game_id, frames, "train", 0.15) in calls
        assert (game_id, 4096, "heldout", 0.0) in calls
    assert len(calls) == 2 * len(recorder.POCKET_MIX)


def test_main_other_games_need_a_number_of_frames(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--games", GAME, "--out", "d"])
    assert "--frames: expected a number" in capsys.readouterr().err


# --- shards


def test_shard_roundtrip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.safetensors"
    write_shard(path, example())
    got = read_shard(path)
    for field in dataclasses.fields(Shard):
        if field.name != "meta":
            a, b = getattr(got, field.name), getattr(example(), field.name)
            assert a.dtype == b.dtype
            assert (a == b).all()
    assert got.meta == {**example().meta, "format_version": 1}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_iter_clips_covers_the_shard_in_order() -> None:
    clips = list(iter_clips(example()))
    assert [len(c) for c in clips] == [4, 2]
    assert (np.concatenate([c.frames for c in clips]) == example().frames).all()
    assert clips[1].terminated.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"reward": np.zeros(6)}, r"reward: expected float32 \(6,\), got float64 \(6,\)"),
        ({"action": np.zeros(5, np.uint8)}, r"action: expected uint8 \(6,\), got uint8 \(5,\)"),
        ({"frames": np.zeros((6, 32, 64, 3), np.uint8)}, r"frames: expected uint8 \(6, 64, 64, 3\)"),
        ({"first": np.zeros(6, np.uint8)}, "first: expected a shard that starts with a clip"),
        ({"first": np.array([1, 0, 0, 0, 0, 0], np.uint8)}, "first: expected a new clip after every end"),
    ],
)
def test_shard_wrong_array_is_refused_on_write_and_on_read(tmp_path: Path, change: dict, match: str) -> None:
    wrong = dataclasses.replace(example(), **change)
    with pytest.raises(ValueError, match=match):
        write_shard(tmp_path / "w.safetensors", wrong)
    assert not (tmp_path / "w.safetensors").exists()
    path = tmp_path / "bad.safetensors"
    arrays = {f.name: getattr(wrong, f.name) for f in dataclasses.fields(Shard) if f.name != "meta"}
    save_file(arrays, path, {"shard": json.dumps({"format_version": 1})})
    with pytest.raises(ValueError, match=rf"bad\.safetensors: {match}"):
        read_shard(path)


def test_read_shard_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    write_shard(path, example())
    whole = path.read_bytes()
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert load_file(path).keys() == arrays.keys()

    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"s\.safetensors: expected a whole safetensors file"):
        read_shard(path)
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"s\.safetensors: header: expected metadata"):
        read_shard(path)
    save_file(arrays, path, {"shard": json.dumps({"format_version": 99})})
    with pytest.raises(ValueError, match=r"s\.safetensors: format_version: expected 1, got 99"):
        read_shard(path)
    save_file({**arrays, "extra": arrays["first"]}, path, {"shard": json.dumps({"format_version": 1})})
    with pytest.raises(ValueError, match=r"s\.safetensors: arrays: expected .* got .*extra"):
        read_shard(path)
    with pytest.raises(FileNotFoundError, match="no shard at"):
        read_shard(tmp_path / "absent.safetensors")
