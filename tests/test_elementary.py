"""exp, log, log1p, cos, sin and turns of the engines, by a C++ program: how far from the truth, over all floats."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parent.parent / "kernels"


@pytest.mark.skipif(shutil.which("g++") is None, reason="the program is compiled with g++")
@pytest.mark.parametrize("stride", [499, pytest.param(1, marks=pytest.mark.slow)])
def test_functions_are_the_nearest_float_almost_everywhere(tmp_path: Path, stride: int) -> None:
    """Every 499th float, millions per function; `-m slow`: every one."""
    program = tmp_path / "elementary"
    options = ["-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-I", KERNELS]
    subprocess.run(["g++", *options, KERNELS / "lab" / "elementary.cpp", "-o", program], check=True)
    told = subprocess.run([program, str(stride)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
