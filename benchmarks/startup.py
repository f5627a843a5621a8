"""How long from nothing to a first frame?

    python -m benchmarks.startup

Each figure is the median of fresh processes, files warm in the page cache. The last line is JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

PROGRAMS = {
    "import gamegen_env": "import gamegen_env",
    "import gymnasium (its share)": "import gymnasium",
    "import torch (its share)": "import torch",
    "bare gym.make to first frame": (
        "import gymnasium as gym, gamegen_env; env = gym.make('ImageGame-v0'); env.reset(seed=0)"
    ),
}


def seconds(program: str, repeats: int = 5) -> float:
    timed = f"import time; t = time.perf_counter(); exec({program!r}); print(time.perf_counter() - t)"
    run = [sys.executable, "-W", "ignore", "-c", timed]
    return float(
        np.median(
            [float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) for _ in range(repeats + 1)][
                1:
            ]
        )
    )


def main() -> None:
    report = {name: seconds(program) for name, program in PROGRAMS.items()}
    for name, value in report.items():
        print(f"{name:32s} {value:6.2f} s")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
