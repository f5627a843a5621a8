"""Can the keys be read off the pictures? An inverse-dynamics network, trained on real clips.

It sees three frames and says which key led from the second to the third. Where a game
obeys, it reads generated clips as well as real ones; both are scored at the same places
under the same keys, so keys that do nothing (against a wall) cost both the same.

What its last hidden layer makes of three frames is also the space in which a Fréchet distance
is taken between generated and real short clips: no ImageNet network with weights of a known
licence comes in a package, and such a one would not know motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gamegen_env.evaluation.rollouts import CONTEXT, Rollouts
from gamegen_env.games.shards import Shard, iter_clips, read_shard

MAX_SHARDS = 8
BATCH = 64
WIDTHS = (32, 64, 96, 128)


def reader(n_keys: int) -> nn.Sequential:
    """Build the network: (N, 9, H, W) in 0..1 -> (N, n_keys) logits."""
    layers: list[nn.Module] = []
    for d_in, d_out in zip((9, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(d_in, d_out, 3, stride=2, padding=1), nn.GroupNorm(8, d_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(128), nn.SiLU(), nn.Linear(128, n_keys))


def stacked(*frames: np.ndarray) -> Tensor:
    """Return three frames (N, H, W, 3) uint8 each as input: the last one, and what changed to it and before."""
    a, b, c = (torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() / 255 for x in frames)
    return torch.cat([c, c - b, b - a], dim=1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Fréchet distance between two sets of features (n, d), each taken for a Gaussian."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    # The trace of a product's square root is the sum of the roots of its eigenvalues, which are not negative.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0))
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def fit(clips: Sequence[Shard], keys: np.ndarray, steps: int) -> nn.Sequential:
    """Train a reader on real clips. Args: keys: sorted tokens, the classes."""
    places = np.array([(i, t) for i, clip in enumerate(clips) for t in range(2, len(clip.frames))])
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = reader(len(keys))
    model(torch.zeros(1, 9, *clips[0].frames.shape[1:3]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        drawn = places[rng.integers(len(places), size=BATCH)]
        frames = [np.stack([clips[i].frames[t - back] for i, t in drawn]) for back in (2, 1, 0)]
        pressed = np.searchsorted(keys, [clips[i].action[t] for i, t in drawn])
        loss = F.cross_entropy(model(stacked(*frames)), torch.from_numpy(pressed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def evaluate_inverse(rollouts: Rollouts, train: Sequence[Path], steps: int) -> dict[str, float]:
    """Train on the recording's training shards, read the rollouts.

    Returns: accuracy on generated and on real frames, and of always naming the commonest key; the
        Fréchet distance of generated from real frames, and between real halves: the noise in it.
    Raises:  FileNotFoundError if there are no training shards.
    """
    if not train:
        raise FileNotFoundError("--inverse: expected recorded games of the split 'train' in the data folder, got none")
    clips = [clip for path in train[:MAX_SHARDS] for clip in iter_clips(read_shard(path)) if len(clip.frames) > 2]
    actions = rollouts.clips.actions(CONTEXT, CONTEXT + rollouts.clips.horizon)
    keys = np.unique(np.concatenate([actions.ravel(), *(clip.action for clip in clips)]))
    model = fit(clips, keys, steps)
    pressed = np.searchsorted(keys, actions)
    figures = {"inverse_commonest": float(np.bincount(pressed.ravel()).max() / pressed.size)}
    features = {}
    with torch.inference_mode():
        for name, frames in (("inverse", rollouts.played), ("inverse_real", rollouts.truth)):
            whole = np.concatenate([rollouts.clips.truth(CONTEXT - 2, CONTEXT), frames], axis=1)
            hidden = torch.stack([model[:-1](stacked(w[:-2], w[1:-1], w[2:])) for w in whole])
            figures[name] = float((model[-1](hidden).argmax(2).numpy() == pressed).mean())
            features[name] = hidden.double().numpy()
    played, real = features["inverse"], features["inverse_real"]
    figures["frechet"] = frechet(*(x.reshape(-1, x.shape[-1]) for x in (played, real)))
    figures["frechet_real"] = frechet(*(x.reshape(-1, x.shape[-1]) for x in (real[::2], real[1::2])))
    return figures
