"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cmake import CMAKE_BIN_DIR

from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.codec import Stream
from gamegen_env.config import ModelConfig, StreamConfig, TokenizerConfig, TransformerConfig
from gamegen_env.tokenizer import Tokenizer
from gamegen_env.transformer import Transformer

# Tiny models gain nothing from threads, and spinning OpenMP threads beside another busy process cost a factor of ten.
torch.set_num_threads(1)

# --- Models: random weights, seed 0, small enough for hundreds of steps a second ---


def random_model(config: ModelConfig, end_bias: float = 5.0) -> tuple[Tokenizer, Transformer]:
    """Build models with weights large enough that actions and codes matter; END likely, so steps are short."""
    torch.manual_seed(0)
    tokenizer, transformer = Tokenizer(config.tokenizer), Transformer(config)
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        transformer.event_head.bias[-1] += end_bias
        if transformer.pointer is not None:
            transformer.pointer.sentinel_bias.zero_()  # so that some codes are copied
    return tokenizer.eval().requires_grad_(False), transformer.eval().requires_grad_(False)


def pair_stream(config: ModelConfig, maps: list[np.ndarray], cells: list[int], codes: list[int]) -> Stream:
    """A synthetic game without actions: equally long clips from tile maps, two updates in every step."""
    clips, n = len(maps), len(cells) // 2
    return Stream(
        clip_ptr=np.arange(clips + 1) * (n // clips), codes=np.array(maps, np.uint16),
        action=np.zeros(n, np.uint8), scroll=np.zeros((n, 2), np.int8), reward_class=np.ones(n, np.uint8),
        done=np.zeros(n, np.uint8), end_flag=np.zeros(n, np.uint8), update_ptr=np.arange(n + 1) * 2,
        update_cell=np.array(cells, np.uint16), update_code=np.array(codes, np.uint16),
        update_flag=np.zeros(2 * n, np.uint8), update_motion=np.full(2 * n, -1, np.int16), game="pairs",
        tokenizer="", settings=config.stream, cell_size=4, error_rate=0.0, **carried_none(n),
    )  # fmt: skip


def carried_none(steps: int) -> dict[str, np.ndarray]:
    """Arrays of a stream in which things carry nothing along."""
    names = {"cell": np.uint16, "code": np.uint16, "motion": np.int16}
    return {f"carried_{name}": np.zeros(0, dtype) for name, dtype in names.items()} | {
        "carried_ptr": np.zeros(steps + 1, np.int64)
    }


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """64x64 frames, two layers: for everything above the engine."""
    return ModelConfig(
        name="tiny",
        tokenizer=TokenizerConfig(codebook_size=256, code_dim=8, d_hidden=16),
        transformer=TransformerConfig(n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_ff=64, window=640),
    )


@pytest.fixture(scope="session")
def small_map_config() -> ModelConfig:
    """A 4x4-cell view and a window of 96 tokens: many keyframes and full windows in few steps."""
    return ModelConfig(
        name="small-map",
        tokenizer=TokenizerConfig(codebook_size=64, code_dim=8, d_hidden=16),
        stream=StreamConfig(view_cells=4, max_scroll=2),
        transformer=TransformerConfig(
            n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, d_ff=64, window=96, pointer=True, ballistics=True
        ),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with the tiny random model."""
    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    save_checkpoint(folder, tiny_config, *random_model(tiny_config))
    return folder


@pytest.fixture
def picture() -> np.ndarray:
    """A 64x64 picture with flat areas, edges and texture."""
    rng = np.random.default_rng(7)
    frame = np.full((64, 64, 3), (40, 90, 200), np.uint8)
    frame[40:] = (90, 60, 20)
    frame[20:28, 30:38] = (250, 220, 40)
    frame[44:60, 8:24] = rng.integers(0, 255, (16, 16, 3))
    return frame


# --- The CUDA engine ---


@pytest.fixture(scope="session")
def simt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The CUDA engine emulated on the host, built from the sources as they are now: `gamegen_env.engine._simt`.

    SIMT_LIBRARY: one that is built already (kernels/sanitize.sh).
    """
    if "SIMT_LIBRARY" in os.environ:
        yield from loaded(Path(os.environ["SIMT_LIBRARY"]))
        return
    here = tmp_path_factory.mktemp("simt")
    cmake, kernels = Path(CMAKE_BIN_DIR) / "cmake", Path(__file__).parent.parent / "kernels"
    options = [
        "-DGAMEGEN_SIMT=ON",
        "-DGAMEGEN_CUDA=OFF",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={here}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    subprocess.run([cmake, "-S", kernels, "-B", here / "build", *options], check=True, capture_output=True)
    subprocess.run([cmake, "--build", here / "build", "--target", "_simt"], check=True, capture_output=True)
    (built,) = here.glob("_simt*.so")
    yield from loaded(built)


def loaded(library: Path) -> Iterator[Any]:
    """Let a module stand in for `gamegen_env.engine._simt`."""
    spec = importlib.util.spec_from_file_location("gamegen_env.engine._simt", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module
