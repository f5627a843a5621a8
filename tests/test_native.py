"""What only the native engine promises: instruction sets, threads, 8-bit arithmetic, processes, bad input."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.engine import _native
from gamegen_env.engine.cached import CachedEngine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.image import load_image, packaged_images
from gamegen_env.stream import Step
from gamegen_env.transformer import Transformer
from tests.conftest import random_model
from tests.test_engines import ACTIONS, play, spell

PRECISIONS = ("int8", "int4", "float32")


@pytest.fixture(scope="module")
def model(small_map_config: ModelConfig) -> Transformer:
    return random_model(small_map_config, end_bias=3.0)[1]


@pytest.fixture(scope="module")
def tile_map(small_map_config: ModelConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, small_map_config.stream.n_cells)


def test_an_instruction_set_that_multiplies_wrongly_is_named(
    small_map_config: ModelConfig, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not set(_native.wrong_isas()) & set(_native.available_isas())
    monkeypatch.setattr(_native, "wrong_isas", lambda: ["amx"])
    with pytest.warns(UserWarning, match="instruction set amx: its products are wrong on this CPU"):
        NativeEngine(small_map_config, model, 1)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Compare saved slots to the bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kv_bits", [4, 16])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_instruction_set_gives_the_same_bits(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, precision: str, kv_bits: int
) -> None:
    isas = _native.available_isas()
    assert isas[0] == "scalar"
    games, states = [], []
    for isa in isas:
        engine = NativeEngine(small_map_config, model, 1, precision=precision, isa=isa, kv_bits=kv_bits)
        assert engine.isa == isa
        engine.reset(0, tile_map, seed=5)
        games.append(play(engine, 0, ACTIONS))
        states.append(engine.save(0))
    assert all(game == games[0] for game in games)
    assert all(same(state, states[0]) for state in states)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_change_nothing(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray, precision: str
) -> None:
    games = []
    for threads in (1, 2, 5):
        engine = NativeEngine(small_map_config, model, 11, precision=precision, threads=threads)
        assert engine.threads == threads
        for slot in range(11):
            engine.reset(slot, tile_map, seed=slot)
        batches = [engine.step(range(11), [(a + s) % 63 for s in range(11)]) for a in ACTIONS[:30]]
        games.append(([spell(batch, i) for batch in batches for i in range(11)], [engine.save(i) for i in range(11)]))
    assert all(game[0] == games[0][0] for game in games)
    assert all(same(a, b) for game in games for a, b in zip(game[1], games[0][1], strict=True))


@pytest.mark.parametrize("heads", [(4, 1), (2, 2), (6, 2), (8, 1)])
@pytest.mark.parametrize("d_model", [24, 50])
def test_odd_shapes_decode_what_torch_decodes(
    small_map_config: ModelConfig, tile_map: np.ndarray, heads: tuple[int, int], d_model: int
) -> None:
    """Widths that fill neither lanes nor blocks, and groups that fill no tile."""
    transformer = dataclasses.replace(
        small_map_config.transformer, d_model=d_model, n_heads=heads[0], n_kv_heads=heads[1], d_ff=37
    )
    config = dataclasses.replace(small_map_config, transformer=transformer)
    weights = random_model(config, end_bias=3.0)[1]
    native = NativeEngine(config, weights, 1, precision="float32")
    cached = CachedEngine(config, weights, 1)
    for engine in (native, cached):
        engine.reset(0, tile_map, seed=2)
    assert play(native, 0, ACTIONS[:25]) == play(cached, 0, ACTIONS[:25])


@pytest.mark.parametrize(("pointer", "ballistics"), [(False, False), (True, False), (False, True)])
def test_modules_can_be_off(
    small_map_config: ModelConfig, tile_map: np.ndarray, pointer: bool, ballistics: bool
) -> None:
    transformer = dataclasses.replace(small_map_config.transformer, pointer=pointer, ballistics=ballistics)
    config = dataclasses.replace(small_map_config, transformer=transformer)
    weights = random_model(config, end_bias=3.0)[1]
    native, cached = NativeEngine(config, weights, 1, precision="float32"), CachedEngine(config, weights, 1)
    for engine in (native, cached):
        engine.reset(0, tile_map, seed=2)
    assert play(native, 0, ACTIONS[:40]) == play(cached, 0, ACTIONS[:40])


@pytest.mark.parametrize("modules", [(), ("pointer",), ("pointer", "ballistics")])
@pytest.mark.parametrize(("slots", "threads"), [(1, 1), (5, 1), (5, 2)])
def test_drafting_changes_nothing_but_the_number_of_passes(
    small_map_config: ModelConfig, tile_map: np.ndarray, slots: int, threads: int, modules: tuple[str, ...]
) -> None:
    """Every game is played twice, so that many guesses are right the second time."""
    on = {module: module in modules for module in ("pointer", "ballistics")}
    transformer = dataclasses.replace(small_map_config.transformer, **on)
    config = dataclasses.replace(small_map_config, transformer=transformer)
    lively = random_model(config, end_bias=1.0)[1]
    games, states, counts = [], [], []
    for when in ("never", "auto", "always"):
        engine = NativeEngine(config, lively, slots, threads=threads)
        engine.draft(when)
        batches = []
        for _ in range(2):
            for slot in range(slots):
                engine.reset(slot, tile_map, seed=slot)
            batches += [engine.step(range(slots), [t // 9 % 3] * slots) for t in range(60)]
        games.append([spell(batch, i) for batch in batches for i in range(slots)])
        states.append([engine.save(i) for i in range(slots)])
        counts.append(engine.counts())
    assert games[0] == games[1] == games[2]
    assert all(same(a, b) for other in states[1:] for a, b in zip(states[0], other, strict=True))
    never, auto, always = counts
    assert never.drafted == 0
    assert auto.drafted < always.drafted
    assert 0 < always.right < always.drafted
    assert all(drafting.passes == never.passes - drafting.right for drafting in (auto, always))
    with pytest.raises(ValueError, match="drafting: expected auto, never or always, got 'often'"):
        engine.draft("often")


def test_what_was_learned_in_one_game_is_guessed_in_the_next(
    small_map_config: ModelConfig, tile_map: np.ndarray
) -> None:
    engine = NativeEngine(small_map_config, random_model(small_map_config, end_bias=1.0)[1], 2)
    games, right = [], []
    for slot in (0, 1):
        before = engine.counts().right
        engine.reset(slot, tile_map, seed=7)
        games.append(play(engine, slot, ACTIONS))
        right.append(engine.counts().right - before)
    assert games[0] == games[1]
    assert right[1] > right[0]


@pytest.mark.parametrize("modules", ["plain", "pointer", "motions"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_are_what_a_step_is_drawn_from(
    small_map_config: ModelConfig, tile_map: np.ndarray, precision: str, modules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At temperature 0 a step says the largest of them."""
    stream = dataclasses.replace(small_map_config.stream, max_motion=2 if modules == "motions" else 0)
    transformer = dataclasses.replace(small_map_config.transformer, pointer=modules != "plain")
    config = dataclasses.replace(small_map_config, stream=stream, transformer=transformer)
    tokenizer, lively = random_model(config, end_bias=1.0)
    patches = tokenizer.patches() if modules == "motions" else None
    engine = NativeEngine(config, lively, 1, temperature=0.0, precision=precision, patches=patches)
    engine.reset(0, tile_map, seed=0)
    told: list[tuple[np.ndarray, ...]] = []
    monkeypatch.setattr(engine, "_prefill", lambda slot, rows: told.append(engine._engine.score(slot, rows)))
    updates = 0
    for action in ACTIONS[:12]:
        before = engine.save(0)
        batch = engine.step([0], [action])
        after = engine.save(0)
        step = Step(action, tuple(batch.scroll[0].tolist()), batch.cells, batch.codes, int(batch.reward_class[0]),
                    bool(batch.done[0]), batch.motions)  # fmt: skip
        engine.load(0, before)
        engine.observe(0, step)  # a keyframe first, where one is due
        events, codes, ends = told[-1]
        said = [*batch.cells.tolist(), engine.grammar.end_event]
        assert events[:-1].argmax(1).tolist()[-len(said) :] == said
        codes[np.arange(len(codes)), before["codes"][batch.cells]] = -np.inf
        drawn = np.where(batch.motions < 0, batch.codes, engine.grammar.n_codes + batch.motions)
        assert codes.argmax(1).tolist() == drawn.tolist()
        assert [ends[-2, :3].argmax(), ends[-2, 3:].argmax()] == [batch.reward_class[0], batch.done[0]]
        engine.load(0, after)
        updates += len(batch.cells)
    assert updates > 5


