"""Draw what runs have logged: one panel per quantity, one line per run, held-out values with dots.

gamegen plot runs/world --out curves.png
gamegen plot runs/a runs/b --out curves.png      compare runs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HELDOUT = "heldout_"
SMOOTH = 50  # logged steps in the running mean of training values
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def read_metrics(folder: str | Path) -> Curves:
    """Read a run's metrics: name -> (steps, values), both (n,) float64.

    Raises: FileNotFoundError without a metrics file, ValueError if a line is no metric.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected the metrics of a run, found nothing")
    points: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            step = row.pop("step")
            for name, value in row.items():
                points.setdefault(name, []).append((float(step), float(value)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: line {number}: expected numbers and a step, got {error}") from None
    points.pop("seconds", None)
    return {name: tuple(np.array(pairs).T) for name, pairs in points.items()}


def smooth(values: np.ndarray, width: int = SMOOTH) -> np.ndarray:
    """Running mean over the last `width` values, over fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - width)
    return (sums[stop] - sums[start]) / (stop - start)


def plot(folders: Sequence[str | Path], out: str | Path) -> None:
    """Draw the runs' metrics into a picture file. Raises: as `read_metrics`; ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'gamegen-env[plots]'") from None

    runs = {str(folder): read_metrics(folder) for folder in folders}
    names = list(dict.fromkeys(name.removeprefix(HELDOUT) for curves in runs.values() for name in curves))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        panel.set_title(name)
        panel.set_xlabel("step")
        for index, (run, curves) in enumerate(runs.items()):
            if name in curves:
                steps, values = curves[name]
                panel.plot(steps, smooth(values), color=f"C{index}", alpha=0.6, label=f"{run}, training")
            if HELDOUT + name in curves:
                panel.plot(*curves[HELDOUT + name], ".-", color=f"C{index}", label=f"{run}, held out")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    for panel in panels[len(names) :]:
        panel.remove()
    figure.savefig(out, dpi=110)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="run folders of `gamegen train-tokenizer` or `gamegen train-world`")
    parser.add_argument("--out", default="curves.png", help="picture to write (default: %(default)s)")
    args = parser.parse_args(argv)
    plot(args.runs, args.out)
    print(f"wrote {args.out}")
