"""Pointer memory: the mixture by hand, and its claims on a game small enough to learn in seconds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gamegen_env.codec import Stream
from gamegen_env.config import ModelConfig
from gamegen_env.pointer import mixture
from gamegen_env.training.batches import Sampler
from gamegen_env.training.objective import losses, measure, predict, total
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer
from tests.conftest import pair_stream


def test_mixture_adds_up_what_carries_the_same_code() -> None:
    vocabulary = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    sentinel, copied = torch.tensor([0.5]), torch.tensor([[1.0, -torch.inf, 3.0, 2.0]])
    w = torch.tensor([0.5, 1.0, 3.0, 2.0]).softmax(0)
    p = vocabulary[0].softmax(0)
    expected = torch.stack([w[0] * p[0] + w[1] + w[2], w[0] * p[1], torch.tensor(0.0), w[0] * p[3] + w[3]])
    got = mixture(
        vocabulary, sentinel, copied, torch.tensor([0, 1, 0, 3]), torch.zeros(1, 0), torch.tensor([0]), 0
    ).exp()
    torch.testing.assert_close(got[0], expected, atol=1e-6, rtol=0)
    assert float(got.sum()) == pytest.approx(1)


def test_where_nothing_can_be_copied_the_vocabulary_decides() -> None:
    vocabulary = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    got = mixture(
        vocabulary, torch.zeros(3), torch.full((3, 5), -torch.inf), torch.zeros(5, dtype=torch.long), torch.zeros(3, 0),
        torch.zeros(3, dtype=torch.long), 0,
    )  # fmt: skip
    torch.testing.assert_close(got, vocabulary.log_softmax(1), atol=1e-6, rtol=0)


def walks(config: ModelConfig, codes: range, clips: int, seed: int) -> Stream:
    """A sprite walks right, one cell a step, over a background; all of its and their codes are drawn from `codes`.

    Each step covers the next cell with the sprite and gives the last one its background back.
    """
    rng = np.random.default_rng(seed)
    m, steps = config.stream.map_cells, 12
    maps, cells, news = [], [], []
    for _ in range(clips):
        background = rng.choice(codes, m * m)
        sprite, at = rng.choice(codes), int(rng.integers(m * m))
        first = background.copy()
        first[at] = sprite
        maps.append(first)
        for _ in range(steps):
            behind, at = at, at // m * m + (at + 1) % m
            both = {behind: background[behind], at: sprite}
            cells += sorted(both)
            news += [both[cell] for cell in sorted(both)]
    return pair_stream(config, maps, cells, news)


def test_codes_never_seen_in_training_move_and_come_back(small_map_config: ModelConfig) -> None:
    """With the pointer a sprite of unseen codes walks on, and what it hid returns; without, neither can be."""
    t = dataclasses.replace(small_map_config.transformer, n_layers=1, d_model=64)
    hits = {}
    for pointer in (False, True):
        config = dataclasses.replace(small_map_config, transformer=dataclasses.replace(t, pointer=pointer))
        seen, unseen = (
            Sampler([walks(config, codes, 400, seed)], config, 96, 16, seed)
            for codes, seed in ((range(48), 0), (range(48, 64), 1))
        )
        torch.manual_seed(0)
        model = Transformer(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(160):
            optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 20) * (1 - step / 160)
            loss = total(losses(model, seen(step)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            batch = unseen(0)
            hits[pointer] = float(measure(predict(model, batch), batch)["code_hit"])
    assert hits[False] < 0.1
    assert hits[True] > 0.8


def test_weights_without_a_pointer_start_one_with(small_map_config: ModelConfig) -> None:
    without = dataclasses.replace(small_map_config.transformer, pointer=False)
    plain = Transformer(dataclasses.replace(small_map_config, transformer=without))
    model = Transformer(small_map_config)
    start_from(model, plain, "plain")
    for name, weight in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    narrow = dataclasses.replace(small_map_config, transformer=dataclasses.replace(without, d_ff=32))
    with pytest.raises(ValueError, match=r"expected the preset's tensors, got others: .*down.weight"):
        start_from(model, Transformer(narrow), "narrow")
