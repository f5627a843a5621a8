"""Anchors: what a cell showed when it came into view, by hand, in training's batches and in every engine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from gamegen_env.anchor import follow
from gamegen_env.codec import Stream
from gamegen_env.config import KEY, UPD, ModelConfig
from gamegen_env.engine import Engine
from gamegen_env.engine.base import make_engine
from gamegen_env.engine.cuda import CudaEngine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.pointer import mixture, mixture_at
from gamegen_env.stream import Grammar, Step
from gamegen_env.training.batches import Sampler
from gamegen_env.training.objective import losses, measure, predict
from gamegen_env.training.start import start_from
from gamegen_env.transformer import Transformer
from tests.conftest import carried_none, random_model
from tests.test_engines import ACTIONS, spell


@pytest.fixture(scope="module")
def config(small_map_config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(
        small_map_config,
        stream=dataclasses.replace(small_map_config.stream, max_motion=2),
        transformer=dataclasses.replace(small_map_config.transformer, anchor=True),
    )


@pytest.fixture(scope="module")
def patches(config: ModelConfig) -> np.ndarray:
    return random_model(config)[0].patches()


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> Transformer:
    model = random_model(config, end_bias=2.0)[1]
    assert model.motion_head is not None
    with torch.no_grad():
        model.motion_head.bias[config.stream.n_motions // 2] += 3  # so that many updates bring the anchor back
    return model


def wandering(config: ModelConfig, clips: int = 3, steps: int = 40) -> Stream:
    """Random updates of what is on screen, under a camera that moves in every third step."""
    grammar, rng = Grammar(config), np.random.default_rng(3)
    scroll, cells, codes, ptr = [], [], [], [0]
    first = rng.integers(0, 64, (clips, grammar.n_cells))
    for clip in range(clips):
        origin, shown = np.zeros(2, int), first[clip].copy()
        for _ in range(steps):
            scroll.append(rng.integers(-2, 3, 2) * int(rng.random() < 1 / 3))
            origin = grammar.move(origin, scroll[-1])
            at = np.sort(rng.choice(np.flatnonzero(grammar.visible_cells(origin)), 3, replace=False))
            new = (shown[at] + rng.integers(1, 64, 3)) % 64
            shown[at] = new
            cells += at.tolist()
            codes += new.tolist()
            ptr.append(len(cells))
    n = clips * steps
    return Stream(
        clip_ptr=np.arange(clips + 1) * steps, codes=first.astype(np.uint16), action=np.zeros(n, np.uint8),
        scroll=np.array(scroll, np.int8), reward_class=np.ones(n, np.uint8), done=np.zeros(n, np.uint8),
        end_flag=np.zeros(n, np.uint8), update_ptr=np.array(ptr), update_cell=np.array(cells, np.uint16),
        update_code=np.array(codes, np.uint16), update_flag=np.zeros(len(cells), np.uint8),
        update_motion=np.full(len(cells), -1, np.int16), game="wandering", tokenizer="", settings=config.stream,
        cell_size=4, error_rate=0.0, **carried_none(n),
    )  # fmt: skip


# --- the rule


def test_a_cell_appears_when_all_of_it_comes_on_screen(config: ModelConfig) -> None:
    """Cells of 4 pixels, a view of 4 cells on a torus of 5: at x = 0 the last column is off screen."""
    grammar = Grammar(config)

    def columns(before: int, after: int) -> list[int]:
        x = np.array([[before, 0], [after, 0]])
        return np.flatnonzero(grammar.appeared(x[:1], x[1:]).reshape(5, 5)[0]).tolist()

    assert columns(0, 1) == []  # of column 4 a pixel shows
    assert columns(1, 4) == [4]
    assert columns(0, 4) == [4]
    assert columns(4, 0) == [0]
    assert columns(6, 4) == [1]  # it was cut, at 6, by the left edge
    assert columns(4, 4) == []


def test_anchors_follow_a_camera(config: ModelConfig) -> None:
    stream, grammar = wandering(config), Grammar(config)
    for clip in range(stream.n_clips):
        part = stream.only(clip)
        codes = part.codes[0].astype(np.int64)
        anchor, origin, expected = codes.copy(), np.zeros(2, np.int64), []
        for step in part.steps(0):
            expected += anchor[step.cells].tolist()
            codes[step.cells] = step.codes
            moved = grammar.move(origin, step.scroll).astype(np.int64)
            for cell in range(grammar.n_cells):
                corner = np.array([cell % 5 * 4, cell // 5 * 4])
                was, now = (((corner - o) % 20 <= 12).all() for o in (origin, moved))
                if now and not was:
                    anchor[cell] = codes[cell]
            origin = moved
        start = part.codes[0].astype(np.int64)
        half, then = follow(part, 0, 17, start, np.zeros(2, np.int64), start, grammar)
        at, middle = part.map_at(0, 17)
        rest, last = follow(part, 17, 40, at.astype(np.int64), middle.astype(np.int64), then, grammar)
        assert [*half.tolist(), *rest.tolist()] == expected
        assert np.array_equal(last, anchor)
        assert (anchor != start).any()


def test_where_the_camera_stands_the_anchor_is_the_first_picture(config: ModelConfig) -> None:
    stream = wandering(config).only(0)
    still = dataclasses.replace(stream, scroll=np.zeros_like(stream.scroll))
    start = np.arange(25)
    seen, last = follow(still, 0, 40, stream.codes[0].astype(np.int64), np.zeros(2, np.int64), start, Grammar(config))
    assert np.array_equal(seen, stream.update_cell)
    assert last is start


# --- tokens and choices


def test_a_keyframe_says_what_has_gone_astray(config: ModelConfig, model: Transformer) -> None:
    grammar = Grammar(config)
    codes, anchor = np.arange(25), np.arange(25)
    anchor[[3, 20]] = 63
    rows = grammar.keyframe_tokens(codes, (0, 0), 0, anchor)
    assert np.flatnonzero(rows[:, 2] >= 64).tolist() == [3, 20]
    (read,) = grammar.parse(rows)
    assert np.array_equal(read.codes, codes)  # type: ignore[union-attr]
    embedded, still = (model.embed(torch.from_numpy(r)) for r in (rows, grammar.keyframe_tokens(codes, (0, 0), 0)))
    assert (embedded != still).any(1).nonzero()[:, 0].tolist() == [3, 20]


def test_the_anchor_takes_the_place_of_no_motion() -> None:
    g = torch.Generator().manual_seed(0)
    vocabulary, copied, moves = (torch.randn(2, n, generator=g) for n in (6, 3, 9))
    sentinel, codes = torch.zeros(2), torch.tensor([1, 5, 1])
    moves[1, 4] = -torch.inf  # the second cell shows its anchor
    anchor = torch.tensor([5, 2])
    p = mixture(vocabulary, sentinel, copied, codes, moves, anchor, 4).exp()
    w = torch.cat([sentinel[:, None], copied, moves], 1).softmax(1)
    expected = w[:, :1] * vocabulary.softmax(1)
    for token, code in enumerate(codes):
        expected[:, code] += w[:, 1 + token]
    expected[0, 5] += w[0, 8]
    torch.testing.assert_close(p[:, :6], expected)
    assert p[:, 10].max() < 1e-15  # (0, 0) itself is never drawn
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    for target in range(6):
        at = torch.full((2,), target)
        none = torch.full((2,), -1)
        log_p = vocabulary.log_softmax(1)[:, target]
        torch.testing.assert_close(
            mixture_at(log_p, sentinel, copied, codes, moves, anchor, 4, at, none).exp(), p[:, target]
        )


# --- training


def test_batches_know_the_anchor_of_every_update(config: ModelConfig) -> None:
    """Found again from the tokens alone: a keyframe's cells that are not astray show their anchor."""
    sampler = Sampler([wandering(config)], config, 96, 2, seed=0)
    astray = known = 0
    for step in range(20):
        batch = sampler(step)
        anchor = dict(zip(batch.code_at.tolist(), batch.anchor.tolist(), strict=True))
        for b, rows in enumerate(batch.rows.tolist()):
            at_home: dict[int, int] = {}
            for i, (kind, cell, content, *_) in enumerate(rows):
                if kind == KEY and content < 64:
                    at_home[cell] = content
                elif kind == KEY:
                    at_home.pop(cell, None)
                    astray += 1
                elif kind == UPD and cell in at_home and (96 * b + i - 1) in anchor and rows[i][3:5] == rows[0][3:5]:
                    known += 1
                    assert anchor[96 * b + i - 1] == at_home[cell]
    assert astray > 20
    assert known > 20


