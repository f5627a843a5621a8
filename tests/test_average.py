"""The mean of several models' weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from gamegen_env.checkpoint import load_checkpoint, save_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.training import average
from gamegen_env.training.average import main
from gamegen_env.training.start import deepened
from tests.conftest import random_model


def test_the_mean_of_two_models(tiny_config: ModelConfig, tiny_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer, transformer = random_model(tiny_config)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    for parameter in transformer.parameters():
        parameter.mul_(3)
    save_checkpoint(tmp_path / "other", tiny_config, tokenizer, transformer)
    main([str(tiny_checkpoint), str(tmp_path / "other"), "--out", str(tmp_path / "mean")])
    mean = load_checkpoint(tmp_path / "mean")
    assert mean.config == tiny_config
    for name, value in mean.transformer.state_dict().items():
        torch.testing.assert_close(value.float(), 2 * before[name], rtol=2e-3, atol=1e-4)  # fp16
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(mean.tokenizer.state_dict()[name], value)


def test_a_model_without_anchors_counts_for_all_but_them(small_map_config: ModelConfig, tmp_path: Path) -> None:
    moving = dataclasses.replace(small_map_config, stream=dataclasses.replace(small_map_config.stream, max_motion=2))
    anchored = dataclasses.replace(moving, transformer=dataclasses.replace(moving.transformer, anchor=True))
    models = {"plain": random_model(moving), "anchored": random_model(anchored)}
    for parameter in models["anchored"][1].parameters():
        parameter.mul_(3)
    for name, config in (("plain", moving), ("anchored", anchored)):
        save_checkpoint(tmp_path / name, config, *models[name])
    mean = average.average([tmp_path / "anchored", tmp_path / "plain"])
    assert mean.config == anchored
    got, one, other = mean.transformer.state_dict(), *(models[n][1].state_dict() for n in ("anchored", "plain"))
    still = torch.arange(25) == 12
    for name in got:
        expected = one[name].clone()
        if name == "small.weight":
            expected[:-2] = (one[name][:-2] + other[name]) / 2
        elif name.startswith("motion_head"):
            expected[~still] = (one[name] + other[name])[~still] / 2
        else:
            expected = (one[name] + other[name]) / 2
        torch.testing.assert_close(got[name], expected, rtol=2e-3, atol=1e-4)  # fp16
    with pytest.raises(ValueError, match="anchored: expected the configuration of"):
        average.average([tmp_path / "plain", tmp_path / "anchored"])


def test_a_model_without_sprites_counts_for_all_but_them(small_map_config: ModelConfig, tmp_path: Path) -> None:
    moving = dataclasses.replace(
        small_map_config,
        stream=dataclasses.replace(small_map_config.stream, max_motion=2),
        transformer=dataclasses.replace(small_map_config.transformer, anchor=True),
    )
    sprites = dataclasses.replace(moving, stream=dataclasses.replace(moving.stream, sprites=True))
    models = {"plain": random_model(moving), "sprites": random_model(sprites)}
    for name, config in (("plain", moving), ("sprites", sprites)):
        save_checkpoint(tmp_path / name, config, *models[name])
    mean = average.average([tmp_path / "sprites", tmp_path / "plain"])
    assert mean.config == sprites
    got, one, other = mean.transformer.state_dict(), *(models[n][1].state_dict() for n in ("sprites", "plain"))
    for name in got:
        expected = one[name].clone()
        known = (slice(len(other[name])),) if expected.ndim else ()  # rows of sprites are the last
        expected[known] = (expected[known] + other[name]) / 2
        torch.testing.assert_close(got[name], expected, rtol=2e-3, atol=1e-4)  # fp16
    with pytest.raises(ValueError, match="sprites: expected the configuration of"):
        average.average([tmp_path / "plain", tmp_path / "sprites"])


def test_a_model_with_fewer_blocks_counts_as_the_deeper_one_that_begins_from_it(
    small_map_config: ModelConfig, tmp_path: Path
) -> None:
    transformer = dataclasses.replace(small_map_config.transformer, n_layers=3)
    deep = dataclasses.replace(small_map_config, transformer=transformer)
    models = {"shallow": random_model(small_map_config), "deep": random_model(deep)}
    for name, config in (("shallow", small_map_config), ("deep", deep)):
        save_checkpoint(tmp_path / name, config, *models[name])
    mean = average.average([tmp_path / "deep", tmp_path / "shallow"])
    assert mean.config == deep
    one = models["deep"][1].state_dict()
    other = deepened(models["shallow"][1].state_dict(), 3)
    for name, got in mean.transformer.state_dict().items():
        torch.testing.assert_close(got, (one[name] + other[name]) / 2, rtol=2e-3, atol=1e-4)  # fp16
    with pytest.raises(ValueError, match="deep: expected the configuration of"):
        average.average([tmp_path / "shallow", tmp_path / "deep"])


def test_what_cannot_be_averaged(tiny_config: ModelConfig, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="models: expected at least two, got 1"):
        average.average([tiny_checkpoint])
    window = tiny_config.transformer.window + 64
    longer = dataclasses.replace(tiny_config, transformer=dataclasses.replace(tiny_config.transformer, window=window))
    save_checkpoint(tmp_path / "longer", longer, *random_model(longer))
    with pytest.raises(ValueError, match="longer: expected the configuration of"):
        average.average([tiny_checkpoint, tmp_path / "longer"])
    tokenizer, transformer = random_model(tiny_config)
    next(tokenizer.parameters()).add_(1)
    save_checkpoint(tmp_path / "eyes", tiny_config, tokenizer, transformer)
    with pytest.raises(ValueError, match="eyes: expected the tokenizer of"):
        average.average([tiny_checkpoint, tmp_path / "eyes"])
    assert not (tmp_path / "mean").exists()
