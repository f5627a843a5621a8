"""Mazes, carved depth first."""

from __future__ import annotations

import numpy as np

from gamegen_env.actions import OFFSETS


def carve(rng: np.random.Generator, rows: int, columns: int, wide: int) -> np.ndarray:
    """Carve ways `wide` cells wide, without loops, between walls of one cell: what is solid, (rows, columns) bool."""
    solid = np.ones((rows, columns), bool)
    ys, xs = range(1, rows - wide, wide + 1), range(1, columns - wide, wide + 1)
    stack, seen = [(0, 0)], {(0, 0)}
    solid[1 : 1 + wide, 1 : 1 + wide] = False
    while stack:
        y, x = stack[-1]
        ways = [
            (y + dy, x + dx)
            for dx, dy in OFFSETS[1:5]
            if 0 <= y + dy < len(ys) and 0 <= x + dx < len(xs) and (y + dy, x + dx) not in seen
        ]
        if not ways:
            stack.pop()
            continue
        there = ways[rng.integers(len(ways))]
        top, left = min(ys[y], ys[there[0]]), min(xs[x], xs[there[1]])
        solid[top : max(ys[y], ys[there[0]]) + wide, left : max(xs[x], xs[there[1]]) + wide] = False
        seen.add(there)
        stack.append(there)
    return solid
