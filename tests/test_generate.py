"""The main command, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image


def gamegen(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "gamegen_env.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_generate_writes_a_game_that_moves(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "game.gif"
    done = gamegen("generate", "--steps", "20", "--player", "tour", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "frames/s" in done.stdout
    with Image.open(out) as animation:
        assert animation.size == (256, 256)
        assert animation.n_frames > 3  # equal frames in a row are merged, so: the game moved


def test_generate_plays_the_users_picture(tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 60).convert("RGB").save(tmp_path / "mine.jpg")
    done = gamegen("generate", str(tmp_path / "mine.jpg"), "--steps", "5", "--out", str(tmp_path / "mine.webp"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.webp").stat().st_size > 0


def test_generate_refuses_in_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["nowhere.png"], "nowhere.png: expected an image file"),
        (["--out", "game.doc"], "--out: expected a name ending in"),
        (["--steps", "0"], "--steps and --scale: expected at least 1"),
        (["--model", "nothing"], "model 'nothing': expected one of"),
        (["--temperature", "-1"], "temperature: expected"),
    ):
        done = gamegen("generate", "--out", str(tmp_path / "x.gif"), *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "x.gif").exists()
