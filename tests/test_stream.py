"""The token grammar: geometry of the torus, event masks, spelling and refusal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gamegen_env.config import ACT, END, KEY, SCROLL, UPD, ModelConfig
from gamegen_env.stream import Grammar, Keyframe, Step

CONFIG = ModelConfig()
N = CONFIG.stream.n_cells
NONE = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar(CONFIG)


def example(grammar: Grammar) -> tuple[np.ndarray, list[Step]]:
    """A keyframe and three steps: still, scrolled, terminal without updates."""
    codes = np.arange(N, dtype=np.int32) * 3
    steps = [
        Step(5, (0, 0), np.array([0, 7, 200], np.int32), np.array([9, 8, 7], np.int32), 1, False),
        Step(62, (-3, 8), np.array([7, 288], np.int32), np.array([21, 1], np.int32), 2, False),
        Step(0, (0, 0), NONE, NONE, 0, True),
    ]
    rows, origin, camera = [grammar.keyframe_tokens(codes, (0, 0), 0)], np.zeros(2, np.int32), None
    for time, step in enumerate(steps, 1):
        rows.append(grammar.step_tokens(step, origin, time, camera))
        origin, camera = grammar.move(origin, step.scroll), grammar.camera(*step.scroll)
    return np.concatenate(rows), steps


def same(a: Step, b: Step) -> bool:
    return (
        (a.action, a.scroll, a.reward_class, a.done) == (b.action, b.scroll, b.reward_class, b.done)
        and np.array_equal(a.cells, b.cells)
        and np.array_equal(a.codes, b.codes)
        and np.array_equal(*(np.full(len(s.cells), -1) if s.motions is None else s.motions for s in (a, b)))
    )


# --- geometry


def test_visible_cells_equal_a_count_of_pixels(grammar: Grammar) -> None:
    for origin in [(0, 0), (4, 0), (1, 8), (3, 67), (67, 1), (66, 66), (64, 33)]:
        seen = np.zeros(N, bool)
        for y in range(64):
            for x in range(64):
                row, col = (origin[1] + y) % 68 // 4, (origin[0] + x) % 68 // 4
                seen[row * 17 + col] = True
        assert np.array_equal(grammar.visible_cells(origin), seen), origin


def test_visible_cells_of_many_origins_equal_one_by_one(grammar: Grammar) -> None:
    origins = np.array([[0, 0], [5, 9], [67, 64]])
    assert np.array_equal(grammar.visible_cells(origins), [grammar.visible_cells(o) for o in origins])


# --- events


def test_scroll_events_are_a_bijection(grammar: Grammar) -> None:
    events = [grammar.scroll_event(dx, dy) for dy in range(-8, 9) for dx in range(-8, 9)]
    assert events == list(range(N, N + 289))
    assert [grammar.event_scroll(e) for e in events] == [(dx, dy) for dy in range(-8, 9) for dx in range(-8, 9)]
    assert grammar.end_event == N + 289 == CONFIG.stream.n_events - 1


def test_event_mask_after_act_allows_scrolls_and_all_visible_cells(grammar: Grammar) -> None:
    mask = grammar.event_mask(np.array([3, 0]), np.array(-1), np.array(True))
    assert np.array_equal(mask[:N], grammar.visible_cells((3, 0)))
    assert mask[N:-1].sum() == 288
    assert not mask[grammar.scroll_event(0, 0)]
    assert mask[-1]


def test_event_mask_agrees_with_the_parser(grammar: Grammar) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8192, N)
    for _ in range(6):
        origin = rng.integers(0, 68, 2)
        key = grammar.keyframe_tokens(codes, origin, 4)
        first = int(rng.choice(grammar.visible_cells(origin).nonzero()[0]))
        for cells in ([], [first]):
            step = Step(1, (0, 0), np.array(cells, np.int32), (codes[cells] + 1) % 8192, 1, False)
            begun = grammar.step_tokens(step, origin, 5)[:-1]
            last = cells[-1] if cells else -1
            mask = grammar.event_mask(origin[None], np.array([last]), np.array([not cells]))[0]
            for event in rng.choice(CONFIG.stream.n_events, 60, replace=False):
                rows = [*key, *begun]
                at = origin
                if event < N:
                    rows.append([UPD, event, (codes[event] + 1) % 8192, *at, 5])
                elif event < grammar.end_event:
                    moved = grammar.event_scroll(int(event))
                    at = grammar.move(origin, moved)
                    rows.append([SCROLL, moved[0] + 8, moved[1] + 8, *at, 5])
                rows.append([END, 1, 0, *at, 5])
                try:
                    grammar.validate(np.array(rows))
                    accepted = True
                except ValueError:
                    accepted = False
                assert accepted == mask[event], (origin, cells, event)


def test_event_mask_of_a_batch_equals_one_by_one(grammar: Grammar) -> None:
    origins, last, after = np.array([[0, 0], [9, 2]]), np.array([-1, 40]), np.array([True, False])
    mask = grammar.event_mask(origins, last, after)
    assert mask.shape == (2, CONFIG.stream.n_events)
    for i in range(2):
        assert np.array_equal(mask[i], grammar.event_mask(origins[i], last[i], after[i]))


# --- spelling


def test_tokens_are_spelled_as_documented(grammar: Grammar) -> None:
    rows, _ = example(grammar)
    assert rows.dtype == np.int32
    assert rows[3].tolist() == [KEY, 3, 9, 0, 0, 0]
    assert rows[N:].tolist() == [
        [ACT, 5, 144, 0, 0, 1], [UPD, 0, 9, 0, 0, 1], [UPD, 7, 8, 0, 0, 1], [UPD, 200, 7, 0, 0, 1],
        [END, 1, 0, 0, 0, 1],
        [ACT, 62, 144, 0, 0, 2], [SCROLL, 5, 16, 65, 8, 2], [UPD, 7, 21, 65, 8, 2], [UPD, 288, 1, 65, 8, 2],
        [END, 2, 0, 65, 8, 2],
        [ACT, 0, 16 * 17 + 5, 65, 8, 3], [END, 0, 1, 65, 8, 3],
    ]  # fmt: skip


def test_parse_returns_what_was_spelled(grammar: Grammar) -> None:
    rows, steps = example(grammar)
    keyframe, *parsed = grammar.parse(rows)
    assert isinstance(keyframe, Keyframe)
    assert np.array_equal(keyframe.codes, np.arange(N) * 3)
    for got, want in zip(parsed, steps, strict=True):
        assert isinstance(got, Step)
        assert same(got, want)


def test_parse_accepts_a_keyframe_between_steps_and_first_time_zero(grammar: Grammar) -> None:
    codes = np.zeros(N, np.int32)
    step = Step(0, (0, 0), NONE, NONE, 1, False)
    rows = [
        grammar.keyframe_tokens(codes, (0, 0), 0), grammar.step_tokens(step, (0, 0), 0),
        grammar.step_tokens(step, (0, 0), 1), grammar.keyframe_tokens(codes + 1, (9, 9), 1),
        grammar.step_tokens(step, (9, 9), 2),
    ]  # fmt: skip
    assert len(grammar.parse(np.concatenate(rows))) == 5


# --- refusal: one field or token of the example changed


def put(at: int, field: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[at, field] = value
        return rows

    return change


# Rows after the keyframe: 0 ACT, 1-3 UPD, 4 END, 5 ACT, 6 SCROLL, 7-8 UPD, 9 END, 10 ACT, 11 END.
VIOLATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "empty": (lambda r: r[:0], "position 0: expected KEY, got the end"),
    "no keyframe": (lambda r: r[N:], "position 0: expected KEY, got ACT"),
    "short keyframe": (lambda r: np.delete(r, N - 1, 0), f"position {N - 1}: expected KEY, got ACT"),
    "keyframe order": (put(5, 1, 6), "position 5: KEY cell: expected 5, got 6"),
    "keyframe code": (put(5, 2, 8192), "position 5: KEY code: expected 0..8191, got 8192"),
    "keyframe origin": (put(0, 3, 68), "position 0: KEY origin: expected 0..67"),
    "keyframe time": (put(9, 5, 1), "position 9: KEY time: expected 0, got 1"),
    "unknown kind": (put(N, 0, 5), f"position {N}: expected KEY or ACT, got kind 5"),
    "no action": (lambda r: np.delete(r, N, 0), f"position {N}: expected KEY or ACT, got UPD"),
    "action": (put(N, 1, 63), f"position {N}: ACT action: expected 0..62, got 63"),
    "camera range": (put(N, 2, 289), f"position {N}: ACT camera: expected 0..288, got 289"),
    "camera of a still step": (put(N + 5, 2, 145), f"position {N + 5}: ACT camera: expected 144, got 145"),
    "camera of a scroll": (put(N + 10, 2, 144), f"position {N + 10}: ACT camera: expected 277, got 144"),
    "step time": (put(N, 5, 2), f"position {N}: ACT time: expected 0 or 1, got 2"),
    "later step time": (put(N + 5, 5, 3), f"position {N + 5}: ACT time: expected 2, got 3"),
    "token time": (put(N + 2, 5, 2), f"position {N + 2}: UPD time: expected 1, got 2"),
    "moving origin": (put(N + 2, 3, 1), rf"position {N + 2}: UPD origin: expected \(0, 0\), got \(1, 0\)"),
    "cell order": (put(N + 2, 1, 0), f"position {N + 2}: UPD cell: expected 1..288, got 0"),
    "cell range": (put(N + 3, 1, 289), f"position {N + 3}: UPD cell: expected 8..288, got 289"),
    "invisible cell": (put(N + 3, 1, 288), f"position {N + 3}: UPD cell: expected a cell visible from origin"),
    "present code": (put(N + 1, 2, 0), f"position {N + 1}: UPD code: expected another code than cell 0 has, got 0"),
    "code again": (put(N + 7, 2, 8), f"position {N + 7}: UPD code: expected another code than cell 7 has"),
    "code range": (put(N + 1, 2, -1), f"position {N + 1}: UPD code: expected 0..8191, got -1"),
    "late scroll": (lambda r: r[[*range(N + 6), N + 7, N + 6, *range(N + 8, N + 12)]], f"position {N + 6}: UPD origin"),
    "scroll after update": (put(N + 2, 0, SCROLL), f"position {N + 2}: expected UPD or END, got SCROLL"),
    "zero scroll": (lambda r: put(N + 6, 1, 8)(put(N + 6, 2, 8)(r)), f"position {N + 6}: SCROLL distance"),
    "scroll range": (put(N + 6, 1, 17), f"position {N + 6}: SCROLL dx: expected 0..16, got 17"),
    "scroll origin": (put(N + 6, 1, 6), rf"position {N + 6}: SCROLL origin: expected \(66, 8\), got \(65, 8\)"),
    "two actions": (put(N + 1, 0, ACT), f"position {N + 1}: expected SCROLL or UPD or END, got ACT"),
    "keyframe inside a step": (put(N + 2, 0, KEY), f"position {N + 2}: expected UPD or END, got KEY"),
    "reward class": (put(N + 4, 1, 3), f"position {N + 4}: END reward class: expected 0..2, got 3"),
    "done": (put(N + 4, 2, 2), f"position {N + 4}: END done: expected 0..1, got 2"),
    "no end": (lambda r: r[:-1], f"position {N + 11}: expected SCROLL or UPD or END, got the end of the stream"),
}  # fmt: skip


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violation_is_refused(grammar: Grammar, name: str) -> None:
    change, message = VIOLATIONS[name]
    rows, _ = example(grammar)
    grammar.validate(rows)
    with pytest.raises(ValueError, match=message):
        grammar.validate(change(rows.copy()))


@pytest.mark.parametrize("rows", [np.zeros((4, 5), np.int32), np.zeros(6, np.int32), np.zeros((4, 6))])
def test_rows_of_another_shape_or_type_are_refused(grammar: Grammar, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows: expected integers"):
        grammar.parse(rows)
