"""What a model needs on a GPU: counted from its shapes, checked by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gamegen_env.checkpoint import load_checkpoint
from gamegen_env.cli import main
from gamegen_env.config import PRESETS, ModelConfig
from gamegen_env.engine import make_engine
from gamegen_env.engine.cuda import CudaEngine
from gamegen_env.plan import BARRIER, GPU, GPUS, KERNELS, LAUNCH, PHASES, Counts, count, frames_per_second, slots_within
from gamegen_env.transformer import Transformer, count_parameters

PLAIN = ModelConfig()  # the pocket preset without its modules


def test_plain_pocket_by_hand() -> None:
    counts = count(PLAIN)
    blocks = 6 * (256 * (6 * 64) + 256 * 256 + 256 * 2 * 768 + 768 * 256)
    heads = 256 * (289 + 289 + 1) + 512 * 512 + 512 * 256 + 5 * 256
    assert counts.pass_bytes == blocks + heads + 8192 * 256
    assert counts.row_operations == 2 * counts.pass_bytes
    assert counts.kv_bytes == 2 * 6 * 2048 * 36  # 4.5 bits of 64 values
    assert counts.staged_bytes == 2 * 2 * 6 * 292 * 64 * 2
    assert counts.attention_operations == 4 * 6 * 4 * 64 * 2048
    assert counts.parameters == count_parameters(Transformer(PLAIN))
    assert counts.kernels == 6 * 10 + 14
    assert counts.phases == 6 * 5 + 6


def test_modules_and_bits_count() -> None:
    config = PLAIN
    modules = dataclasses.replace(config.transformer, pointer=True, ballistics=True)
    plain, both = count(config), count(dataclasses.replace(config, transformer=modules))
    assert both.kv_bytes == plain.kv_bytes  # both look at keys that the cache holds anyway
    assert both.pass_bytes > plain.pass_bytes
    assert both.attention_operations > plain.attention_operations
    copies = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, pointer=True))
    moves = dataclasses.replace(copies, stream=dataclasses.replace(config.stream, max_motion=6))
    looks, rows, head = 8192 * 4 * 4 * 3, 4 * 256 * 2 * 13, 256 * 13 * 13  # of codes; of the small table; motion head
    assert count(moves).weight_bytes == count(copies).weight_bytes + looks + rows + head
    assert count(config, 16).pass_bytes == 2 * plain.pass_bytes
    assert count(config, 4).pass_bytes == plain.pass_bytes * 4.5 / 8
    with pytest.raises(ValueError, match="weight_bits: expected 4, 8 or 16, got 3"):
        count(config, 3)


def test_the_engine_holds_what_is_counted() -> None:
    checkpoint = load_checkpoint("pocket")
    engine = make_engine(
        "native", checkpoint.config, checkpoint.transformer, 1, temperature=0.5, kv_bits=4, patches=checkpoint.patches
    )
    counts = count(checkpoint.config)
    assert counts.kv_bytes <= engine.bytes_per_slot() <= counts.kv_bytes + counts.staged_bytes


@pytest.mark.parametrize(("name", "n_layers"), [("pocket", 6), ("base-0.5b", 1)])
def test_the_cuda_engine_holds_what_is_counted(simt: Any, name: str, n_layers: int) -> None:
    """Its slots and, with what does not grow with them, its weights."""
    config = PRESETS[name]
    config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, n_layers=n_layers))
    model, counts = Transformer(config).eval().requires_grad_(False), count(config)
    patches = np.zeros((8192, 4, 4, 3), np.uint8) if config.stream.max_motion else None
    engines = (CudaEngine(config, model, slots, emulate=True, patches=patches) for slots in (64, 96))
    held = [engine.num_slots * engine.bytes_per_slot() for engine in engines]
    each = (held[1] - held[0]) / 32
    assert each == pytest.approx(counts.kv_bytes + counts.staged_bytes + counts.scratch_bytes, rel=0.03)
    assert held[0] - 64 * each == pytest.approx(counts.weight_bytes, rel=0.05)


def test_kernels_are_those_that_the_engine_starts() -> None:
    """Counted in the source: of a layer, and of the rest of a pass."""
    source = (Path(__file__).parent.parent / "kernels" / "cuda" / "engine.cu").read_text()
    forward = source[source.index("::forward(unsigned rows) {") : source.index("::decide(unsigned rows) {")]
    decide = source[source.index("::decide(unsigned rows) {") : source.index("::record(")]
    record = source[source.index("::record(") :]
    body = record[record.index("decide(") : record.index("[&] {")]  # of the loop over a step's passes
    loop = forward[forward.index("for (int i = 0;") : forward.index("\n    }\n")]

    def started(text: str) -> int:  # `times` starts one kernel; of alternatives one
        return len(re.findall(r"^ *(?:if \(.*\) )?(?:LAUNCH|times)\(", text, re.MULTILINE))

    layer, rest = started(loop), started(forward) - started(loop) + started(decide) + started(body)
    assert layer == KERNELS.per_layer
    assert rest == KERNELS.per_pass + KERNELS.pointer + KERNELS.ballistics + KERNELS.motion


def test_phases_are_those_that_blocks_wait_for() -> None:
    """Counted in the source: barriers of a layer, and of the rest of a pass."""
    source = (Path(__file__).parent.parent / "kernels" / "cuda" / "persistent.cuh").read_text()
    forward = source[source.index("void stay_forward(") : source.index("\nDEVICE_CALL void stay_choose(")]
    decide = source[source.index("void stay_decide(") : source.index("\nDEVICE_CALL void stay_begin(")]
    step = source[source.index("while (*w.n_playing > 0)") :]
    turn = step[: step.index("\n    }\n")]
    assert forward.count("grid_sync(") == PHASES.per_layer
    assert forward.index("for (int i = 0;") < forward.index("grid_sync(")  # all of them in the loop over layers
    assert decide.count("grid_sync(") + turn.count("grid_sync(") == PHASES.per_pass


def test_half_a_billion_parameters_in_real_time() -> None:
    """The goals: one game of 100 frames/s on an RTX 5090, 64 of 1,000 together."""
    counts, (gpu,) = count(PRESETS["base-0.5b"]), [g for g in GPUS if g.name == "RTX 5090"]
    assert frames_per_second(counts, gpu, 1, 20, counts.phases * BARRIER) >= 100
    assert frames_per_second(counts, gpu, 64, 20, counts.kernels * LAUNCH) >= 1000


def test_the_slower_of_memory_and_arithmetic_sets_the_pace() -> None:
    counts = Counts(
        parameters=0, weight_bytes=0, pass_bytes=1e9, kv_bytes=10**8, staged_bytes=0, scratch_bytes=0,
        row_operations=1e9, attention_operations=0, kernels=0, phases=0,
    )  # fmt: skip
    memory_bound = GPU("", 1e12, bandwidth=1e12, int8=1e18)
    assert frames_per_second(counts, memory_bound, 1, 11, 1e-5) == pytest.approx(1 / (10 * (1.1e9 / 0.7e12 + 1e-5)))
    assert frames_per_second(counts, memory_bound, 10, 11, 1e-5) == pytest.approx(10 / (10 * (2e9 / 0.7e12 + 1e-5)))
    busy = GPU("", 1e12, bandwidth=1e18, int8=1e12)
    assert frames_per_second(counts, busy, 10, 11, 1e-5) == pytest.approx(10 / (10 * (10e9 / 0.5e12 + 1e-5)))


def test_what_fits() -> None:
    counts = count(PRESETS["base-0.5b"])
    assert slots_within(counts, 24e9) >= 64
    assert slots_within(counts, 1e9) == 0
    more = slots_within(counts, 24e9 + counts.kv_bytes + counts.staged_bytes + counts.scratch_bytes)
    assert more == slots_within(counts, 24e9) + 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["base-0.5b"], 0, "| RTX 5090, one kernel |"),
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
