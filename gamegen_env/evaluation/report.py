"""Figures as tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(figures: dict, name: str, digits: int) -> str:
    """Return one figure, or a dash where there is none."""
    value = figures.get(name, float("nan"))
    return "–" if isnan(value) else f"{value:.{digits}f}"


def at_horizon(figures: dict, when: str, name: str) -> tuple[str, str]:
    """Return the figure's name at a horizon, "last" being the longest, and how to mark one that is not 64."""
    if when == "last":
        when = str(figures["horizon"])
    return f"{when}_{name}", "" if when in ("next", "16", "64") else f" at {when}"


def fidelity_table(report: dict[str, dict]) -> str:
    """PSNR of the whole frame, and in brackets of the moving cells."""
    columns = [("next", "model"), ("next", "frozen"), ("16", "model"), ("16", "frozen"), ("16", "shuffled"),
               ("last", "model"), ("last", "frozen"), ("last", "shuffled"), ("last", "ceiling")]  # fmt: skip

    def cell(figures: dict, when: str, name: str) -> str:
        full, mark = at_horizon(figures, when, name)
        if full not in figures:
            return "–"
        return f"{figures[full]:.1f} ({number(figures, at_horizon(figures, when, f'moving_{name}')[0], 1)}){mark}"

    head = ["game", "updates/step", *(f"{'64' if when == 'last' else when}: {name}" for when, name in columns)]
    body = [
        [game, number(figures, "updates_per_step", 2), *(cell(figures, *column) for column in columns)]
        for game, figures in report.items()
    ]
    return rows(head, body)


def similarity_table(report: dict[str, dict]) -> str:
    """SSIM of the whole frame."""
    columns = [(when, name) for when in ("next", "16", "last") for name in ("model", "frozen", "ceiling")]

    def cell(figures: dict, when: str, name: str) -> str:
        full, mark = at_horizon(figures, when, f"ssim_{name}")
        return number(figures, full, 3) + mark

    head = ["game", *(f"SSIM {'64' if when == 'last' else when}: {name}" for when, name in columns)]
    return rows(head, [[game, *(cell(figures, *column) for column in columns)] for game, figures in report.items()])


def control_table(report: dict[str, dict]) -> str:
    """Obedience to the keys, distance of short clips, rewards and ends, losses under true histories."""

    def branches(figures: dict) -> str:
        if "branch" not in figures:
            return "–"
        return f"{figures['branch']:.2f} of {figures['branch_ceiling']:.2f}, chance {figures['branch_chance']:.2f}"

    columns = [("keys read", "inverse", 2), ("in real clips", "inverse_real", 2), ("commonest", "inverse_commonest", 2),
               ("Fréchet", "frechet", 2), ("between real", "frechet_real", 2),
               ("reward F1", "reward_f1", 2), ("end F1", "done_f1", 2),
               ("event loss", "event_loss", 3), ("in training", "train_event_loss", 3),
               ("code loss", "code_loss", 3), ("in training", "train_code_loss", 3)]  # fmt: skip
    body = [
        [game, branches(figures), *(number(figures, name, digits) for _, name, digits in columns)]
        for game, figures in report.items()
    ]
    return rows(["game", "branches", *(title for title, _, _ in columns)], body)


def consistency_table(report: dict[str, dict]) -> str:
    """Permanence, ghosts, flicker and drift."""
    columns = [("back after 1 step", "returns_1", 2), ("2–8", "returns_8", 2), ("9–32", "returns_32", 2),
               ("ghosts/100 frames at 16", "16_ghosts_per_100", 0), ("at 64", "64_ghosts_per_100", 0),
               ("flicker %", "flicker_percent", 3), ("drift, 1 min", "drift_1", 2), ("5", "drift_5", 2),
               ("15", "drift_15", 2), ("collapsed", "collapsed", 2),
               ("the real game", "collapsed_real", 2)]  # fmt: skip
    body = [[game, *(number(figures, name, digits) for _, name, digits in columns)] for game, figures in report.items()]
    return rows(["game", *(title for title, _, _ in columns)], body)


def physics_table(report: dict[str, dict[str, dict[str, float]]]) -> str:
    """The physics figures: model, frozen frame, true places to whole pixels."""
    columns = [("off by, px, at 8", "position_8", 1), ("16", "position_16", 1), ("32", "position_32", 1),
               ("acceleration", "acceleration", 3), ("bounce, °", "bounce", 0),
               ("in walls", "penetration", 3), ("lost", "lost", 3)]  # fmt: skip
    body = [
        [kind, who, *(number(figures, name, digits) for _, name, digits in columns)]
        for kind, players in report.items()
        for who, figures in players.items()
    ]
    return rows(["room", "player", *(title for title, _, _ in columns)], body)
