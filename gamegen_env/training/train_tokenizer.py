"""Train the VQ-VAE tokenizer on recorded games.

    gamegen train-tokenizer --data data --out runs/tokenizer --steps 6000
    gamegen train-tokenizer --data data --out /tmp/t --steps 20 --batch 2      (a quick look)

Crops at random pixel phases, so that a code means a patch and not a place on some
game's grid; palette, contrast and mirror augmentation plus synthetic textures, so
that the 8192 codes cover styles that the games do not have. The codebook starts as
k-means in the space of principal components and then follows its cells by moving
averages; codes that nothing uses move to the cells that are reconstructed worst.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gamegen_env.config import TokenizerConfig
from gamegen_env.tokenizer import Tokenizer, training_loss
from gamegen_env.training.data import load_frames
from gamegen_env.training.run import Run

CROP = 64  # pixels
KMEANS_PATCHES = 160_000
KMEANS_ITERATIONS = 12
EMA_DECAY = 0.99
REVIVE_EVERY = 50  # steps
RESTYLED = 0.15  # share of crops with another palette; at 0.5 the training games lost 1 to 3 dB
REVIVE_SHARE = 0.01  # of the codebook per revival, at most


def augment(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Crop at a random phase and restyle.

    Args:    frames: (B, H, W, 3) uint8.
    Returns: (B, CROP, CROP, 3) float32 in [-1, 1].
    """
    batch = []
    for frame in frames:
        dy, dx = rng.integers(0, 4, 2)
        image = np.roll(frame, (-dy, -dx), axis=(0, 1))[:CROP, :CROP].astype(np.float32) / 127.5 - 1
        if rng.random() < 0.05:
            image = _texture(rng)
        if rng.random() < 0.5:
            image = image[:, ::-1] if rng.random() < 0.5 else image[::-1]
        if rng.random() < RESTYLED:
            mix = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3, p=[0.2, 0.8])
            mix += rng.normal(0, 0.2, (3, 3))
            image = image @ mix.astype(np.float32)
            image = image * rng.uniform(0.4, 1.2) + rng.uniform(-0.4, 0.4, 3)
        batch.append(np.clip(image, -1, 1))
    return torch.from_numpy(np.stack(batch).astype(np.float32))


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Coloured noise with a random spectrum: stands for pictures that are no game."""
    frequency = np.hypot(np.fft.fftfreq(CROP)[:, None], np.fft.rfftfreq(CROP)[None]) + 1 / CROP
    spectrum = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    noise = np.fft.irfft2(spectrum * frequency ** -rng.uniform(0.8, 2.0), (CROP, CROP))
    noise = np.einsum("ij,jhw->hwi", rng.normal(size=(3, 3)), noise)
    noise = noise / noise.std() * rng.uniform(0.1, 0.6) + rng.uniform(-0.5, 0.5, 3)
    return noise.astype(np.float32)


@torch.no_grad()
def initialise(model: Tokenizer, crops: Tensor, rng: np.random.Generator) -> None:
    """Set encoder and decoder to principal components and the codebook to k-means."""
    c, k = model.config.cell_size, model.config.codebook_size
    b, h, w, _ = crops.shape
    patches = crops.reshape(b, h // c, c, w // c, c, 3).transpose(2, 3).reshape(-1, c * c * 3)
    # Flat patches repeat endlessly; counted by the root of their number they leave codes for the rest.
    patches, count = torch.unique((patches * 32).round() / 32, dim=0, return_counts=True)
    if len(patches) < k:
        raise ValueError(f"data: expected at least {k} distinct patches, got {len(patches)}")
    weight = count.sqrt()
    chosen = torch.multinomial(weight, min(KMEANS_PATCHES, len(patches)), generator=_generator(rng))
    patches, weight = patches[chosen], weight[chosen, None]
    mean = patches.mean(0)
    basis = torch.linalg.svd(patches - mean, full_matrices=False)[2][: model.config.code_dim]
    model.to_code.weight.copy_(basis)
    model.to_code.bias.copy_(-basis @ mean)
    model.from_code.weight.copy_(basis.T)
    model.from_code.bias.copy_(mean)
    latents = (patches - mean) @ basis.T
    model.codebook.copy_(latents[:k])
    for _ in tqdm(range(KMEANS_ITERATIONS), desc="k-means", unit="pass"):
        codes = torch.cat([model.nearest(part) for part in latents.split(4096)])
        mass = torch.zeros(k, 1).index_add_(0, codes, weight)
        centre = torch.zeros_like(model.codebook).index_add_(0, codes, latents * weight)
        empty = mass[:, 0] == 0
        model.codebook.copy_(torch.where(empty[:, None], model.codebook, centre / mass.clamp(min=1)))
        spare = torch.from_numpy(rng.integers(0, len(latents), int(empty.sum())))
        model.codebook[empty] = latents[spare]


class Codebook:
    """Moving averages behind the codebook, kept beside the model so that a resume is exact."""

    def __init__(self, model: Tokenizer) -> None:
        self.model = model
        # Attached as buffers so that the run's checkpoint carries them.
        model.register_buffer("ema_count", torch.ones(model.config.codebook_size))
        model.register_buffer("ema_total", model.codebook.clone())

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        count, total = self.model.get_buffer("ema_count"), self.model.get_buffer("ema_total")
        size = len(count)
        batch_count = torch.bincount(codes, minlength=size).float()
        batch_total = torch.zeros_like(total).index_add_(0, codes, latents)
        # A code rests while no cell uses it: rare codes must not drift to zero.
        decay = torch.where(batch_count > 0, EMA_DECAY, 1.0)
        count.mul_(torch.full_like(decay, EMA_DECAY)).add_(batch_count, alpha=1 - EMA_DECAY)
        rate = ((1 - EMA_DECAY) * batch_count / count.clamp(min=1e-3)).clamp(max=0.5)
        mean = batch_total / batch_count.clamp(min=1)[:, None]
        total.copy_(torch.where((decay < 1)[:, None], total + rate[:, None] * (mean - total), total))
        self.model.codebook.copy_(total)

    @torch.no_grad()
    def revive(self, latents: Tensor, error: Tensor, rng: np.random.Generator) -> int:
        """Move the least used codes to badly reconstructed cells. Returns how many moved."""
        count, total = self.model.get_buffer("ema_count"), self.model.get_buffer("ema_total")
        dead = (count < 0.003).nonzero()[:, 0]
        limit = int(REVIVE_SHARE * len(count))
        dead = dead[torch.from_numpy(rng.permutation(len(dead)))][:limit]
        if len(dead):
            worst = torch.multinomial(error + 1e-9, len(dead), generator=_generator(rng))
            total[dead] = latents[worst]
            count[dead] = 1.0
            self.model.codebook[dead] = latents[worst]
        return len(dead)


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen train-tokenizer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder written by `gamegen record`")
    parser.add_argument("--out", required=True, help="run folder; an existing one is resumed")
    parser.add_argument("--steps", type=int, default=6000, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="crops per step (default: %(default)s)")
    parser.add_argument("--frames-per-game", type=int, default=3000, help="frames to learn from (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak (default: %(default)s)")
    parser.add_argument("--checkpoint-every", type=int, default=500, help="steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    config = TokenizerConfig()
    run = Run(args.out, {**vars(args), "tokenizer": dataclasses.asdict(config)})
    frames = load_frames(args.data, "train", args.frames_per_game)
    torch.manual_seed(args.seed)
    model = Tokenizer(config)
    codebook = Codebook(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    start = run.resume(model, optimizer)
    if start == 0:
        rng = np.random.default_rng([args.seed, 2**31])
        crops = augment(frames[rng.integers(0, len(frames), 3000)], rng)
        initialise(model, crops, rng)
        model.get_buffer("ema_total").copy_(model.codebook)

    progress = tqdm(range(start, args.steps), initial=start, total=args.steps, desc="tokenizer", unit="step")
    for step in progress:
        rng = np.random.default_rng([args.seed, step])
        for group in optimizer.param_groups:
            warm, left = min(1.0, (step + 1) / 200), 1 - step / args.steps
            group["lr"] = args.learning_rate * warm * max(left, 0.02)
        crops = augment(frames[rng.integers(0, len(frames), args.batch)], rng)
        loss, statistics = training_loss(model, crops)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        codebook.update(statistics["latents"], statistics["codes"])
        revived = 0
        if step % REVIVE_EVERY == REVIVE_EVERY - 1 and step < 0.9 * args.steps:
            revived = codebook.revive(statistics["latents"], statistics["error"], rng)
        if step % 50 == 49:
            mse = float(statistics["mse"])
            used = float((model.get_buffer("ema_count") > 0.003).float().mean())
            run.log(step + 1, loss=loss.item(), psnr_db=10 * np.log10(255**2 / mse), codes_used=used, revived=revived)
            progress.set_postfix(psnr=f"{10 * np.log10(255**2 / mse):.1f} dB", used=f"{used:.0%}")
        if (step + 1) % args.checkpoint_every == 0 or step + 1 == args.steps:
            run.save(step + 1, model, optimizer)


if __name__ == "__main__":
    main()