def packaged_tile_map(name: str) -> np.ndarray:
    checkpoint = load_checkpoint("pocket")
    frame = load_image(packaged_images()[name], checkpoint.config.frame_size)
    view = checkpoint.tokenizer.encode(torch.from_numpy(frame)[None])[0]
    codes = np.zeros((checkpoint.config.stream.map_cells,) * 2, np.int64)
    codes[:-1, :-1] = np.asarray(view)
    return codes.ravel()


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.9), ("int8", 0.5), ("int4", 0.1)])
def test_packaged_weights_play_as_in_torch(precision: str, least: float) -> None:
    """Steps of 8 games, each decided from the torch engine's own history, so that one difference stays one.

    Sums in another order tip a nibble of the cache now and then, and with it a draw that is close; in int8
    close draws are tipped more often.
    """
    checkpoint = load_checkpoint("pocket")
    names = sorted(packaged_images())[:8]
    model = (checkpoint.config, checkpoint.transformer, 1)
    native = NativeEngine(*model, precision=precision, temperature=0.5, patches=checkpoint.patches)
    cached = CachedEngine(*model, temperature=0.5, patches=checkpoint.patches)
    equal = steps = 0
    for seed, name in enumerate(names):
        tile_map = packaged_tile_map(name)
        for engine in (native, cached):
            engine.reset(0, tile_map, seed)
        for t in range(8):
            state, action = native.save(0), (3 * t) % 9
            truth = spell(cached.step([0], [action]), 0)
            got = spell(native.step([0], [action]), 0)
            equal, steps = equal + (got == truth), steps + 1
            if got != truth:
                native.load(0, state)
                scroll, (cells, codes, motions) = tuple(truth[0]), (np.array(part, int) for part in truth[1:4])
                native.observe(0, Step(action, scroll, cells, codes, *truth[4:6], motions=motions))
    assert steps == 8 * len(names)
    assert equal >= least * steps


