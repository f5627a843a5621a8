"""The terminal player in a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.image import load_image
from gamegen_env.play.terminal import fitted, half_blocks, keys_in
from tests.conftest import random_model


class Terminal:
    """What a person over SSH has: keys to press, a screen to read."""

    def __init__(self, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (40, 130))
        command = [sys.executable, "-m", "gamegen_env.cli", "play", "--terminal", "--fps", "60", *arguments]
        # Where the tests run in the background, interrupts are ignored, and a child would inherit that.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave)
        finally:
            signal.signal(signal.SIGINT, before)
        self.text = ""

    def until(self, pattern: str) -> re.Match[str]:
        """Read the screen until it shows the pattern after what was found before; fail after a minute."""
        end = time.monotonic() + 60
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, self.text[-500:]
            assert self.process.poll() is None, self.text[-500:]
            if select.select([self.master], [], [], 0.5)[0]:
                self.text = (self.text + os.read(self.master, 1 << 16).decode(errors="replace"))[-100_000:]
        self.text = self.text[found.end() :]
        return found

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait(self) -> int:
        """Read on until the player has ended, which waits for its last words to be read; return its exit status."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                os.read(self.master, 1 << 16)
        return self.process.wait(1)

    def settings(self) -> list:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(tiny_config: ModelConfig, tmp_path: Path) -> Iterator[Terminal]:
    """The player with random weights whose games are never over."""
    tokenizer, transformer = random_model(tiny_config)
    with torch.no_grad():
        transformer.end_head.bias[3] += 50
    save_checkpoint(tmp_path, tiny_config, tokenizer, transformer)
    made = Terminal("maze", "--model", str(tmp_path))
    yield made
    made.close()


def test_it_plays_pauses_goes_back_and_leaves_the_terminal_as_it_was(terminal: Terminal) -> None:
    before = terminal.settings()
    terminal.until("▀")
    assert terminal.settings() != before
    terminal.press("\x1b[C")
    terminal.until(r"step \d+  score \S+  right ")
    terminal.press("\x1bOA ")
    terminal.until(r"step \d+  score \S+  upfire ")
    terminal.press("p")
    step = int(terminal.until(r"step (\d+)  score \S+  paused")[1])
    terminal.press("\x7f")
    assert int(terminal.until(rf"step (?!{step} )(\d+)  score \S+  paused")[1]) == step - 2
    terminal.press("r")
    assert terminal.until(r"step 0  score \+0  paused")
    terminal.press("q")
    assert terminal.wait() == 0
    assert terminal.settings() == before


def test_an_interrupt_leaves_the_terminal_as_it_was(terminal: Terminal) -> None:
    before = terminal.settings()
    terminal.until("▀")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait() == 0
    assert terminal.settings() == before


def test_without_a_terminal_it_refuses(tiny_checkpoint: Path) -> None:
    command = [sys.executable, "-m", "gamegen_env.cli", "play", "--terminal", "--model", str(tiny_checkpoint)]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "expected a terminal, got a pipe or a file" in ran.stderr


def test_a_frame_is_drawn_with_two_pixels_per_character(picture: np.ndarray) -> None:
    lines = half_blocks(picture).split("\r\n")
    assert len(lines) == 32
    assert {line.count("▀") for line in lines} == {64}
    r, g, b = picture[1, 0]
    assert f"48;2;{r};{g};{b}m" in lines[0]
    # Read back what the escape sequences paint.
    for y, line in enumerate(lines):
        x, colours = 0, []
        for numbers, blocks in re.findall(r"\x1b\[38;2;([\d;]+)m(▀+)", line):
            colours = [int(n) for n in numbers.replace("48;2;", "").split(";")]
            for _ in blocks:
                assert [*picture[2 * y, x], *picture[2 * y + 1, x]] == colours
                x += 1


def test_a_flat_picture_is_short_on_the_line() -> None:
    assert len(half_blocks(load_image("gold", 64)).encode()) < 10_000


@pytest.mark.parametrize(("columns", "rows", "side"), [(200, 60, 64), (80, 24, 46), (31, 60, 30), (64, 33, 64)])
def test_a_frame_fits_the_terminal(picture: np.ndarray, columns: int, rows: int, side: int) -> None:
    assert fitted(picture, columns, rows).shape == (side, side, 3)


def test_a_tiny_terminal_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected at least 16 columns and 9 rows, got 80 and 5"):
        fitted(picture, 80, 5)


@pytest.mark.parametrize(
    ("text", "keys", "rest"),
    [
        ("\x1b[A\x1bOD w", ["ArrowUp", "ArrowLeft", "Space", "KeyW"], ""),
        ("d\x1b", ["KeyD"], "\x1b"),
        ("\x1b[", [], "\x1b["),
        ("\x1b[15~\x1b[1;2Aq", ["q"], ""),  # F5 and shift with an arrow are none of our keys
        ("\x1b[1;", [], "\x1b[1;"),
    ],
)
def test_keys_are_read_from_what_a_terminal_sends(text: str, keys: list[str], rest: str) -> None:
    assert keys_in(text) == (keys, rest)
