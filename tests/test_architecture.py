"""Who may import whom. A module's row lists what of this package it may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gamegen_env"

BELOW_ENGINE = {
    "actions",
    "ballistics",
    "config",
    "motion",
    "stream",
    "transformer",
    "sampling",
    "kv4",
    "pointer",
    "engine",
}
MODELS = {
    "actions",
    "anchor",
    "config",
    "files",
    "checkpoint",
    "tokenizer",
    "transformer",
    "ballistics",
    "pointer",
    "kv4",
    "stream",
    "canvas",
    "cell_cache",
    "closed_loop",
    "codec",
}
RULES = {
    "actions": set(),
    "config": {"actions"},
    "files": set(),
    "image": set(),
    "keyboard": {"actions"},
    "tokenizer": {"config"},
    "transformer": {"actions", "ballistics", "config", "pointer"},
    "ballistics": {"config"},
    "pointer": {"config"},
    "kv4": {"transformer"},
    "sampling": set(),
    "stream": {"config"},
    "motion": {"config"},
    "things": {"motion"},
    "canvas": {"config", "motion", "things"},
    "scroll": set(),
    "cell_cache": {"canvas"},
    "closed_loop": {"canvas", "cell_cache", "config", "scroll", "stream", "things"},
    "codec": {"canvas", "closed_loop", "config", "files", "stream"},
    "anchor": {"codec", "stream"},
    "weights": {"files"},
    "checkpoint": {"config", "files", "tokenizer", "transformer", "weights"},
    "engine": BELOW_ENGINE,
    "cell_decoder": {"canvas", "engine", "tokenizer"},
    "device_canvas": {"canvas", "cell_decoder", "config", "engine", "things", "tokenizer"},
    "world": {"canvas", "cell_cache", "cell_decoder", "device_canvas", "checkpoint", "config", "engine", "stream"},
    "episode": {"image", "keyboard", "world"},
    "env": {"actions", "episode", "keyboard"},
    "vector_env": {"actions", "env", "episode", "keyboard"},
    "sb3": {"vector_env"},
    "games": {"actions", "config", "files", "games"},
    "training": MODELS | {"engine", "games", "training", "world"},
    "evaluation": MODELS | {"actions", "evaluation", "games", "training", "world"},
    "generate": {"", "actions"},
    "agent": {"actions"},
    "plan": {"config", "transformer"},
    "gpu": {
        "canvas",
        "cell_decoder",
        "checkpoint",
        "device_canvas",
        "config",
        "engine",
        "files",
        "gpu",
        "image",
        "plan",
        "world",
        "transformer",
    },
    "play": {"actions", "agent", "image", "keyboard", "play", "world"},
    "cli": set(),
    "__init__": set(),
}
# What only some rooms may know of the world outside.
OUTSIDE = {
    "torch": {
        "agent",
        "weights",
        "plan",
        "gpu",
        "tokenizer",
        "transformer",
        "pointer",
        "ballistics",
        "kv4",
        "sampling",
        "engine",
        "checkpoint",
        "training",
        "evaluation",
    },
    "PIL": {"image", "games", "evaluation", "generate"},
    "gymnasium": {"__init__", "env", "vector_env", "episode", "sb3", "generate", "agent"},
    "stable_baselines3": {"agent", "sb3"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "gamegen_env":
                names |= {f"gamegen_env.{alias.name}" for alias in node.names}
            else:
                names.add(node.module or "")
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_module_imports_only_what_its_room_may(path: Path) -> None:
    here = room(path)
    assert here in RULES, f"{path}: a new room needs a row in RULES"
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "gamegen_env":
            assert rest.split(".")[0] in RULES[here] | {here}, f"{here} may not import {name}"
        assert top not in ("tests", "agents", "benchmarks"), f"{here} imports {name}"
        assert top not in OUTSIDE or here in OUTSIDE[top], f"{here} may not import {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "agents").glob("*.py")), ids=lambda p: p.name)
def test_agents_use_public_surfaces_only(path: Path) -> None:
    allowed = {"gamegen_env.agent", "gamegen_env.sb3", "gamegen_env.files"}
    assert {name for name in imports(path) if name.startswith("gamegen_env")} <= allowed


def test_nothing_unpickles() -> None:
    for path in FILES:
        assert not {"pickle", "dill", "joblib"} & {n.split(".")[0] for n in imports(path)}, path
        assert "torch.load(" not in path.read_text(), path


def test_cli_lists_its_commands_and_refuses_others() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "gamegen_env.cli"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("play", "generate", "record", "train-tokenizer", "train-world", "evaluate"):
        assert word in listed
    bad = subprocess.run(
        [sys.executable, "-m", "gamegen_env.cli", "dance"], capture_output=True, text=True, check=False
    )
    assert bad.returncode != 0
    assert "expected one of play, generate" in bad.stderr
