"""The `cuda` engine: the token loop of `native` on a GPU (`kernels/cuda/`), and the same sources emulated on the host.

Arithmetic is that of `native` in precision "int8" or "int4" with the 4-bit cache, to the bit. A step
is one CUDA graph: the token loop turns on the GPU, and the host reads what became of it. The emulation is for tests: it
runs each GPU thread as a fiber and looks for races, thousands of times slower than a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gamegen_env import engine
from gamegen_env.config import ModelConfig
from gamegen_env.engine.base import Engine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.transformer import Transformer


def library(emulate: bool = False) -> Any:
    """Return the compiled module: kernels for GPUs, or their emulation.

    Raises: ImportError saying why it is not there.
    """
    name = "_simt" if emulate else "_cuda"
    try:
        return importlib.import_module(f"gamegen_env.engine.{name}")
    except ImportError as error:
        if emulate:
            raise ImportError(f"engine 'cuda': expected _simt built with -DGAMEGEN_SIMT=ON, got: {error}") from None
        found = built() or f"lost: {error}"
        raise ImportError(
            f"engine 'cuda': expected it built with this package, but it was {found}. Once that is mended, install the "
            "package again: `pip install -v --force-reinstall --no-deps`; -v shows the build."
        ) from None


def built() -> str | None:
    """Return what the build said of this engine, "built ..." or "not built: why"; None where it left no word."""
    for folder in engine.__path__:
        path = Path(folder) / "cuda_build.txt"
        if path.is_file():
            return path.read_text().strip()
    return None


def ways(slots: Sequence[int]) -> list[tuple[int, str]]:
    """Return every number of slots with each way to decode them, as `turns` names it."""
    return [(n, turns) for n in slots for turns in (("auto", "persistent") if n == 1 else ("auto",))]


class CudaEngine(NativeEngine):
    """Slots in GPU memory; a state of `native` loads into it, and the other way round."""

    name = "cuda"

    def __init__(
        self,
        config: ModelConfig,
        transformer: Transformer,
        num_slots: int,
        *,
        temperature: float = 1.0,
        kv_bits: int = 4,
        precision: str = "int8",
        turns: str = "auto",
        emulate: bool = False,
        patches: np.ndarray | None = None,
    ) -> None:
        """Move the weights to the GPU and allocate every slot.

        Args:   as `Engine`, kv_bits 4 only; precision: "int8" or "int4"; turns: who turns the token loop, "device" (a
                loop inside the graph, CUDA 12.4), "host" (eight passes per launch), "auto", the device where it can,
                or, for one slot, "persistent", a single kernel whose blocks stay for the whole step; emulate: run on
                the host instead.
        Raises: ValueError on values outside these; ImportError where the module was not built; RuntimeError naming
                what is missing, driver, GPU or memory.
        """
        if kv_bits != 4:
            raise ValueError(f"kv_bits: engine 'cuda' has a 4-bit cache only, got {kv_bits!r}")
        if precision not in ("int8", "int4"):
            raise ValueError(f"precision: engine 'cuda' has int8 and int4, got {precision!r}")
        super(NativeEngine, self).__init__(
            config, transformer, num_slots, temperature=temperature, kv_bits=kv_bits, patches=patches
        )
        self.precision, self.emulated = precision, emulate
        self._device: Any = library(emulate).Engine(
            *self._described(transformer), num_slots, float(temperature), precision, turns
        )
        self._engine = self._device

    # A whole step at a time: what was sent is decoded when it is asked for.
    _send, _recv = Engine._send, Engine._recv

    def carry(self, slots: np.ndarray, cells: np.ndarray, motions: np.ndarray) -> np.ndarray:
        codes = super().carry(slots, cells, motions)
        for slot in np.unique(slots).tolist():
            self._device.renew(slot)
        return codes

    @property
    def isa(self) -> str:
        """What the kernels run on."""
        return "emulated" if self.emulated else "cuda"

    @property
    def threads(self) -> int:
        """Threads of the host that decode."""
        return 1

    def draft(self, when: str) -> None:
        """Only "never": this engine does not guess. Raises: ValueError on another word."""
        if when != "never":
            raise ValueError(f"drafting: expected never, got {when!r}; engine 'cuda' does not guess")
