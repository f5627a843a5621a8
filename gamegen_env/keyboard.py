"""Keys to actions: USB HID usage ids -> held keys -> direction x buttons -> action token.

The canonical key is the HID usage id (page 0x07, equal to the SDL scancode): a place on the
keyboard, whatever the layout prints on it. Its spelling in configs is the browser's
`KeyboardEvent.code`. Source: USB HID Usage Tables 1.5, W3C UI Events KeyboardEvent code Values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gamegen_env.actions import ACTION_SETS, BUTTONS, DIRECTIONS, N_DIRECTIONS, OFFSETS

# KeyboardEvent.code -> HID usage id.
HID: dict[str, int] = {
    **{f"Key{chr(ord('A') + i)}": 4 + i for i in range(26)},
    **{f"Digit{(i + 1) % 10}": 30 + i for i in range(10)},
    "Enter": 40,
    "Escape": 41,
    "Backspace": 42,
    "Tab": 43,
    "Space": 44,
    "Minus": 45,
    "Equal": 46,
    "BracketLeft": 47,
    "BracketRight": 48,
    "Backslash": 49,
    "Semicolon": 51,
    "Quote": 52,
    "Backquote": 53,
    "Comma": 54,
    "Period": 55,
    "Slash": 56,
    "CapsLock": 57,
    **{f"F{i + 1}": 58 + i for i in range(12)},
    "Insert": 73,
    "Home": 74,
    "PageUp": 75,
    "Delete": 76,
    "End": 77,
    "PageDown": 78,
    "ArrowRight": 79,
    "ArrowLeft": 80,
    "ArrowDown": 81,
    "ArrowUp": 82,
    "NumpadEnter": 88,
    **{f"Numpad{i}": 88 + i for i in range(1, 10)},
    "Numpad0": 98,
    "ControlLeft": 224,
    "ShiftLeft": 225,
    "AltLeft": 226,
    "MetaLeft": 227,
    "ControlRight": 228,
    "ShiftRight": 229,
    "AltRight": 230,
    "MetaRight": 231,
}
CODE: dict[int, str] = {hid: code for code, hid in HID.items()}

_ARROWS = {"ArrowUp": "UP", "ArrowDown": "DOWN", "ArrowLeft": "LEFT", "ArrowRight": "RIGHT"}
_ROLES = ("UP", "DOWN", "LEFT", "RIGHT", *BUTTONS[1:])


@dataclass(frozen=True)
class KeyMap:
    """Which key does what: `roles` maps KeyboardEvent.code names to a direction or a button.

    Raises: ValueError on an unknown key or role.
    """

    roles: Mapping[str, str]
    _by_hid: dict[int, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for code, role in self.roles.items():
            if code not in HID:
                raise ValueError(f"key map: expected a KeyboardEvent.code name, got {code!r}")
            if role not in _ROLES:
                raise ValueError(f"key map: {code}: expected one of {_ROLES}, got {role!r}")
        object.__setattr__(self, "_by_hid", {HID[code]: role for code, role in self.roles.items()})

    def token(self, held: Iterable[int]) -> int:
        """Return the action token of held keys (HID ids). Opposites cancel, unknown keys are ignored.

        Of several buttons the first in the order of `actions.BUTTONS` counts.
        """
        roles = {self._by_hid[hid] for hid in held if hid in self._by_hid}
        dx = ("RIGHT" in roles) - ("LEFT" in roles)
        dy = ("DOWN" in roles) - ("UP" in roles)
        pressed = [index for index, name in enumerate(BUTTONS) if name and name in roles]
        return (pressed[0] if pressed else 0) * N_DIRECTIONS + OFFSETS.index((dx, dy))

    def action(self, held: Iterable[int], action_set: str = "ale") -> int:
        """Return the action id of held keys in an action set.

        A combination that the set lacks falls back to its direction, then to no-op.
        """
        tokens = action_ids(action_set)
        token = self.token(held)
        for candidate in (token, token % N_DIRECTIONS, 0):
            if candidate in tokens:
                return tokens.index(candidate)
        raise ValueError(f"action set {action_set!r}: expected it to contain a no-op")


def action_ids(action_set: str) -> tuple[int, ...]:
    """Return the tokens of an action set by id. Raises: ValueError if it is unknown."""
    if action_set not in ACTION_SETS:
        raise ValueError(f"action_set: expected one of {sorted(ACTION_SETS)}, got {action_set!r}")
    return ACTION_SETS[action_set]


KEY_MAPS: dict[str, KeyMap] = {
    "ale": KeyMap({**_ARROWS, "KeyW": "UP", "KeyS": "DOWN", "KeyA": "LEFT", "KeyD": "RIGHT", "Space": "FIRE"}),
    # Procgen's own keys: arrows move, D A W S Q E act.
    "procgen": KeyMap(
        {**_ARROWS, "Space": "FIRE", **{f"Key{k}": b for k, b in zip("DAWSQE", BUTTONS[1:], strict=True)}}
    ),
}


class KeyState:
    """The keys that are down right now, by HID usage id."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def press(self, hid: int) -> None:
        """Key down; a repeat changes nothing."""
        self.held.add(hid)

    def release(self, hid: int) -> None:
        """Key up; one that was not down is ignored."""
        self.held.discard(hid)

    def clear(self) -> None:
        """All keys up, as when the window loses focus."""
        self.held.clear()


def sdl_keycodes(action_set: str) -> dict[tuple[int, ...], int]:
    """Return key combinations for `gymnasium.utils.play`: sorted tuples of SDL keycodes -> action id.

    That player reads the layout's keys, not places: a letter's keycode is its character, an
    arrow's its scan code with bit 30 set. Directions and fire never mix arrows with letters.
    """
    key_map, tokens = KEY_MAPS[action_set], action_ids(action_set)
    keycode = {"Space": ord(" "), **{code: 1 << 30 | HID[code] for code in _ARROWS}}
    keys: dict[str, list[int]] = {}
    for code, role in key_map.roles.items():
        keys.setdefault(role, []).append(keycode.get(code) or ord(code.removeprefix("Key").lower()))
    combinations: dict[tuple[int, ...], int] = {}
    for action, token in enumerate(tokens):
        button, direction = divmod(token, N_DIRECTIONS)
        roles = [r for r in ("UP", "DOWN", "LEFT", "RIGHT") if r in DIRECTIONS[direction]]
        roles += [BUTTONS[button]] if button else []
        for which in range(2):
            held = tuple(sorted(keys[role][min(which, len(keys[role]) - 1)] for role in roles))
            if held:
                combinations[held] = action
    return combinations
