"""Every number that defines a model, as frozen dataclasses that map one to one to JSON.

Standard library only, and everybody may import it. Validation happens here, once:
a config that exists is a config that works.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from gamegen_env.actions import N_ACTIONS

FORMAT_VERSION = 1
LATER = frozenset({"sprites", "things", "anchor"})  # fields that checkpoints written before them lack

# Kinds of stream tokens (DESIGN: stream := keyframe step* ...).
KEY, ACT, SCROLL, UPD, END = range(5)
N_KINDS = 5
N_REWARD_CLASSES = 3  # negative, zero, positive


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{type(config).__name__}.{name}: expected an integer >= 1, got {value!r}")


@dataclass(frozen=True)
class TokenizerConfig:
    """VQ-VAE: one code per cell, computed from that cell's pixels alone."""

    cell_size: int = 4  # pixels
    codebook_size: int = 8192
    code_dim: int = 32
    d_hidden: int = 96  # width of the encoder and of the decoder

    def __post_init__(self) -> None:
        _positive(self, "cell_size", "codebook_size", "code_dim", "d_hidden")


@dataclass(frozen=True)
class StreamConfig:
    """The tile map, its scroll register and the closed-loop tolerance."""

    view_cells: int = 16  # cells across the visible frame
    max_scroll: int = 8  # pixels per step and axis
    tolerance: float = 150.0  # mean squared error of a cell, 0..255 scale, above which it is updated
    memory_per_cell: int = 4  # earlier (code, pixels) pairs that the canvas remembers per cell
    max_motion: int = 0  # pixels per step and axis that an update may move the picture by; 0: updates only repaint
    sprites: bool = False  # a motion may move what stands out from the anchor's picture alone, over it
    things: bool = False  # and all that hangs together with it, in the cells around, too

    def __post_init__(self) -> None:
        _positive(self, "view_cells", "max_scroll", "memory_per_cell")
        if not isinstance(self.max_motion, int) or isinstance(self.max_motion, bool) or self.max_motion < 0:
            raise ValueError(f"StreamConfig.max_motion: expected an integer >= 0, got {self.max_motion!r}")
        if self.sprites and not self.max_motion:
            raise ValueError("StreamConfig.sprites: expected False with max_motion 0, got True")
        if self.things and not self.sprites:
            raise ValueError("StreamConfig.things: expected False without sprites, got True")
        if not self.tolerance > 0:
            raise ValueError(f"StreamConfig.tolerance: expected > 0, got {self.tolerance!r}")

    @property
    def map_cells(self) -> int:
        """Cells across the tile map, a torus: the view plus the one that slides in."""
        return self.view_cells + 1

    @property
    def n_cells(self) -> int:
        """Cells in the tile map = tokens in a keyframe."""
        return self.map_cells**2

    @property
    def n_scrolls(self) -> int:
        """Scroll options per step, (0, 0) included (it is never emitted)."""
        return (2 * self.max_scroll + 1) ** 2

    @property
    def n_motions(self) -> int:
        """Motions of an update, (0, 0) included (it is never drawn); 0 where updates only repaint.

        With sprites every motion comes twice: of all that is there, then of what stands out; with things once more:
        of what stands out and of what hangs together with it.
        """
        return (1 + self.sprites + self.things) * self.n_vectors

    @property
    def n_vectors(self) -> int:
        """Different (dx, dy) of motions; 0 where updates only repaint."""
        return (2 * self.max_motion + 1) ** 2 if self.max_motion else 0

    @property
    def still(self) -> int:
        """The motion (0, 0), which is none."""
        return self.n_vectors // 2

    @property
    def max_step_tokens(self) -> int:
        """Upper bound on the tokens of one step: ACT, SCROLL, every cell, END."""
        return self.n_cells + 3

    @property
    def n_events(self) -> int:
        """Classes of the event head: cells, then scrolls, then END."""
        return self.n_cells + self.n_scrolls + 1


