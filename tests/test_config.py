from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from gamegen_env.config import PRESETS, ModelConfig, StreamConfig, TransformerConfig
from gamegen_env.transformer import Transformer, count_parameters

# Parameters of the transformer, in millions: what the presets promise.
SIZES = {"pocket": (5, 12), "base-0.5b": (490, 510), "large-0.8b": (790, 830)}


@pytest.mark.parametrize("name", SIZES)
def test_preset_has_promised_size(name: str) -> None:
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    low, high = SIZES[name]
    assert low <= count_parameters(model) / 1e6 <= high


@pytest.mark.parametrize("name", SIZES)
def test_preset_window_holds_a_keyframe_at_every_position(name: str) -> None:
    config = PRESETS[name]
    s = config.stream
    longest = s.n_cells + config.updates_per_keyframe + s.max_step_tokens
    assert longest <= config.transformer.window


@pytest.mark.parametrize("name", SIZES)
def test_config_survives_json(name: str) -> None:
    assert ModelConfig.from_json(PRESETS[name].to_json()) == PRESETS[name]


def test_config_refuses_unknown_and_missing_keys() -> None:
    data = json.loads(PRESETS["pocket"].to_json())
    with pytest.raises(ValueError, match=r"unknown keys \['colour'\]"):
        ModelConfig.from_json(json.dumps({**data, "colour": 1}))
    del data["stream"]["tolerance"]
    with pytest.raises(ValueError, match=r"config.stream.*missing keys \['tolerance'\]"):
        ModelConfig.from_json(json.dumps(data))


def test_config_refuses_other_format_version() -> None:
    with pytest.raises(ValueError, match="format_version: expected 1, got 99"):
        dataclasses.replace(PRESETS["pocket"], format_version=99)


def test_config_refuses_wrong_types_and_values() -> None:
    data = json.loads(PRESETS["pocket"].to_json())
    data["transformer"]["n_layers"] = "six"
    with pytest.raises(ValueError, match="n_layers: expected int, got 'six'"):
        ModelConfig.from_json(json.dumps(data))
    with pytest.raises(ValueError, match="multiple of n_kv_heads"):
        TransformerConfig(n_heads=4, n_kv_heads=3)
    with pytest.raises(ValueError, match="tolerance: expected > 0"):
        StreamConfig(tolerance=0)
    with pytest.raises(ValueError, match="window: expected at least"):
        ModelConfig(transformer=TransformerConfig(window=300))
