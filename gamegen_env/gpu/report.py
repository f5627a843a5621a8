"""What both commands share: the device, and the file that a user can send to us."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gamegen_env.engine.cuda import built
from gamegen_env.files import write_atomic

EMULATED = "Emulated on the host, thread by thread: nothing here says how fast a GPU is."


def described(library: Any, emulated: bool) -> dict[str, Any]:
    """Return what a report begins with: this package, machine and device.

    Raises: RuntimeError naming what is missing: driver, GPU, or a GPU that the library has code for.
    """
    return {
        "package": version("gamegen-env"),
        "build": built(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "emulated": emulated,
        "device": library.device(),
    }


def heading(report: dict[str, Any]) -> str:
    """Return one line about the device."""
    if report["emulated"]:
        return EMULATED
    d = report["device"]
    capability, driver, runtime = (".".join(map(str, d[name])) for name in ("capability", "driver", "runtime"))
    memory = f"{d['free_bytes'] / 1e9:.1f} of {d['memory_bytes'] / 1e9:.1f} GB free"
    return (
        f"{d['name']}, compute capability {capability}, {d['multiprocessors']} multiprocessors, {memory}; "
        f"driver for CUDA {driver}, library's {runtime}"
    )


def written(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(report, indent=1) + "\n").encode())
    print(f"\nWritten to {path}; please send it to us.")
