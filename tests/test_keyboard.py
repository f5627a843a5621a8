from __future__ import annotations

import pytest

from gamegen_env.actions import ACTION_SETS, ALE, BUTTONS, PROCGEN, meaning, token
from gamegen_env.keyboard import CODE, HID, KEY_MAPS, KeyMap, KeyState, sdl_keycodes

ARROWS = {"UP": "ArrowUp", "DOWN": "ArrowDown", "LEFT": "ArrowLeft", "RIGHT": "ArrowRight"}
LETTERS = {"UP": "KeyW", "DOWN": "KeyS", "LEFT": "KeyA", "RIGHT": "KeyD"}

# ALE's full action set, in its order, spelled as ale_py does.
ALE_NAMES = [
    "NOOP",
    "FIRE",
    "UP",
    "RIGHT",
    "LEFT",
    "DOWN",
    "UPRIGHT",
    "UPLEFT",
    "DOWNRIGHT",
    "DOWNLEFT",
    "UPFIRE",
    "RIGHTFIRE",
    "LEFTFIRE",
    "DOWNFIRE",
    "UPRIGHTFIRE",
    "UPLEFTFIRE",
    "DOWNRIGHTFIRE",
    "DOWNLEFTFIRE",
]
# Procgen's combos, in its order: held keys.
PROCGEN_KEYS = [
    "LEFT+DOWN",
    "LEFT",
    "LEFT+UP",
    "DOWN",
    "NONE",
    "UP",
    "RIGHT+DOWN",
    "RIGHT",
    "RIGHT+UP",
    "D",
    "A",
    "W",
    "S",
    "Q",
    "E",
]


def held(*codes: str) -> set[int]:
    return {HID[code] for code in codes}


def keys_of(name: str, directions: dict[str, str]) -> list[str]:
    keys = [directions[d] for d in ("UP", "DOWN", "LEFT", "RIGHT") if d in name]
    return keys + (["Space"] if "FIRE" in name else [])


@pytest.mark.parametrize("directions", [ARROWS, LETTERS], ids=["arrows", "wasd"])
@pytest.mark.parametrize("action", range(18))
def test_ale_action_from_keys(action: int, directions: dict[str, str]) -> None:
    name = ALE_NAMES[action]
    assert meaning(ALE[action]) == name
    assert KEY_MAPS["ale"].action(held(*keys_of(name, directions))) == action


@pytest.mark.parametrize("action", range(15))
def test_procgen_action_from_keys(action: int) -> None:
    names = PROCGEN_KEYS[action].split("+")
    codes = [ARROWS.get(n, f"Key{n}") for n in names if n != "NONE"]
    assert KEY_MAPS["procgen"].action(held(*codes), "procgen") == action
    assert len(PROCGEN) == 15


@pytest.mark.parametrize(
    ("codes", "name"),
    [
        (("ArrowLeft", "ArrowRight"), "NOOP"),
        (("ArrowLeft", "KeyD"), "NOOP"),
        (("ArrowUp", "ArrowDown", "Space"), "FIRE"),
        (("ArrowLeft", "ArrowRight", "ArrowUp"), "UP"),
        (("ArrowUp", "KeyW"), "UP"),
        (("KeyP", "F5", "ArrowUp"), "UP"),
        ((), "NOOP"),
    ],
)
def test_opposites_cancel_and_unknown_keys_are_ignored(codes: tuple[str, ...], name: str) -> None:
    assert meaning(KEY_MAPS["ale"].token(held(*codes))) == name


def test_key_of_no_keyboard_is_ignored() -> None:
    assert KEY_MAPS["ale"].token({9999, HID["ArrowUp"]}) == token("UP")


def test_hid_ids_are_those_of_the_usage_tables() -> None:
    table = {
        "KeyA": 4,
        "KeyZ": 29,
        "Digit1": 30,
        "Digit0": 39,
        "Enter": 40,
        "Space": 44,
        "F12": 69,
        "ArrowRight": 79,
        "ArrowLeft": 80,
        "ArrowDown": 81,
        "ArrowUp": 82,
        "Numpad1": 89,
        "Numpad0": 98,
        "ControlLeft": 224,
    }
    assert {code: HID[code] for code in table} == table
    assert len(CODE) == len(HID)


def test_key_state_ignores_repeats_and_clears() -> None:
    state = KeyState()
    for hid in (HID["ArrowUp"], HID["ArrowUp"], HID["Space"]):
        state.press(hid)
    assert KEY_MAPS["ale"].token(state.held) == token("UP", "FIRE")
    state.release(HID["Space"])
    state.release(HID["Space"])
    assert KEY_MAPS["ale"].token(state.held) == token("UP")
    state.clear()
    assert KEY_MAPS["ale"].token(state.held) == token("NOOP")


def test_first_of_several_buttons_counts_and_missing_combinations_fall_back() -> None:
    procgen = KEY_MAPS["procgen"]
    assert procgen.token(held("KeyQ", "KeyA")) == token("NOOP", BUTTONS[2])
    # Procgen has no "right and D": the direction stays.
    assert procgen.action(held("ArrowRight", "KeyD"), "procgen") == PROCGEN.index(token("RIGHT"))


def test_key_map_can_be_remapped_and_refuses_nonsense() -> None:
    mine = KeyMap({"KeyI": "UP", "Enter": "FIRE"})
    assert mine.token(held("KeyI", "Enter", "ArrowDown")) == token("UP", "FIRE")
    with pytest.raises(ValueError, match=r"KeyboardEvent\.code name, got 'Up'"):
        KeyMap({"Up": "UP"})
    with pytest.raises(ValueError, match="KeyI: expected one of"):
        KeyMap({"KeyI": "JUMP"})
    with pytest.raises(ValueError, match="action_set: expected one of"):
        mine.action(set(), "nes")


@pytest.mark.parametrize("name", sorted(ACTION_SETS))
def test_keycode_combinations_reach_every_action_but_noop(name: str) -> None:
    combinations = sdl_keycodes(name)
    reached = set(combinations.values())
    noop = ACTION_SETS[name].index(token("NOOP"))
    assert reached | {noop} == set(range(len(ACTION_SETS[name])))
    assert all(keys and keys == tuple(sorted(keys)) for keys in combinations)
