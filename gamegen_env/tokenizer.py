"""VQ-VAE tokenizer: 4x4-pixel cells <-> one of 8192 codes each.

The encoder sees one cell's own pixels and nothing else, so a code can only change
where pixels change. The decoder sees the 3x3 codes around a cell, which removes
block seams for free. It is not the canvas: what stays on screen, and which pixels a
cell keeps, is decided in `canvas.py`.

Source: VQ-VAE, arXiv 1711.00937; EMA codebook with revival of dead codes, after
arXiv 1906.00446. We differ: no convolutional encoder, because locality is a contract.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gamegen_env.config import TokenizerConfig

# Rows per matrix product at inference. Always the same shape, so that the result of a
# row does not depend, to the last bit, on how many other rows were asked for.
BLOCK = 64


class Tokenizer(nn.Module):
    """Encoder, codebook and decoder.

    Pixels are scaled to [-1, 1] inside. Shapes: N cells, c = cell_size, D = code_dim.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        n_pixels = config.cell_size**2 * 3
        self.to_code = nn.Linear(n_pixels, config.code_dim)
        self.encoder = nn.Sequential(
            nn.Linear(n_pixels, config.d_hidden), nn.SiLU(), nn.Linear(config.d_hidden, config.code_dim)
        )
        self.codebook = nn.Buffer(torch.randn(config.codebook_size, config.code_dim) * 0.1)
        self.from_code = nn.Linear(config.code_dim, n_pixels)
        self.decoder = nn.Sequential(
            nn.Linear(9 * config.code_dim, config.d_hidden),
            nn.SiLU(),
            nn.Linear(config.d_hidden, config.d_hidden),
            nn.SiLU(),
            nn.Linear(config.d_hidden, n_pixels),
        )
        # Start as a plain patch codebook: encoder and context decoder only add to it.
        for layer in (self.encoder[-1], self.decoder[-1]):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def embed(self, patches: Tensor) -> Tensor:
        """Map patches (N, c*c*3) in [-1, 1] to latents (N, D)."""
        return self.to_code(patches) + self.encoder(patches)

    def nearest(self, latents: Tensor) -> Tensor:
        """Return the index (N,) int64 of the nearest codebook row for latents (N, D)."""
        # argmin |z - c|^2 = argmax z.c - |c|^2 / 2
        half_norm = self.codebook.square().sum(1) / 2
        return torch.addmm(-half_norm, latents, self.codebook.T).argmax(1)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Map latents in 3x3 neighbourhoods (N, 9, D) to the middle patch (N, c*c*3)."""
        return self.from_code(latents[:, 4]) + self.decoder(latents.flatten(1))

    @torch.inference_mode()
    def encode_cells(self, patches: np.ndarray) -> np.ndarray:
        """Encode cells, each from its own pixels.

        Args:    patches: (N, c, c, 3) uint8.
        Returns: codes (N,) int32 in [0, codebook_size).
        """
        n = len(patches)
        pixels = torch.from_numpy(np.ascontiguousarray(patches)).flatten(1)
        codes = torch.empty(n, dtype=torch.int32)
        for rows, block in _blocks(pixels):
            codes[rows] = self.nearest(self.embed(_scale(block)))[: rows.stop - rows.start].int()
        return codes.numpy()

    @torch.inference_mode()
    def decode_cells(self, codes: np.ndarray) -> np.ndarray:
        """Decode the middle cell of each 3x3 neighbourhood of codes.

        Args:    codes: (N, 3, 3) integer in [0, codebook_size).
        Returns: patches (N, c, c, 3) uint8.
        """
        n, c = len(codes), self.config.cell_size
        indices = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64)).reshape(n, 9)
        patches = torch.empty(n, c * c * 3, dtype=torch.uint8)
        for rows, block in _blocks(indices):
            pixels = self.reconstruct(self.codebook[block])
            patches[rows] = _unscale(pixels[: rows.stop - rows.start])
        return patches.reshape(n, c, c, 3).numpy()

    def patches(self) -> np.ndarray:
        """Return what every code looks like among its own kind: (codebook_size, c, c, 3) uint8."""
        codes = np.arange(self.config.codebook_size)
        return self.decode_cells(np.broadcast_to(codes[:, None, None], (len(codes), 3, 3)))

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Encode whole frames.

        Args:    frames: (B, H, W, 3) uint8, H and W multiples of cell_size.
        Returns: codes (B, H/c, W/c) int32.
        """
        c = self.config.cell_size
        b, height, width, _ = frames.shape
        if height % c or width % c:
            raise ValueError(f"frames: expected sides that are multiples of {c}, got {frames.shape}")
        patches = frames.reshape(b, height // c, c, width // c, c, 3).swapaxes(2, 3).reshape(-1, c, c, 3)
        return self.encode_cells(patches).reshape(b, height // c, width // c)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Decode whole grids; beyond the edge the grid repeats its last row or column.

        Args:    codes: (B, h, w) integer.
        Returns: frames (B, h*c, w*c, 3) uint8.
        """
        c = self.config.cell_size
        b, h, w = codes.shape
        padded = np.pad(codes, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        patches = self.decode_cells(around.reshape(-1, 3, 3)).reshape(b, h, w, c, c, 3)
        return patches.swapaxes(2, 3).reshape(b, h * c, w * c, 3)


def _blocks(rows: Tensor) -> list[tuple[slice, Tensor]]:
    """Cut rows into blocks of exactly BLOCK, the last one padded by repeating a row."""
    blocks = []
    for start in range(0, len(rows), BLOCK):
        stop = min(start + BLOCK, len(rows))
        block = rows[start:stop]
        if stop - start < BLOCK:
            block = torch.cat([block, block[-1:].expand(BLOCK - (stop - start), -1)])
        blocks.append((slice(start, stop), block))
    return blocks


def _scale(pixels: Tensor) -> Tensor:
    return pixels.float().mul_(2 / 255).sub_(1)


def _unscale(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def training_loss(model: Tokenizer, frames: Tensor, commitment: float = 0.25) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruction plus commitment on the inner cells of random-phase crops.

    Args:    frames: (B, H, W, 3) float in [-1, 1], sides multiples of cell_size.
    Returns: the loss, and latents (N, D), codes (N,), squared error per cell (N,) of
             every cell for the codebook update, and the mean squared error "mse" (0..255 scale).
    """
    c, d = model.config.cell_size, model.config.code_dim
    b, height, width, _ = frames.shape
    h, w = height // c, width // c
    patches = frames.reshape(b, h, c, w, c, 3).transpose(2, 3).reshape(b * h * w, c * c * 3)
    latents = model.embed(patches)
    with torch.no_grad():
        codes = model.nearest(latents)
    quantised = model.codebook[codes]
    straight_through = (latents + (quantised - latents).detach()).reshape(b, h, w, d)
    grid = F.pad(straight_through.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    around = grid.unfold(2, 3, 1).unfold(3, 3, 1)  # (B, D, h, w, 3, 3)
    around = around.permute(0, 2, 3, 4, 5, 1).reshape(b * h * w, 9, d)
    error = (model.reconstruct(around) - patches).square().mean(1)
    loss = error.mean() + commitment * F.mse_loss(latents, quantised)
    statistics = {
        "latents": latents.detach(), "codes": codes, "error": error.detach(),
        "mse": error.detach().mean() * 127.5**2,
    }  # fmt: skip
    return loss, statistics
