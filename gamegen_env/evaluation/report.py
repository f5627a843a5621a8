"""Figures as a table."""

from __future__ import annotations


def table(report: dict[str, dict]) -> str:
    """Return the figures as a Markdown table: PSNR of the whole frame, and in brackets of the moving cells."""
    columns = [("next", "model"), ("next", "frozen"), ("16", "model"), ("16", "frozen"), ("16", "shuffled"),
               ("64", "model"), ("64", "frozen"), ("64", "shuffled"), ("64", "ceiling")]  # fmt: skip
    lines = [
        "| game | updates/step | " + " | ".join(f"{when}: {name}" for when, name in columns) + " | keys |",
        "|---" * (len(columns) + 3) + "|",
    ]

    def cell(figures: dict, when: str, name: str) -> str:
        if when == "64":
            when = str(figures["horizon"])
        if f"{when}_{name}" not in figures:
            return "–"
        mark = f" at {when}" if when not in ("next", "16", "64") else ""
        return f"{figures[f'{when}_{name}']:.1f} ({figures.get(f'{when}_moving_{name}', float('nan')):.1f}){mark}"

    for game, figures in report.items():
        cells = [cell(figures, when, name) for when, name in columns]
        keys = "–"
        if "branch" in figures:
            keys = f"{figures['branch']:.2f} of {figures['branch_ceiling']:.2f}, chance {figures['branch_chance']:.2f}"
        lines.append(f"| {game} | {figures['updates_per_step']} | " + " | ".join(cells) + f" | {keys} |")
    return "\n".join(lines)