@dataclass(frozen=True)
class TransformerConfig:
    """The causal model. head_dim is 64: the Hadamard size of the 4-bit KV format."""

    n_layers: int = 6
    d_model: int = 256
    n_heads: int = 4
    n_kv_heads: int = 1
    head_dim: int = 64
    d_ff: int = 768
    window: int = 2048  # tokens that a token can attend to, itself included
    n_actions: int = N_ACTIONS
    pointer: bool = False  # codes may be copied from the window
    ballistics: bool = False  # cells may be foretold from the paths of the latest updates
    anchor: bool = False  # cells are known by what they showed when they came into view

    def __post_init__(self) -> None:
        _positive(self, "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "window", "n_actions")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"TransformerConfig.n_heads: expected a multiple of n_kv_heads={self.n_kv_heads}, got {self.n_heads}"
            )
        if self.head_dim != 64:
            raise ValueError(f"TransformerConfig.head_dim: expected 64, got {self.head_dim}")
        if self.n_actions != N_ACTIONS:
            raise ValueError(f"TransformerConfig.n_actions: expected {N_ACTIONS}, got {self.n_actions}")


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: what a checkpoint folder's config.json holds."""

    name: str = "pocket"
    format_version: int = FORMAT_VERSION
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format_version: expected {FORMAT_VERSION}, got {self.format_version!r}")
        if self.stream.max_motion and not self.transformer.pointer:
            raise ValueError(f"stream.max_motion: expected 0 without transformer.pointer, got {self.stream.max_motion}")
        if self.stream.sprites and not self.transformer.anchor:
            raise ValueError("stream.sprites: expected False without transformer.anchor, got True")
        if self.transformer.anchor and not self.stream.max_motion:
            raise ValueError("transformer.anchor: expected False with stream.max_motion 0, got True")
        if self.updates_per_keyframe < 1:
            raise ValueError(
                f"transformer.window: expected at least {self.stream.n_cells + self.stream.max_step_tokens + 1} "
                f"for a tile map of {self.stream.n_cells} cells, got {self.transformer.window}"
            )

    @property
    def frame_size(self) -> int:
        """Side of the square frame in pixels."""
        return self.stream.view_cells * self.tokenizer.cell_size

    @property
    def updates_per_keyframe(self) -> int:
        """Step tokens after which a keyframe is inserted.

        Chosen so that the window holds one whole keyframe at every position, the
        densest possible next step included: roughly half the window.
        """
        return self.transformer.window - self.stream.n_cells - self.stream.max_step_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which a model that does without the fields of LATER has none of: it stays what it was."""
        data = dataclasses.asdict(self)
        for part in (data["stream"], data["transformer"]):
            for name in LATER & set(part):
                if not part[name]:
                    del part[name]
        return data

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Parse and validate. Raises: ValueError on bad JSON, unknown or missing keys, or bad values."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"config: expected JSON, got an error: {error}") from None
        return from_dict(cls, data, "config")


def from_dict(cls: Any, data: Any, path: str) -> Any:
    """Build dataclass `cls` from plain data; every field must be known and, but for those of LATER, present."""
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, got {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown, missing = sorted(set(data) - set(fields)), sorted(set(fields) - set(data) - LATER)
    if unknown or missing:
        raise ValueError(f"{path}: unknown keys {unknown}, missing keys {missing}")
    values = {}
    for name, value in data.items():
        kind = fields[name].type
        nested = {"TokenizerConfig": TokenizerConfig, "StreamConfig": StreamConfig,
                  "TransformerConfig": TransformerConfig}.get(str(kind))  # fmt: skip
        if nested is not None:
            values[name] = from_dict(nested, value, f"{path}.{name}")
        else:
            expected: tuple[type, ...] = {
                "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)
            }[str(kind)]  # fmt: skip
            if not isinstance(value, expected) or (isinstance(value, bool) and kind != "bool"):
                raise ValueError(f"{path}.{name}: expected {kind}, got {value!r}")
            values[name] = value
    return cls(**values)


PRESETS: dict[str, ModelConfig] = {
    "pocket": ModelConfig(
        stream=StreamConfig(max_motion=6, sprites=True),
        transformer=TransformerConfig(pointer=True, ballistics=True, anchor=True),
    ),
    "base-0.5b": ModelConfig(
        name="base-0.5b",
        transformer=TransformerConfig(n_layers=16, d_model=1536, n_heads=24, n_kv_heads=6, d_ff=5120, window=4096),
    ),
    "large-0.8b": ModelConfig(
        name="large-0.8b",
        transformer=TransformerConfig(n_layers=20, d_model=1792, n_heads=28, n_kv_heads=7, d_ff=5760, window=4096),
    ),
}
