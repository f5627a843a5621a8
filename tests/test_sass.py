"""The machine code of the CUDA engine: what `benchmarks.sass.EXPECTED` allows, and how it is taken apart."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import sass

KERNELS = Path(__file__).parent.parent / "kernels"
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
OPTIONS = ("-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr")


def compiled(source: Path, folder: Path, architectures: tuple[str, ...] = sass.ARCHITECTURES) -> list[sass.Kernel]:
    out = folder / "out.fatbin"
    codes = [f"-gencode=arch={a.replace('sm', 'compute')},code={a}" for a in architectures]
    subprocess.run(["nvcc", *OPTIONS, *codes, "-fatbin", "-o", out, source], check=True)
    return sass.read(out)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[sass.Kernel]:
    """Every kernel on every architecture, from the sources as they are now."""
    folder = tmp_path_factory.mktemp("sass")
    sources = [source for source in sorted((KERNELS / "cuda").glob("*.cu")) if "LAUNCH(" in source.read_text()]
    return [kernel for source in sources for kernel in compiled(source, folder)]


@needs_nvcc
@pytest.mark.parametrize("architecture", sass.ARCHITECTURES)
def test_machine_code_is_as_expected(architecture: str, kernels: list[sass.Kernel]) -> None:
    """Registers, shared and local memory and instructions below their ceilings, those that are meant, wide loads."""
    here = [kernel for kernel in kernels if kernel.architecture == architecture]
    sources = "\n".join(path.read_text() for path in (KERNELS / "cuda").glob("*.cuh"))
    written = len(re.findall(r"^(?:template <.*> )?KERNEL(?:_OF\(\w+\))? ", sources, re.MULTILINE))
    assert len({kernel.family for kernel in here}) == written
    names = {kernel.name for kernel in here} | {kernel.family for kernel in here}
    assert set(sass.EXPECTED) <= names, "a row of EXPECTED names no kernel"
    assert [fault for kernel in here for fault in sass.faults(kernel)] == []
    for name in sass.HOT:
        assert any(k.main_loops() for k in here if k.family == name), f"{name}: expected a loop of loads and products"


# On purpose: an array indexed by data lies in local memory, and the loads are of one byte.
BAD = """
template <int G> __global__ void attend(const signed char* x, const int* at, int* y, int n) {
    y += G;
    int values[64];
    for (int i = 0; i < 64; ++i) values[at[i] & 63] = x[i];
    int sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i] * values[at[i] & 63];
    *y = sum;
}
template <int K> __global__ void product(const int4* w, const int4* x, int* y, int n) {
    int sum = K;
    for (int i = 0; i < n; ++i) {
        const int4 a = w[i], b = x[i];
        sum = __dp4a(a.x, b.x, __dp4a(a.y, b.y, __dp4a(a.z, b.z, __dp4a(a.w, b.w, sum))));
    }
    *y = sum;
}
template __global__ void attend<1>(const signed char*, const int*, int*, int);
template __global__ void product<7>(const int4*, const int4*, int*, int);
"""


@needs_nvcc
def test_faults_are_found(tmp_path: Path) -> None:
    source = tmp_path / "bad.cu"
    source.write_text(BAD)
    by_name = {kernel.name: kernel for kernel in compiled(source, tmp_path, ("sm_90",))}
    assert set(by_name) == {"attend<1>", "product<7>"}
    bad, good = by_name["attend<1>"], by_name["product<7>"]
    said = "\n".join(sass.faults(bad))
    assert "sm_90 attend<1>: local: expected at most 0, got 256" in said
    assert "instructions: expected IDP.4A, got none" in said
    assert bad.spill_instructions > 0
    assert 1 in bad.loads()
    dear = dataclasses.replace(bad, loops=[sass.Loop(0, 16, Counter({"LDG.E.128": 1, "IDP.4A": 8, "IADD3": 60}))])
    assert "loop at 0x0: expected at most 178 instructions per 512 bytes, got 276" in "\n".join(sass.faults(dear))
    assert sass.faults(good) == []
    assert set(good.loads()) == {16}
    (loop,) = good.main_loops()
    assert loop.loaded == loop.count("IDP") * 8  # a product takes four bytes on either side
    assert (
        sass.Expected(memory=0.5, blocks=10, threads=32, heads=2).under_way(loop) == 10 * 32 * loop.count("IDP") * 4 / 2
    )
    assert sass.Expected(memory=0.5).cost(loop) == pytest.approx(loop.instructions / (loop.count("IDP") / 4))


def test_loops_are_the_innermost_backward_branches() -> None:
    code = [
        (0x00, "LDG.E.128", "R4, [R2.64]"), (0x10, "IDP.4A.S8.S8", "R0, R4, R5, R0"), (0x20, "BRA", "0x10"),
        (0x30, "IADD3", "R2"), (0x40, "BRA", "P1, 0x0"), (0x50, "BRA", "0x50"), (0x60, "BRA", "0x90"),
    ]  # fmt: skip
    (loop,) = sass.loops_of(code)
    assert (loop.start, loop.end, loop.codes) == (0x10, 0x20, Counter({"IDP.4A.S8.S8": 1, "BRA": 1}))


def test_widths_and_names() -> None:
    codes = ("LDG.E", "LDG.E.64.CONSTANT", "LDG.E.128", "LDG.E.U8", "LDG.E.S16.CONSTANT", "LDGSTS.E.BYPASS.128")
    assert [sass.width(code) for code in codes] == [4, 8, 16, 1, 2, 16]
    assert sass.short("_ZN7gamegen4cuda6attendENS0_4ViewEii") == "attend"
    assert sass.short("_ZN7gamegen4cuda7productILi16ELi4EEEvNS0_4ViewE") == "product<16,4>"
    assert sass.short("_Z5trialPi") == "trial"


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "threads", "expected"),
    [
        ("sm_80", 32, 0, 1024, 1.0),  # 2 blocks of 32 warps
        ("sm_80", 255, 0, 128, 8 / 64),  # 256 registers * 32: two warps per partition
        ("sm_86", 32, 0, 64, 16 * 2 / 48),  # no more than 16 blocks
        ("sm_90", 32, 1024 + 100 * 1024, 128, 2 * 4 / 64),  # 101 KiB: two blocks in 228
        ("sm_120", 128, 0, 128, 16 / 48),
    ],
)
def test_occupancy_by_hand(architecture: str, registers: int, shared: int, threads: int, expected: float) -> None:
    assert sass.occupancy(architecture, registers, shared, threads) == pytest.approx(expected)


def test_budgets_are_those_of_the_cards() -> None:
    """As counted elsewhere: about 655 on an RTX 4090, 470 on an RTX 5090, 140 on an H100."""
    budgets = [sass.LIMITS[a].budget for a in ("sm_89", "sm_120", "sm_90")]
    assert budgets == pytest.approx([655, 470, 140], rel=0.02)
    assert sass.LIMITS["sm_120"].needed == pytest.approx(0.7 * 1792e9 * 0.6e-6)


def test_a_file_without_machine_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.fatbin"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="expected CUDA machine code, got"):
        sass.read(path)
