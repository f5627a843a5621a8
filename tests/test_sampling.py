from __future__ import annotations

import torch

from gamegen_env.sampling import CODE, EVENT, gumbel_table, noise_keys, sample

ROWS = 40_000


def keys(seed: int = 3, position: int = 0, purpose: int = EVENT) -> torch.Tensor:
    return noise_keys(torch.full((ROWS,), seed), torch.arange(ROWS), torch.full((ROWS,), position))[purpose]


def test_sample_follows_the_distribution() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])
    drawn = torch.bincount(sample(p.log().expand(ROWS, 5), keys(), 1.0), minlength=5) / ROWS
    # Four standard errors of a binomial share.
    assert ((drawn - p).abs() < 4 * (p * (1 - p) / ROWS).sqrt()).all()


def test_sample_at_other_temperature_follows_the_sharpened_distribution() -> None:
    p = torch.tensor([0.5, 0.3, 0.2])
    sharp = p**2 / (p**2).sum()
    drawn = torch.bincount(sample(p.log().expand(ROWS, 3), keys(), 0.5), minlength=3) / ROWS
    assert ((drawn - sharp).abs() < 4 * (sharp * (1 - sharp) / ROWS).sqrt()).all()


def test_noise_differs_by_seed_position_and_purpose() -> None:
    base = keys()
    for other in (keys(seed=4), keys(seed=3 + 2**32), keys(position=1), keys(purpose=CODE)):
        assert (base == other).float().mean() < 1e-3
    logits = torch.zeros(ROWS, 2)
    agree = (sample(logits, base, 1.0) == sample(logits, keys(purpose=CODE), 1.0)).float().mean()
    assert abs(agree - 0.5) < 0.02


def test_noise_of_a_row_does_not_depend_on_the_batch() -> None:
    logits = torch.randn(ROWS, 7, generator=torch.Generator().manual_seed(0))
    whole = sample(logits, keys(), 1.0)
    assert torch.equal(whole[100:101], sample(logits[100:101], keys()[100:101], 1.0))


def test_temperature_zero_takes_the_best_class() -> None:
    logits = torch.randn(100, 9)
    assert torch.equal(sample(logits, keys()[:100], 0.0), logits.argmax(1))


def test_forbidden_classes_are_never_drawn() -> None:
    logits = torch.zeros(ROWS, 4)
    logits[:, 2] = -torch.inf
    assert (sample(logits, keys(), 1.0) != 2).all()


def test_gumbel_table_has_the_moments_of_the_distribution() -> None:
    table = gumbel_table().double()
    assert abs(table.mean() - 0.5772) < 1e-3
    assert abs(table.var() - torch.pi**2 / 6) < 5e-3
