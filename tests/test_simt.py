"""The emulation that CUDA kernels are tested in: what it computes, and the mistakes that it must find."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parent.parent / "kernels"


@pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation is compiled with g++")
def test_emulation_computes_and_finds_races_and_missing_barriers(tmp_path: Path) -> None:
    """The program runs good and broken kernels in twenty warp orders."""
    program = tmp_path / "simt"
    source = KERNELS / "lab" / "simt.cpp"
    subprocess.run(["g++", "-std=c++20", "-O1", "-Wall", "-I", KERNELS / "cuda", source, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
