"""Ballistic attention: its paths and its mixture by hand, and its claim on a game small enough to learn in seconds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gamegen_env import ballistics
from gamegen_env.ballistics import GAIN, Ballistics, Paths
from gamegen_env.codec import Stream
from gamegen_env.config import ModelConfig, StreamConfig
from gamegen_env.training import gaussians, objective
from gamegen_env.training.batches import Sampler
from gamegen_env.training.objective import losses, predict, total
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer
from tests.conftest import pair_stream

NO_CONTACT = 50.0  # steps, before the softplus


def paths(cell: int, motion: list[float], elapsed: float, heads: int = 4) -> Paths:
    """One event that sees one update."""
    return Paths(torch.zeros(1, heads, 1), torch.tensor([[cell]]), torch.tensor([[motion]]), torch.tensor([[elapsed]]))


def test_a_path_falls_and_turns_round_at_a_contact(small_map_config: ModelConfig) -> None:
    module = Ballistics(small_map_config)  # 5 x 5 cells
    free = [0.5, -1.0, 0.25, 0.0, NO_CONTACT, NO_CONTACT, 0.0, 0.0]
    assert module.follow(paths(12, free, 0.0))[0, 0].tolist() == [2.0, 2.0]
    assert module.follow(paths(12, free, 4.0))[0, 0].tolist() == [2 + 4 * 0.5 + 16 * 0.125, 2.0 - 4]
    # A contact after 1 + softplus(-4 + 4) steps gives half of the velocity back.
    hit = [2.0, 0.0, 0.0, 0.0, -4.0, NO_CONTACT, 0.0, 0.0]
    contact = 1 + np.log(2)
    down = 2 + 2 * contact - 0.5 * 2 * (3 - contact)
    assert module.follow(paths(12, hit, 3.0))[0, 0].tolist() == pytest.approx([down, 2.0])


def test_attention_lifts_the_cell_to_which_a_path_leads(small_map_config: ModelConfig) -> None:
    module = Ballistics(small_map_config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.aim.bias[2::4] = -20  # the least spread
    hidden = torch.zeros(1, 32)
    moving = paths(3, [0.0, 1.0, 0.0, 0.0, NO_CONTACT, NO_CONTACT, 0.0, 0.0], 2.0)  # row 0, column 3 -> 5 = 0
    led = torch.zeros(25)
    led[0] = 4 * GAIN / 2  # four heads, each between this path and none
    torch.testing.assert_close(module(hidden, moving)[0], led, atol=1e-5, rtol=0)
    nothing = dataclasses.replace(moving, scores=torch.full((1, 4, 1), -torch.inf))
    assert not module(hidden, nothing).any()


@pytest.mark.parametrize("events", [1, gaussians.CHUNK, 2 * gaussians.CHUNK + 5])
def test_training_sums_the_same_gaussians_with_the_same_gradients(events: int) -> None:
    torch.manual_seed(events)
    place = torch.rand(events, 12, 2).mT * 40 - 12  # far outside, where paths lead in time; paths last
    precision = torch.rand(events, 12) * 40 + 0.02  # up to the least spread
    arguments = [x.requires_grad_() for x in (place, precision, torch.randn(events, 12))]
    direction = torch.randn(events, 9, 9)
    figures = []
    for sums in (ballistics.gaussians, gaussians.fast_gaussians):
        led = sums(*arguments, 9)
        figures.append([led, *torch.autograd.grad(led, arguments, direction)])
    for expected, got in zip(*figures, strict=True):
        assert (got - expected).norm() < 0.01 * expected.norm()  # bfloat16 keeps 8 bits


def flights(config: ModelConfig, rows: range, clips: int, seed: int) -> Stream:
    """Things fly along rows of the map, one or two cells a step, over an empty background."""
    rng = np.random.default_rng(seed)
    m, steps = config.stream.map_cells, 12
    maps, cells, news = [], [], []
    for _ in range(clips):
        row, col, speed, sprite = (
            rng.choice(rows),
            int(rng.integers(m)),
            int(rng.choice((1, 2))),
            int(rng.integers(1, 9)),
        )
        first = np.zeros(m * m, np.uint16)
        first[row * m + col] = sprite
        maps.append(first)
        for _ in range(steps):
            behind, col = row * m + col, (col + speed) % m
            both = {behind: 0, row * m + col: sprite}
            cells += sorted(both)
            news += [both[cell] for cell in sorted(both)]
    return pair_stream(config, maps, cells, news)


def test_motion_learned_in_some_rows_holds_in_others(small_map_config: ModelConfig) -> None:
    """A vocabulary of cells knows nothing of a cell that never changed in training; a path leads there all the same."""
    t = dataclasses.replace(small_map_config.transformer, n_layers=2, d_model=64, window=192, pointer=False)
    stream = StreamConfig(view_cells=7, max_scroll=1)
    hits = {}
    for on in (False, True):
        config = dataclasses.replace(small_map_config, stream=stream, transformer=dataclasses.replace(t, ballistics=on))
        seen, unseen = (
            Sampler([flights(config, rows, 200, seed)], config, 192, 8, seed)
            for rows, seed in ((range(5), 0), (range(5, 8), 1))
        )
        torch.manual_seed(0)
        model = Transformer(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 20) * (1 - step / 200)
            loss = total(losses(model, seen(step)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            for name, sampler in (("seen", seen), ("unseen", unseen)):
                batch = sampler(1000)
                cells = torch.from_numpy(batch.event) < config.stream.n_cells
                right = predict(model, batch).event.argmax(1) == torch.from_numpy(batch.event)
                hits[on, name] = float(right[cells].float().mean())
    assert hits[False, "unseen"] < 0.1
    assert hits[True, "unseen"] > 0.8


def test_events_are_compared_in_blocks_as_all_at_once(
    small_map_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = dataclasses.replace(small_map_config.transformer, ballistics=True, window=192)
    config = dataclasses.replace(
        small_map_config, stream=StreamConfig(view_cells=7, max_scroll=1), transformer=transformer
    )
    batch = Sampler([flights(config, range(5), 20, 0)], config, 192, 2, 0)(0)
    torch.manual_seed(0)
    model = Transformer(config)
    figures = []
    for block in (len(batch.event), 5):  # more than there are, and some to a sequence, the last one shorter
        monkeypatch.setattr(objective, "EVENT_BLOCK", block)
        event = predict(model, batch).event
        figures.append([event, *torch.autograd.grad(event.square().sum(), list(model.blocks.parameters()))])
    for expected, got in zip(*figures, strict=True):
        assert (got - expected).norm() <= 1e-5 * expected.norm()
    scored = batch.event_at >= 192  # nothing in the first sequence
    batch = dataclasses.replace(batch, event_at=batch.event_at[scored], event=batch.event[scored])
    torch.testing.assert_close(predict(model, batch).event, figures[0][0][torch.from_numpy(scored)])


def test_weights_without_paths_start_a_model_with_them(small_map_config: ModelConfig) -> None:
    without = dataclasses.replace(small_map_config.transformer, ballistics=False)
    plain = Transformer(dataclasses.replace(small_map_config, transformer=without))
    model = Transformer(small_map_config)
    start_from(model, plain, "plain")
    for name, weight in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
