"""The tokenizer's decoder with every sum in one order: the same pixels on every CPU and GPU.

`Tokenizer.decode_cells` is the definition. It leaves the order of its sums to PyTorch's matrix product, which has
another one on other processors; one pixel value in some 300,000 is then rounded to the other side, and a seed would
not promise the same pictures everywhere. This decoder adds in the order of the inputs, with fused products, as
`kernels/cells.cpp` and `kernels/cuda/canvas.cuh` do; for few cells it is much faster too.
"""

from __future__ import annotations

import numpy as np

from gamegen_env.canvas import CellCoder
from gamegen_env.tokenizer import Tokenizer

NEEDED = ("codebook", "from_code.", "decoder.")


def decoder_weights(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Return the float32 tensors that decoding takes, by name."""
    state = tokenizer.state_dict()
    return {name: tensor.float().contiguous().numpy() for name, tensor in state.items() if name.startswith(NEEDED)}


class CellDecoder:
    """A tokenizer that decodes in one order; it encodes as the tokenizer does."""

    def __init__(self, tokenizer: Tokenizer, isa: str = "auto") -> None:
        """Pack the weights.

        Args:   isa: "auto" or one of the native engine's instruction sets; the bits are the same.
        Raises: ImportError if the native engine was not built.
        """
        from gamegen_env.engine import _native

        self._tokenizer = tokenizer
        self._decoder = _native.CellDecoder(decoder_weights(tokenizer), tokenizer.config.cell_size, isa)

    def encode_cells(self, patches: np.ndarray) -> np.ndarray:
        """Return codes (N,) int32 of patches (N, c, c, 3) uint8."""
        return self._tokenizer.encode_cells(patches)

    def decode_cells(self, codes: np.ndarray) -> np.ndarray:
        """Return patches (N, c, c, 3) uint8 of codes (N, 3, 3). Raises: ValueError on a code that there is not."""
        return self._decoder.decode(np.ascontiguousarray(codes, np.int32))

    def patches(self) -> np.ndarray:
        """Return what every code looks like among its own kind: (codebook_size, c, c, 3) uint8."""
        codes = np.arange(self._tokenizer.config.codebook_size, dtype=np.int32)
        return self.decode_cells(np.broadcast_to(codes[:, None, None], (len(codes), 3, 3)))


def coder_for(tokenizer: Tokenizer) -> CellCoder:
    """Return a decoder in one order, or the tokenizer itself where the native engine was not built."""
    try:
        return CellDecoder(tokenizer)
    except ImportError:
        return tokenizer
