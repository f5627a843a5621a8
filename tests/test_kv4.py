"""The 4-bit format: the drawn bytes, and error bounds by distribution."""

from __future__ import annotations

import pytest
import torch

from gamegen_env.kv4 import BITS_PER_VALUE, GROUP, FakeQuantise, dequantise, hadamard, quantise

# From kernels/README.md: value i is i / 4, so the scale is 63/4/15 = 1.05 and the minimum 0.
DRAWN = torch.arange(64) / 4


def test_format_decodes_the_drawn_example() -> None:
    nibbles, scale_minimum = quantise(DRAWN)
    assert bytes(nibbles[:4].tolist()) == bytes([0x80, 0x80, 0x80, 0x81])
    assert scale_minimum.view(torch.uint8).tolist() == [0x33, 0x3C, 0x00, 0x00]
    restored = dequantise(nibbles, scale_minimum)
    assert restored[0] == 0
    torch.testing.assert_close(restored[63], torch.tensor(15.75), atol=0.01, rtol=0)


def test_format_takes_at_most_four_and_a_half_bits() -> None:
    nibbles, scale_minimum = quantise(torch.randn(3, GROUP))
    assert (nibbles.nbytes + scale_minimum.nbytes) * 8 / (3 * GROUP) == BITS_PER_VALUE == 4.5


DISTRIBUTIONS = {
    "constant": torch.full((5, GROUP), 3.25),
    "two-level": torch.where(torch.arange(5 * GROUP).reshape(5, GROUP) % 3 == 0, -1.5, 2.0),
    "ramp": torch.linspace(-4, 4, 5 * GROUP).reshape(5, GROUP),
    "gaussian": torch.randn(200, GROUP, generator=torch.Generator().manual_seed(0)),
    "outlier": torch.cat(
        [torch.randn(5, GROUP - 1, generator=torch.Generator().manual_seed(1)), torch.full((5, 1), 60.0)], 1
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_round_trip_error_is_at_most_half_a_step(name: str) -> None:
    x = DISTRIBUTIONS[name]
    restored = dequantise(*quantise(x))
    low, high = x.aminmax(dim=-1)
    # Half a step of the grid, plus fp16 rounding: of the minimum, and of the scale, 15 times over.
    bound = (high - low) / 30 + low.abs() * 2**-11 + (high - low) * 2**-10
    assert ((restored - x).abs().amax(-1) <= bound + 1e-6).all()


def test_hadamard_is_orthonormal_and_spreads_an_outlier() -> None:
    h = hadamard()
    torch.testing.assert_close(h @ h, torch.eye(GROUP), atol=1e-6, rtol=0)
    x = DISTRIBUTIONS["outlier"]
    plain = (dequantise(*quantise(x)) - x).square().mean()
    rotated = (dequantise(*quantise(x @ h)) @ h - x).square().mean()
    assert rotated < plain / 2


def test_fake_quantise_equals_the_round_trip_and_passes_gradients() -> None:
    x = torch.randn(2, 3, GROUP, requires_grad=True)
    y = FakeQuantise()(x)
    h = hadamard()
    torch.testing.assert_close(y, dequantise(*quantise(x.detach() @ h)) @ h, atol=1e-5, rtol=0)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones_like(x))
