"""A run: one folder that survives `kill -9`.

    config.json          the resolved options; resuming with others is refused
    metrics.jsonl        one JSON object per logged step; never holds a step twice
    checkpoint.safetensors   model, optimiser and step, replaced atomically

Randomness is drawn from (seed, step), so a resumed run repeats exactly what the
uninterrupted one would have done; nothing else needs saving.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gamegen_env.files import write_atomic


class Run:
    """The folder of one training run."""

    def __init__(self, folder: str | Path, options: dict[str, Any]) -> None:
        """Open or create the folder.

        Raises: ValueError if the folder belongs to a run with other options.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.json"
        # How long and how often may change on resume; what is computed per step may not.
        fixed = {k: v for k, v in options.items() if k not in ("steps", "minutes", "checkpoint_every")}
        if path.exists():
            before = json.loads(path.read_text())
            changed = {k: (before.get(k), v) for k, v in fixed.items() if before.get(k) != v}
            if changed:
                raise ValueError(f"{path}: this run was started with other options (was, now): {changed}")
        write_atomic(path, (json.dumps(options, indent=2) + "\n").encode())
        self._metrics = self.folder / "metrics.jsonl"
        self._started = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write model, optimiser and step atomically."""
        tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
        write_atomic(self.checkpoint, save(tensors, metadata={"step": str(step)}))

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the last checkpoint, if any, and drop metrics logged after it.

        Returns: the number of steps done.
        Raises:  ValueError if the checkpoint is broken or belongs to another model.
        """
        step = 0
        if self.checkpoint.exists():
            try:
                with safe_open(self.checkpoint, "pt") as file:
                    step = int(file.metadata()["step"])
                    tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            except (SafetensorError, KeyError) as error:
                raise ValueError(f"{self.checkpoint}: expected a training checkpoint, got {error}") from None
            parts = _split(tensors)
            try:
                model.load_state_dict(parts["model"])
            except RuntimeError as error:
                raise ValueError(f"{self.checkpoint}: belongs to another model: {error}") from None
            state = optimizer.state_dict()
            state["state"] = parts["optimizer"]
            optimizer.load_state_dict(state)
        if self._metrics.exists():
            kept = [line for line in self._metrics.read_text().splitlines() if _step_of(line) <= step]
            write_atomic(self._metrics, "".join(line + "\n" for line in kept).encode())
        return step

    def log(self, step: int, **values: float) -> None:
        """Append one line of metrics."""
        seconds = round(time.monotonic() - self._started, 1)
        with open(self._metrics, "a") as file:
            file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")


def _split(tensors: dict[str, Tensor]) -> dict[str, Any]:
    parts: dict[str, Any] = {"model": {}, "optimizer": {}}
    for key, value in tensors.items():
        where, name = key.split(".", 1)
        if where == "model":
            parts["model"][name] = value
        else:
            index, field = name.split(".", 1)
            parts["optimizer"].setdefault(int(index), {})[field] = value
    return parts


def _step_of(line: str) -> float:
    """The step of a metrics line; a line cut short by a kill counts as never written."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
