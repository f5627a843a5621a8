"""The CUDA engine's operations, emulated, beside the native engine's, bit by bit, by a C++ program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parent.parent / "kernels"


@pytest.mark.skipif(shutil.which("g++") is None, reason="the program is compiled with g++")
def test_emulated_operations_give_the_native_bits(tmp_path: Path) -> None:
    """Products in 8 and 4 bits, norms, gates, heads, attention, commit and sampler at awkward sizes and numbers."""
    program = tmp_path / "cuda_ops"
    options = ["-std=c++20", "-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-I", KERNELS]
    sources = [KERNELS / "lab" / "cuda_ops.cpp", KERNELS / "isa_scalar.cpp", KERNELS / "slot.cpp"]
    subprocess.run(["g++", *options, *sources, "-o", program], check=True)
    told = subprocess.run([program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert " 0 failures" in told.stdout
