"""Play in a terminal, over SSH too: two pixels per character, by half blocks and 24-bit colour."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from gamegen_env.actions import meaning
from gamegen_env.image import load_image
from gamegen_env.keyboard import HID, KEY_MAPS, action_ids
from gamegen_env.play.game import Game
from gamegen_env.world import World

# What terminals send for a key, and the key's KeyboardEvent.code. They tell presses only, no releases.
SENT = {
    "\x1b[A": "ArrowUp", "\x1b[B": "ArrowDown", "\x1b[C": "ArrowRight", "\x1b[D": "ArrowLeft",
    "\x1bOA": "ArrowUp", "\x1bOB": "ArrowDown", "\x1bOC": "ArrowRight", "\x1bOD": "ArrowLeft",
    "w": "KeyW", "a": "KeyA", "s": "KeyS", "d": "KeyD", " ": "Space",
}  # fmt: skip
HOLD = 0.25  # seconds that a key counts as held after its last repeat
# One key: an escape sequence, whole or (for now) cut off, or a character.
KEY = re.compile(r"\x1b\[[0-9;?]*[@-~]|\x1bO.|(?P<cut>\x1b(?:\[[0-9;?]*|O)?$)|.", re.DOTALL)


def half_blocks(frame: np.ndarray) -> str:
    """Draw a frame (H, W, 3) uint8, H even, in H / 2 lines: the upper pixel as text, the lower as ground.

    Colours are named only where they change: a flat picture is 8 KB on the line then, not 72.
    """
    lines = []
    for upper, lower in zip(frame[::2].tolist(), frame[1::2].tolist(), strict=True):
        line, before = [], None
        for pair in zip(upper, lower, strict=True):
            if pair != before:
                (a, b, c), (d, e, f) = before = pair
                line.append(f"\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m")
            line.append("▀")
        lines.append("".join(line) + "\x1b[0m")
    return "\r\n".join(lines)


def fitted(frame: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Shrink a frame (side, side, 3) uint8 to a terminal, one row left for the figures; its new side is even.

    Raises: ValueError if the terminal is too small to show anything.
    """
    side = min(frame.shape[0], columns, 2 * (rows - 1)) // 2 * 2
    if side < 16:
        raise ValueError(f"--terminal: expected at least 16 columns and 9 rows, got {columns} and {rows}")
    at = np.arange(side) * frame.shape[0] // side
    return frame[at][:, at]


def keys_in(text: str) -> tuple[list[str], str]:
    """Split what a terminal has sent.

    Returns: the keys, KeyboardEvent.code names or characters as they are, without sequences of keys that we do not
             know; and the beginning of a sequence whose rest has not come yet.
    """
    keys: list[str] = []
    for found in KEY.finditer(text):
        if found["cut"]:
            return keys, found["cut"]
        if found[0] in SENT or not found[0].startswith("\x1b"):
            keys.append(SENT.get(found[0], found[0]))
    return keys, ""


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Keys as they come, no cursor; all as before at the end, whatever happens."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def play(world: World, picture: str, seed: int, fps: int) -> None:
    """Play until q or Ctrl+C. Backspace goes back, r starts again, p pauses.

    Raises: OSError if standard input or output is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OSError("--terminal: expected a terminal, got a pipe or a file")
    with suppress(KeyboardInterrupt), raw_terminal():
        _play(world, load_image(picture, world.frame_shape[0]), seed, fps)


def _play(world: World, frame: np.ndarray, seed: int, fps: int) -> None:
    game, ids = Game(world, 0), action_ids("ale")
    game.start(frame, seed)
    held: dict[str, float] = {}
    rest, paused = "", False
    while True:
        began = time.perf_counter()
        while select.select([sys.stdin], [], [], 0)[0]:
            # Not through sys.stdin: what that buffers, select does not see.
            data = os.read(sys.stdin.fileno(), 4096)
            if not data:
                return  # the line is gone
            keys, rest = keys_in(rest + data.decode(errors="replace"))
            for key in keys:
                if key == "q":
                    return
                if key == "p":
                    paused = not paused
                elif key == "r":
                    game.start(frame, seed)
                elif key == "\x7f":
                    game.seek(game.step - 2)
                else:
                    held[key] = began
        down = [HID[code] for code, at in held.items() if code in HID and began - at < HOLD]
        if not paused and not game.over:
            token = ids[KEY_MAPS["ale"].action(down)]
            game.accept(token, world.step([0], [token]), 0)
        _draw(game, paused)
        time.sleep(max(0.0, 1 / fps - (time.perf_counter() - began)))


def _draw(game: Game, paused: bool) -> None:
    assert game.view is not None
    columns, rows = os.get_terminal_size()
    view = game.view
    state = "game over (r: again)" if game.over else "paused" if paused else f"{meaning(view.action).lower():9s}"
    line = (
        f"step {view.step}  score {view.score:+.0f}  {state}  arrows space wasd play, p pause, backspace back, q quit"
    )
    # Written at once: cleared below the picture only, so that nothing flickers.
    sys.stdout.write(f"\x1b[H{half_blocks(fitted(view.frame, columns, rows))}\r\n{line[: columns - 1]}\x1b[J")
    sys.stdout.flush()