def test_engine_works_in_a_forked_child(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray
) -> None:
    """Its threads stay behind in the parent."""
    engine = NativeEngine(small_map_config, model, 6, threads=3)
    for slot in range(6):
        engine.reset(slot, tile_map, seed=slot)
    engine.step(range(6), [1] * 6)
    read, write = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        batch = engine.step(range(6), [2] * 6)
        write.send([spell(batch, i) for i in range(6)])
        os._exit(0)
    assert read.poll(60)
    child = read.recv()
    os.waitpid(pid, 0)
    batch = engine.step(range(6), [2] * 6)
    assert child == [spell(batch, i) for i in range(6)]


def bad_states(state: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, np.ndarray], str]]:
    def changed(name: str, value: int) -> dict[str, np.ndarray]:
        array = np.array(state[name])
        array.flat[0] = value
        return {**state, name: array}

    yield changed("codes", 64), r"state\['codes'\]: expected 0..63"
    yield changed("codes", -1), r"state\['codes'\]: expected"
    yield changed("origin", 10**6), r"state\['origin'\]: expected"
    yield changed("position", -5), r"state\['position'\]: expected"
    yield changed("held_codes", 64), r"state\['held_codes'\]: expected codes or -1"
    yield changed("latest_rows", 2**40), r"state\['latest_rows'\]: expected ascending"
    yield {**state, "kv_nibbles": state["kv_nibbles"][:1]}, r"state\['kv_nibbles'\]: expected"


def test_a_broken_state_is_refused_and_the_slot_kept(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray
) -> None:
    engine = NativeEngine(small_map_config, model, 1)
    engine.reset(0, tile_map, seed=1)
    play(engine, 0, ACTIONS[:10])
    state = pickle.loads(pickle.dumps(engine.save(0)))
    for broken, message in bad_states(state):
        with pytest.raises(ValueError, match=message):
            engine.load(0, broken)
        assert same(engine.save(0), state)


def test_the_binding_refuses_what_it_cannot_read(
    small_map_config: ModelConfig, model: Transformer, tile_map: np.ndarray
) -> None:
    engine = NativeEngine(small_map_config, model, 2)
    engine.reset(0, tile_map, seed=1)
    raw = engine._engine
    for call, message in (
        (lambda: raw.step([1], [0]), "slot 1: expected a reset"),
        (lambda: raw.step([0, 0], [0, 0]), "slots: expected distinct"),
        (lambda: raw.step([7], [0]), "slots: expected distinct numbers in 0..1"),
        (lambda: raw.step([-1], [0]), "slots: expected distinct numbers"),
        (lambda: raw.step([0], [63]), "action token: expected 0..62, got 63"),
        (lambda: raw.step([0], []), "actions: expected 1, got 0"),
        (lambda: raw.prefill(0, np.full((1, 6), 9)), r"rows\[0, 0\]: expected 0..4, got 9"),
        (lambda: raw.prefill(0, np.array([[3, 99, 0, 0, 0, 0]])), r"rows\[0, 1\]: expected 0..24, got 99"),
        (lambda: raw.prefill(0, np.zeros((10**5, 6), np.int64)), "rows: expected at most one step"),
        (lambda: raw.save(2), "slot: expected 0..1, got 2"),
        (lambda: NativeEngine(small_map_config, model, 1, isa="mmx"), "isa: expected one of auto, scalar"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    broken = random_model(small_map_config)[1]
    broken.norm.weight = torch.nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match=r"weights: norm.weight: expected shape \(32, \), got \(5, \)"):
        NativeEngine(small_map_config, broken.requires_grad_(False), 1)


def test_memory_per_game_of_the_pocket_model() -> None:
    """The goal is 1 MB."""
    checkpoint = load_checkpoint("pocket")
    engine = NativeEngine(checkpoint.config, checkpoint.transformer, 2, patches=checkpoint.patches)
    engine.reset(0, packaged_tile_map("maze"), seed=0)
    for action in range(9):
        engine.step([0], [action])
    assert engine.bytes_per_slot() <= 2**20


def test_threads_follow_the_environment(
    small_map_config: ModelConfig, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert NativeEngine(small_map_config, model, 8).threads == 3
    assert NativeEngine(small_map_config, model, 2).threads == 1
