"""How a generated game departs from the real one, step by step: a panel per game."""

from __future__ import annotations

from pathlib import Path

KINDS = {"model": "C0", "frozen": "C7", "shuffled": "C1", "ceiling": "C2"}


def draw_curves(report: dict[str, dict], out: Path) -> None:
    """Draw PSNR over the steps of the rollouts into a picture file.

    Args:   report: figures of every game, with `curves` as from `rollouts.fidelity`.
    Raises: ImportError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'gamegen-env[evaluation]'") from None
    columns = min(4, len(report))
    rows = -(-len(report) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axis, (game, figures) in zip(axes, report.items(), strict=False):
        for kind, colour in KINDS.items():
            values = figures["curves"][kind]
            axis.plot(range(1, len(values) + 1), values, colour, label=kind, linewidth=1)
        axis.set_title(game, fontsize=9)
    for axis in list(axes)[len(report) :]:
        axis.remove()
    figure.supxlabel("steps alone")
    figure.supylabel("PSNR, dB")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(KINDS))
    figure.savefig(out, dpi=120)
