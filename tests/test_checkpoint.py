from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gamegen_env.checkpoint import (
    find,
    load_checkpoint,
    load_tokenizer,
    packaged_models,
    save_checkpoint,
    tokenizer_fingerprint,
)
from gamegen_env.config import PRESETS, ModelConfig
from tests.conftest import random_model


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_checkpoint_holds_what_was_saved(tiny_config: ModelConfig, tmp_path: Path) -> None:
    tokenizer, transformer = random_model(tiny_config)
    save_checkpoint(tmp_path, tiny_config, tokenizer, transformer)
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == tiny_config
    for name, value in transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], value.half().float()), name
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(loaded.tokenizer.state_dict()[name], value), name
    assert tokenizer_fingerprint(loaded.tokenizer) == tokenizer_fingerprint(tokenizer)


def test_checkpoint_is_loaded_once_and_again_after_a_change(folder: Path, tiny_config: ModelConfig) -> None:
    first = load_checkpoint(folder)
    assert load_checkpoint(folder) is first
    tokenizer, transformer = random_model(tiny_config, end_bias=1.0)
    save_checkpoint(folder, tiny_config, tokenizer, transformer)
    assert load_checkpoint(folder).fingerprint != first.fingerprint


def edit_tensors(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit_config(folder: Path, change) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


NORM = "transformer.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(extra=torch.zeros(1)), r"unknown tensors \['extra'\]"),
        (lambda t: t.pop(NORM), r"missing tensors \['transformer.norm.weight'\]"),
        (lambda t: t.update({NORM: torch.ones(7)}), r"norm.weight: expected shape \(32,\), got \(7,\)"),
        (lambda t: t.update({NORM: torch.full((32,), float("nan"))}), "norm.weight: expected finite numbers"),
        (
            lambda t: t.update({NORM: torch.ones(32, dtype=torch.int32)}),
            "norm.weight: expected a floating-point tensor",
        ),
    ],
)
def test_bad_tensors_are_refused(folder: Path, change, message: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=2), "config.json: format_version: expected 1, got 2"),
        (lambda c: c.update(colour=2), r"config.json: config: unknown keys \['colour'\]"),
        (lambda c: c["transformer"].pop("d_ff"), r"missing keys \['d_ff'\]"),
        (lambda c: c["transformer"].update(head_dim=32), "head_dim: expected 64, got 32"),
        (lambda c: c["transformer"].update(d_model="wide"), "d_model: expected int, got 'wide'"),
    ],
)
def test_bad_configs_are_refused(folder: Path, change, message: str) -> None:
    edit_config(folder, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


def test_pickles_and_broken_files_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for data in (pickle.dumps({"weights": 1}), whole[:-10], whole[: len(whole) // 2], b"", b"PK\x03\x04 zip"):
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="expected a safetensors file"):
            load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        load_checkpoint(folder)


def test_missing_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected one of .*'pocket'.* or a folder"):
        find("no-such-model")
    with pytest.raises(TypeError, match="model: expected a name or a path, got NoneType"):
        find(None)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing|config\.json is missing"):
        load_checkpoint(tmp_path)


def test_packaged_pocket_model_keeps_its_promises() -> None:
    assert "pocket" in packaged_models()
    loaded = load_checkpoint("pocket")
    assert loaded.config == PRESETS["pocket"]
    assert loaded.config.transformer.pointer
    assert loaded.config.transformer.ballistics
    parameters = sum(p.numel() for p in loaded.transformer.parameters()) + sum(
        p.numel() for p in loaded.tokenizer.state_dict().values()
    )
    assert parameters <= 12e6
    assert (find("pocket") / "model.safetensors").stat().st_size <= 25e6
    assert (find("pocket") / "README.md").is_file()
    assert tokenizer_fingerprint(load_tokenizer("pocket")) == tokenizer_fingerprint(loaded.tokenizer)


# --- several files


def same(one: Path, other: Path) -> bool:
    a, b = (load_checkpoint(folder) for folder in (one, other))
    pairs = zip(a.transformer.state_dict().values(), b.transformer.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and a.config == b.config


def test_a_large_model_is_split_and_loads_the_same(tiny_config: ModelConfig, tmp_path: Path) -> None:
    tokenizer, transformer = random_model(tiny_config)
    whole, split = tmp_path / "whole", tmp_path / "split"
    save_checkpoint(whole, tiny_config, tokenizer, transformer)
    save_checkpoint(split, tiny_config, tokenizer, transformer, shard_bytes=20_000)
    parts = sorted(split.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert not (split / "model.safetensors").exists()
    assert json.loads((split / "model.safetensors.index.json").read_text())["metadata"]["total_size"] > 40_000
    assert same(whole, split)
    # Saved anew, in either form, nothing of the old one stays.
    save_checkpoint(split, tiny_config, *random_model(tiny_config, end_bias=1.0), shard_bytes=30_000)
    assert not set(parts) & set(split.glob("model-*.safetensors"))
    save_checkpoint(split, tiny_config, tokenizer, transformer)
    assert {p.name for p in split.iterdir()} == {"config.json", "model.safetensors"}
    assert same(whole, split)


@pytest.fixture
def split(tiny_config: ModelConfig, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "split", tiny_config, *random_model(tiny_config), shard_bytes=20_000)
    return tmp_path / "split"


def test_broken_splits_are_refused_by_name(split: Path) -> None:
    index = split / "model.safetensors.index.json"
    good = index.read_text()
    for bad, message in (
        ("{", "index.json: expected JSON with a weight_map"),
        ("{}", "index.json: expected JSON with a weight_map"),
        ('{"weight_map": {}}', "expected a weight_map of tensors"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "a: expected a safetensors file of this folder"),
        ('{"weight_map": {"a": "a.pt"}}', "a: expected a safetensors file of this folder"),
        ('{"weight_map": {"a": "a.safetensors"}}', r"missing are \['a.safetensors'\]"),
    ):
        index.write_text(bad)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(split)
    index.write_text(good)
    part = sorted(split.glob("model-*.safetensors"))[0]
    shutil.copy(part, split / "again.safetensors")
    weight_map = json.loads(good)["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | {"extra": "again.safetensors"}}))
    with pytest.raises(ValueError, match="expected each tensor in one file, got"):
        load_checkpoint(split)
    index.write_text(good)
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(ValueError, match="expected a safetensors file"):
        load_checkpoint(split)
