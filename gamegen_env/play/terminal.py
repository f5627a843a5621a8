"""Play in a terminal, over SSH too: two pixels per character, by half blocks and 24-bit colour."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

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


def half_blocks(frame: np.ndarray) -> str:
    """Draw a frame (H, W, 3) uint8, H even, in H / 2 lines: the upper pixel as text, the lower as ground."""
    lines = []
    for upper, lower in zip(frame[::2].tolist(), frame[1::2].tolist(), strict=True):
        cells = (f"\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m▀" for (a, b, c), (d, e, f) in zip(upper, lower, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    return "\r\n".join(lines)


def keys_in(text: str) -> list[str]:
    """Return the keys in what a terminal has sent: KeyboardEvent.code names, and other characters as they are."""
    keys = []
    while text:
        sequence = next((s for s in SENT if text.startswith(s)), text[0])
        keys.append(SENT.get(sequence, sequence))
        text = text[len(sequence) :]
    return keys


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
    """Play until q. Backspace goes back, r starts again, p pauses.

    Raises: OSError if standard input or output is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OSError("--terminal: expected a terminal, got a pipe or a file")
    game, ids = Game(world, 0), action_ids("ale")
    frame = load_image(picture, world.frame_shape[0])
    game.start(frame, seed)
    held: dict[str, float] = {}
    paused = False
    with raw_terminal():
        while True:
            began = time.perf_counter()
            text = ""
            while select.select([sys.stdin], [], [], 0)[0]:
                text += sys.stdin.read(1)
            for key in keys_in(text):
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
            assert game.view is not None
            state = "game over (r: again)" if game.over else "paused" if paused else "arrows and space play"
            line = f"step {game.view.step}  score {game.view.score:+.0f}  {state}  p pause  backspace back  q quit"
            sys.stdout.write(f"\x1b[H{half_blocks(game.view.frame)}\r\n{line}\x1b[K")
            sys.stdout.flush()
            time.sleep(max(0.0, 1 / fps - (time.perf_counter() - began)))
