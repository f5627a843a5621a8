"""A run that begins from another model's weights: the same game at first, whatever is new."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gamegen_env.config import UPD, ModelConfig
from gamegen_env.training.start import deepened, start_from
from gamegen_env.transformer import Transformer


def with_layers(config: ModelConfig, n_layers: int) -> Transformer:
    return Transformer(
        dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, n_layers=n_layers))
    )


@pytest.mark.parametrize("n_layers", [3, 4, 5, 9])
def test_a_deeper_model_begins_as_the_one_that_it_comes_from(small_map_config: ModelConfig, n_layers: int) -> None:
    torch.manual_seed(0)
    source, deeper = with_layers(small_map_config, 3), with_layers(small_map_config, n_layers)
    start_from(deeper, source, "source")
    rows = torch.randint(0, 3, (2, 40, 6))
    rows[..., 0] = UPD
    with torch.no_grad():
        (hidden, keys), (expected, expected_keys) = deeper(rows), source(rows)
    assert torch.equal(hidden, expected)
    assert torch.equal(keys, expected_keys)  # what pointer and ballistic attention compare with


def test_new_blocks_learn(small_map_config: ModelConfig) -> None:
    torch.manual_seed(0)
    source, deeper = with_layers(small_map_config, 2), with_layers(small_map_config, 3)
    start_from(deeper, source, "source")
    silent = [block for block in deeper.layers() if not block.out.weight.any() and not block.down.weight.any()]
    assert len(silent) == 1
    rows = torch.randint(0, 3, (1, 40, 6))
    rows[..., 0] = UPD
    deeper(rows)[0].square().mul(torch.randn(1, 40, 1)).sum().backward()
    for linear in (silent[0].out, silent[0].down):
        assert linear.weight.grad is not None
        assert linear.weight.grad.any()


def test_blocks_are_not_taken_away(small_map_config: ModelConfig) -> None:
    weights = with_layers(small_map_config, 3).state_dict()
    assert deepened(weights, 2).keys() == weights.keys()
    with pytest.raises(ValueError, match=r"--from deep: expected the preset's tensors, got others: \['blocks\.2"):
        start_from(with_layers(small_map_config, 2), with_layers(small_map_config, 3), "deep")
