"""The operations of the native engine in every instruction set, compared bit by bit by a C++ program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="needs cmake and g++")
def test_operations_are_equal_on_this_cpu(tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", ROOT / "kernels" / "lab", "-B", tmp_path], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    told = subprocess.run([tmp_path / "parity"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert " 0 failures" in told.stdout
    assert "amx, emulated: " in told.stdout
    assert "trial of amx: right" in told.stdout
    # Tiles are used, and their configuration is written before it is loaded: GCC 12's intrinsic lets it be dropped.
    built = list(tmp_path.rglob("isa_amx.cpp.o"))
    if built and shutil.which("objdump"):
        code = subprocess.run(["objdump", "-d", built[0]], capture_output=True, text=True, check=True).stdout
        assert code.count("tdpbusd") == 8
        at = code.index("ldtilecfg")
        place = code[at:].split()[1]
        assert code[:at].count(place) > 0


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)
def test_neon_operations_are_equal_in_an_emulator() -> None:
    told = subprocess.run([ROOT / "kernels" / "lab" / "check_neon.sh"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "neon: " in told.stdout
    assert " 0 failures" in told.stdout
