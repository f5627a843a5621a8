"""What a model needs on a GPU: counted from its shapes, checked by hand."""

from __future__ import annotations

import dataclasses

import pytest

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.cli import main
from gamegen_env.config import PRESETS
from gamegen_env.engine import make_engine
from gamegen_env.plan import GPU, LAUNCH, Counts, count, frames_per_second, slots_within
from gamegen_env.transformer import Transformer, count_parameters


def test_pocket_by_hand() -> None:
    counts = count(PRESETS["pocket"])
    blocks = 6 * (256 * (6 * 64) + 256 * 256 + 256 * 2 * 768 + 768 * 256)
    heads = 256 * (289 + 289 + 1) + 512 * 512 + 512 * 256 + 5 * 256
    assert counts.pass_bytes == blocks + heads + 8192 * 256
    assert counts.row_operations == 2 * counts.pass_bytes
    assert counts.kv_bytes == 2 * 6 * 2048 * 36  # 4.5 bits of 64 values
    assert counts.staged_bytes == 2 * 2 * 6 * 292 * 64 * 2  # of two steps
    assert counts.attention_operations == 4 * 6 * 4 * 64 * 2048
    assert counts.parameters == count_parameters(Transformer(PRESETS["pocket"]))
    assert counts.launches == 74


def test_modules_and_bits_count() -> None:
    config = PRESETS["pocket"]
    modules = dataclasses.replace(config.transformer, pointer=True, ballistics=True)
    plain, both = count(config), count(dataclasses.replace(config, transformer=modules))
    assert both.kv_bytes == plain.kv_bytes  # both look at keys that the cache holds anyway
    assert both.pass_bytes > plain.pass_bytes
    assert both.attention_operations > plain.attention_operations
    assert count(config, 16).pass_bytes == 2 * plain.pass_bytes
    assert count(config, 4).pass_bytes == plain.pass_bytes * 4.5 / 8
    with pytest.raises(ValueError, match="weight_bits: expected 4, 8 or 16, got 3"):
        count(config, 3)


def test_the_engine_holds_what_is_counted() -> None:
    checkpoint = load_checkpoint("pocket")
    engine = make_engine("native", checkpoint.config, checkpoint.transformer, 1, temperature=0.5, kv_bits=4)
    counts = count(checkpoint.config)
    assert counts.kv_bytes <= engine.bytes_per_slot() <= counts.kv_bytes + counts.staged_bytes


def test_the_slower_of_memory_and_arithmetic_sets_the_pace() -> None:
    counts = Counts(
        parameters=0, weight_bytes=0, pass_bytes=1e9, kv_bytes=10**8, staged_bytes=0,
        row_operations=1e9, attention_operations=0, launches=10,
    )  # fmt: skip
    memory_bound = GPU("", 1e12, bandwidth=1e12, int8=1e18)
    assert frames_per_second(counts, memory_bound, 1, 11) == pytest.approx(1 / (10 * (1.1e9 / 0.7e12 + 10 * LAUNCH)))
    assert frames_per_second(counts, memory_bound, 10, 11) == pytest.approx(10 / (10 * (2e9 / 0.7e12 + 10 * LAUNCH)))
    busy = GPU("", 1e12, bandwidth=1e18, int8=1e12)
    assert frames_per_second(counts, busy, 10, 11) == pytest.approx(10 / (10 * (10e9 / 0.5e12 + 10 * LAUNCH)))


def test_what_fits() -> None:
    counts = count(PRESETS["base-0.5b"])
    assert slots_within(counts, 24e9) >= 64
    assert slots_within(counts, 1e9) == 0
    more = slots_within(counts, 24e9 + counts.kv_bytes + counts.staged_bytes)
    assert more == slots_within(counts, 24e9) + 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["base-0.5b"], 0, "| RTX 5090 |"),
        (["base-9b"], 2, "presets: expected some of"),
        (["--tokens", "1"], 2, "at least 2"),
    ],
)
def test_command_prints_tables_and_refuses_nonsense(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gamegen", "plan", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == status
    assert said in "".join(capsys.readouterr())
