"""The action vocabulary: direction x button, one small integer for every game.

One token names one direction (ALE order) and at most one button, so a game that
has never seen "right and fire" together still gets a meaningful token: the model
embeds the two parts separately and adds them.

    token = button * N_DIRECTIONS + direction

Tokens 0..17 are therefore the full ALE set in another order; `ALE` and `PROCGEN`
list, for each action id of those interfaces, its name and its token.
"""

from __future__ import annotations

DIRECTIONS = (
    "NOOP", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT",
)  # fmt: skip
BUTTONS = ("", "FIRE", "B", "C", "D", "E", "F")
N_DIRECTIONS = len(DIRECTIONS)
N_BUTTONS = len(BUTTONS)
N_ACTIONS = N_DIRECTIONS * N_BUTTONS

# (dx, dy) with y pointing down, in the order of DIRECTIONS.
OFFSETS = ((0, 0), (0, -1), (1, 0), (-1, 0), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))


def token(direction: str, button: str = "") -> int:
    """Return the action token of a direction and a button, both by name.

    Raises: ValueError if either name is unknown.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: expected one of {DIRECTIONS}, got {direction!r}")
    if button not in BUTTONS:
        raise ValueError(f"button: expected one of {BUTTONS}, got {button!r}")
    return BUTTONS.index(button) * N_DIRECTIONS + DIRECTIONS.index(direction)


def meaning(action_token: int) -> str:
    """Return the name of an action token, spelled as ALE does ("UPRIGHTFIRE").

    Raises: ValueError if the token is outside [0, N_ACTIONS).
    """
    if not 0 <= action_token < N_ACTIONS:
        raise ValueError(f"action token: expected 0..{N_ACTIONS - 1}, got {action_token}")
    button, direction = divmod(action_token, N_DIRECTIONS)
    if direction == 0 and button:
        return BUTTONS[button]
    return DIRECTIONS[direction] + BUTTONS[button]


# id -> token. Order: ale_py's full action set.
ALE: tuple[int, ...] = (
    token("NOOP"), token("NOOP", "FIRE"),
    *(token(d) for d in DIRECTIONS[1:]),
    *(token(d, "FIRE") for d in DIRECTIONS[1:]),
)  # fmt: skip

# id -> token. Order: Procgen's `get_combos`; its keys D A W S Q E are our six buttons.
PROCGEN: tuple[int, ...] = (
    *(token(d) for d in ("DOWNLEFT", "LEFT", "UPLEFT", "DOWN", "NOOP", "UP", "DOWNRIGHT", "RIGHT", "UPRIGHT")),
    *(token("NOOP", b) for b in BUTTONS[1:]),
)  # fmt: skip

ACTION_SETS: dict[str, tuple[int, ...]] = {"ale": ALE, "procgen": PROCGEN}