def test_without_anchors_batches_are_what_they_were(config: ModelConfig) -> None:
    plain = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, anchor=False))
    with_, without = (Sampler([wandering(config)], c, 96, 2, seed=0)(3) for c in (config, plain))
    assert (without.rows[without.rows[..., 0] == KEY, 2] < 64).all()
    for name in ("event", "code_at", "present", "code", "choice"):
        assert np.array_equal(getattr(with_, name), getattr(without, name))


def test_losses_are_those_of_the_whole_distributions(config: ModelConfig, model: Transformer) -> None:
    batch = Sampler([wandering(config)], config, 96, 4, seed=0)(0)
    assert (batch.anchor != batch.present).mean() > 0.2
    whole = measure(predict(model, batch), batch)
    for name, value in losses(model, batch).items():
        assert value.item() == pytest.approx(whole[name].item(), rel=1e-5)


def test_a_model_learns_anchors_from_one_without(config: ModelConfig) -> None:
    plain = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, anchor=False))
    torch.manual_seed(0)
    old, new = Transformer(plain), Transformer(config)
    start_from(new, old, "old")
    assert torch.equal(new.small.weight[:-2], old.small.weight)
    again = Transformer(plain)
    start_from(again, new, "new")
    assert torch.equal(again.small.weight, old.small.weight)


