"""`gamegen gpu-selftest` and `gamegen gpu-bench` on the emulated CUDA engine, and what they say where things lack."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from cmake import CMAKE_BIN_DIR

from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.cli import main
from gamegen_env.config import ModelConfig
from gamegen_env.engine import cuda
from gamegen_env.engine.native import NativeEngine
from gamegen_env.gpu import bench, selftest
from gamegen_env.plan import count
from tests.conftest import random_model


@pytest.fixture(scope="module")
def folder(small_map_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose updates move the picture, too."""
    config = dataclasses.replace(
        small_map_config,
        stream=dataclasses.replace(small_map_config.stream, max_motion=2),
        transformer=dataclasses.replace(small_map_config.transformer, pointer=True),
    )
    path = tmp_path_factory.mktemp("gpu") / "small-map"
    save_checkpoint(path, config, *random_model(config, end_bias=3.0))
    return path


def said(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run `gamegen WORDS`; return its status and what it printed."""
    monkeypatch.setattr("sys.argv", ["gamegen", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), "".join(capsys.readouterr())


SELFTEST = ("--emulate", "--games", "1", "--steps", "4", "--samples", "300", "--batches", "1", "3")


def test_selftest_passes_and_writes_what_it_found(
    simt: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "report.json"
    words = ["gpu-selftest", *SELFTEST, "--model", str(folder), "--out", str(out)]
    status, text = said(words, monkeypatch, capsys)
    assert status == 0, text
    assert "FAIL" not in text
    report = json.loads(out.read_text())
    assert report["passed"]
    assert report["emulated"]
    assert report["device"]["name"] == "emulation on the host"
    names = [check["name"] for check in report["checks"]]
    assert {"warp operations", "tensor cores", "4-bit groups", "function exp", "function silu"} <= set(names)
    assert names[-4:] == [
        "small-map, keyframe of game 0",
        "small-map, 1 at once, game 0",
        "small-map, 1 at once, one kernel, game 0",
        "small-map, 3 at once, game 0",
    ]
    assert text.count("PASS") == len(names)


def test_selftest_names_what_differs(
    simt: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device with a wrong exponential, dead tensor cores and other games: all of it is told, and the status is 1."""
    wrong = SimpleNamespace(
        **{name: getattr(simt, name) for name in ("device", "functions", "exchange", "quantise", "Engine", "Canvas")},
        multiply=lambda a, b: 0 * simt.multiply(a, b),
        evaluate=lambda name, x, y: (
            simt.evaluate(name, x, y)[0] * np.float32(1 + 1e-6 * (name == "exp")),
            simt.evaluate(name, x, y)[1],
        ),
    )
    monkeypatch.setitem(sys.modules, "gamegen_env.engine._simt", wrong)
    monkeypatch.setattr(NativeEngine, "_keyframe", spoilt(NativeEngine._keyframe))
    out = tmp_path / "report.json"
    status, text = said(["gpu-selftest", *SELFTEST, "--model", str(folder), "--out", str(out)], monkeypatch, capsys)
    assert status == 1
    checks = json.loads(out.read_text())["checks"]
    failed = {check["name"]: check["said"] for check in checks if not check["passed"]}
    games = {f"small-map, {what}, game 0" for what in ("1 at once", "1 at once, one kernel", "3 at once")}
    assert set(failed) == {"tensor cores", "function exp", "small-map, keyframe of game 0"} | games
    assert failed["function exp"].startswith("exp: ")
    assert "keys of layer 0, kv_nibbles" in failed["small-map, keyframe of game 0"]
    assert "FAIL  tensor cores" in text


def spoilt(keyframe: Any) -> Any:
    """A keyframe with another tile map on the CPU than on the GPU."""

    def other(engine: NativeEngine, slot: int) -> None:
        if not isinstance(engine, cuda.CudaEngine):
            engine.codes[slot] = engine.codes[slot][::-1].copy()
        keyframe(engine, slot)

    return other


@pytest.mark.parametrize("command", ["gpu-selftest", "gpu-bench"])
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            "not built: no nvcc was found",
            "expected it built with this package, but it was not built: no nvcc was found",
        ),
        ("built with nvcc for 80 90", "but it was built with nvcc for 80 90"),
        (None, "but it was lost: "),
    ],
)
def test_commands_say_why_the_library_is_not_there(
    command: str, build: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if build:
        (tmp_path / "cuda_build.txt").write_text(build + "\n")
    monkeypatch.setattr(cuda.engine, "__path__", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "gamegen_env.engine._cuda", None)
    status, text = said([command, "--out", str(tmp_path / "report.json")], monkeypatch, capsys)
    assert status == 1
    assert expected in text
    assert not (tmp_path / "report.json").exists()


def test_the_build_leaves_word_of_what_became_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuring is enough: it decides. Then the errors of an environment repeat it."""
    kernels, cmake = Path(__file__).parent.parent / "kernels", Path(CMAKE_BIN_DIR) / "cmake"
    options = ["-DGAMEGEN_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([cmake, "-S", kernels, "-B", tmp_path, *options], check=True, capture_output=True)
    monkeypatch.setattr(cuda.engine, "__path__", [str(tmp_path)])
    assert cuda.built() == "not built: GAMEGEN_CUDA is OFF"
    monkeypatch.setitem(sys.modules, "gamegen_env.engine._cuda", None)
    with pytest.raises(ImportError, match="but it was not built: GAMEGEN_CUDA is OFF"):
        gym.make("ImageGame-v0", device="cuda:0")


DRIVER = "cuda: expected an NVIDIA driver, got none installed"
MEMORY = "cuda: expected at least 900 MiB of GPU memory free, got 800; fewer games need less"


@pytest.mark.parametrize("command", ["gpu-selftest", "gpu-bench"])
def test_commands_say_that_a_driver_is_missing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("gamegen_env.engine._cuda")
    module.device = raising(DRIVER)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    status, text = said([command, "--out", str(tmp_path / "report.json")], monkeypatch, capsys)
    assert status == 1
    assert text == f"gamegen {command}: {DRIVER}\n"


def test_selftest_says_that_memory_is_missing(
    simt: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selftest, "CudaEngine", raising(MEMORY))
    words = ["gpu-selftest", *SELFTEST, "--model", str(folder), "--out", str(tmp_path / "report.json")]
    status, text = said(words, monkeypatch, capsys)
    assert status == 1
    assert text.endswith(f"gamegen gpu-selftest: {MEMORY}\n")


def raising(message: str) -> Callable[..., None]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(message)

    return fail


def test_bench_measures_and_says_that_it_was_no_gpu(
    simt: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "FEWEST", 3)
    monkeypatch.setattr(bench, "WARM_UP", 1)
    out = tmp_path / "report.json"
    words = [
        "gpu-bench",
        "--emulate",
        "--models",
        str(folder),
        "--slots",
        "1",
        "2",
        "--seconds",
        "0.01",
        "--out",
        str(out),
    ]
    status, text = said(words, monkeypatch, capsys)
    assert status == 0, text
    report = json.loads(out.read_text())
    assert report["figures_of"] == "the emulation on a CPU, not a GPU"
    assert "nothing here says how fast a GPU is" in text
    (points,) = report["models"].values()
    assert [(point["slots"], point["turns"]) for point in points] == [(1, "auto"), (1, "persistent"), (2, "auto")]
    for point in points:
        assert point["steps"] >= 3
        assert 0 < point["p50_ms"] <= point["p99_ms"]
        assert point["tokens_per_frame"] >= 2
        assert point["passes_per_step"] >= 1
        reads = report["memory_bytes_per_second"]["read"]
        assert point["gigabytes_per_second"] == pytest.approx(point["share_of_memory"] * reads / 1e9)


def test_bench_goes_on_where_many_games_do_not_fit(
    simt: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Small(cuda.CudaEngine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if args[2] > 1:
                raise RuntimeError(MEMORY)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(bench, "CudaEngine", Small)
    monkeypatch.setattr(bench, "FEWEST", 1)
    out = tmp_path / "report.json"
    words = [
        "gpu-bench",
        "--emulate",
        "--models",
        str(folder),
        "--slots",
        "4",
        "1",
        "--seconds",
        "0.01",
        "--out",
        str(out),
    ]
    status, text = said(words, monkeypatch, capsys)
    assert status == 0, text
    (points,) = json.loads(out.read_text())["models"].values()
    assert points[0] == {"slots": 4, "turns": "auto", "error": MEMORY}
    assert points[1]["frames_per_second"] > 0


def test_bytes_by_hand() -> None:
    counts = dataclasses.replace(count(ModelConfig()), pass_bytes=1000, kv_bytes=10)
    assert bench.read_bytes(counts, np.array([3, 5]), 0.5) == 4 * 1000 + (2 + 4) * 10 * 0.5


def test_random_weights_give_steps_of_the_length_asked_for() -> None:
    config = ModelConfig()
    engine = NativeEngine(config, bench.random_model(config, 20), 1, threads=1, temperature=bench.TEMPERATURE)
    engine.reset(0, np.random.default_rng(0).integers(0, 8192, config.stream.n_cells), seed=0)
    tokens = np.mean([engine.step([0], [1]).tokens[0] for _ in range(40)])
    assert 16 < tokens < 25


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gpu-selftest", "--steps", "0"], "--steps: expected at least 1, got 0"),
        (["gpu-selftest", "--batches", "0"], "--batches: expected at least 1"),
        (["gpu-bench", "--seconds", "0"], "expected --seconds above 0"),
    ],
)
def test_nonsense_is_refused(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = said(words, monkeypatch, capsys)
    assert status == 2
    assert expected in text