def test_a_model_without_anchors_is_described_as_ever(config: ModelConfig, small_map_config: ModelConfig) -> None:
    assert "anchor" not in small_map_config.to_json()
    assert ModelConfig.from_json(small_map_config.to_json()) == small_map_config
    assert json.loads(config.to_json())["transformer"]["anchor"] is True
    assert ModelConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match=r"transformer\.anchor: expected False with stream\.max_motion 0, got True"):
        dataclasses.replace(config, stream=dataclasses.replace(config.stream, max_motion=0))


# --- engines


def engines(config: ModelConfig, model: Transformer, patches: np.ndarray, **options: Any) -> dict[str, Engine]:
    return {
        name: make_engine(name, config, model, 1, precision="float32", patches=patches, **options)
        for name in ("reference", "torch", "native")
    }


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_engines_bring_back_the_same_anchors(
    config: ModelConfig, model: Transformer, patches: np.ndarray, temperature: float
) -> None:
    tile_map = np.random.default_rng(0).integers(0, 64, config.stream.n_cells)
    games, brought_back, dropped = {}, 0, 0
    for name, engine in engines(config, model, patches, temperature=temperature).items():
        engine.reset(0, tile_map, seed=5)
        games[name] = []
        for action in ACTIONS:
            codes, anchor, origin = engine.codes[0].copy(), engine.anchor[0].copy(), engine.origin.copy()
            batch = engine.step([0], [action])
            appeared = engine.grammar.appeared(origin, engine.origin)[0]
            assert np.array_equal(engine.anchor[0], np.where(appeared, engine.codes[0], anchor))
            games[name].append(spell(batch, 0))
            home = (batch.motions < 0) & (batch.codes == anchor[batch.cells])
            assert (codes[batch.cells][home] != anchor[batch.cells][home]).all()
            brought_back += int(home.sum())
            dropped += int((engine.anchor[0] != anchor).sum())
        games[name].append(engine.anchor[0].tolist())
    assert games["torch"] == games["reference"]
    assert games["native"] == games["reference"]
    if temperature:
        assert brought_back > 20
        assert dropped > 10  # under a camera that moves


def test_a_step_that_is_known_drops_the_same_anchors(
    config: ModelConfig, model: Transformer, patches: np.ndarray
) -> None:
    tile_map = np.random.default_rng(0).integers(0, 64, config.stream.n_cells)
    player, watcher = (NativeEngine(config, model, 1, patches=patches) for _ in range(2))
    for engine in (player, watcher):
        engine.reset(0, tile_map, seed=5)
    for action in ACTIONS[:30]:
        b = player.step([0], [action])
        scroll = (int(b.scroll[0, 0]), int(b.scroll[0, 1]))
        watcher.observe(0, Step(action, scroll, b.cells, b.codes, int(b.reward_class[0]), bool(b.done[0]), b.motions))
    states = player.save(0), watcher.save(0)
    assert (states[0]["anchor"] != tile_map).any()
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.usefixtures("simt")
@pytest.mark.parametrize(("slots", "turns"), [(1, "device"), (3, "host"), (1, "persistent")])
def test_emulated_engine_brings_back_what_native_brings(
    simt: Any, config: ModelConfig, model: Transformer, patches: np.ndarray, slots: int, turns: str
) -> None:
    simt.seed(slots)
    native = NativeEngine(config, model, slots, threads=1, patches=patches)
    cuda = CudaEngine(config, model, slots, turns=turns, emulate=True, patches=patches)
    tile_map = np.random.default_rng(0).integers(0, 64, config.stream.n_cells)
    for engine in (native, cuda):
        for slot in range(slots):
            engine.reset(slot, tile_map, seed=slot)
    for t in range(24):
        if t == 12:
            cuda.load(0, native.save(0))
        actions = [ACTIONS[(t + 5 * s) % len(ACTIONS)] for s in range(slots)]
        expected, got = native.step(range(slots), actions), cuda.step(range(slots), actions)
        for i in range(slots):
            assert spell(got, i) == spell(expected, i), (t, i)
    assert np.array_equal(native.anchor, cuda.anchor)
    assert (native.anchor != tile_map).any()
