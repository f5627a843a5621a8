from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gamegen_env.ballistics import Paths
from gamegen_env.config import ACT, END, KEY, SCROLL, UPD, ModelConfig
from gamegen_env.pointer import mixture, scores
from gamegen_env.stream import Grammar, Step
from gamegen_env.transformer import FeatureTable, Transformer, attend, rotary_embedding, rotate, token_features
from tests.conftest import random_model


@pytest.mark.parametrize("size", [1, 31, 256, 257, 600])
@pytest.mark.parametrize("window", [1, 100, 600, 1000])
@pytest.mark.parametrize("length", [1.0, 7.0])  # of queries; at 7 the bound that stands for the maximum is some 60 nats
def test_attend_equals_masked_attention(size: int, window: int, length: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q = length * torch.randn(2, size, 4, 64, generator=generator)
    k, v = (torch.randn(2, size, 2, 64, generator=generator) for _ in range(2))
    distance = torch.arange(size)[:, None] - torch.arange(size)
    expected = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=(distance >= 0) & (distance < window), enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(attend(q, k, v, window), expected, atol=2e-6 * length, rtol=0)


def stream(config: ModelConfig) -> torch.Tensor:
    grammar = Grammar(config)
    rng = np.random.default_rng(0)
    rows = [grammar.keyframe_tokens(rng.integers(0, 64, grammar.n_cells), (0, 0), 0)]
    rows.append(
        grammar.step_tokens(
            Step(3, (2, -1), np.array([7, 12], np.int32), np.array([5, 6], np.int32), 2, False), (0, 0), 0
        )
    )
    rows.append(
        grammar.step_tokens(Step(9, (0, 0), np.array([3], np.int32), np.array([9], np.int32), 1, True), (2, 19), 1)
    )
    return torch.from_numpy(np.concatenate(rows)).long()[None]


def test_hidden_states_are_causal(small_map_config: ModelConfig) -> None:
    model = random_model(small_map_config)[1]
    rows = stream(small_map_config)
    hidden, _ = model(rows)
    changed = rows.clone()
    changed[0, -1, 1] = 0
    torch.testing.assert_close(model(changed)[0][0, :-1], hidden[0, :-1], atol=1e-5, rtol=0)
    assert (model(changed)[0][0, -1] - hidden[0, -1]).abs().max() > 1e-3


def test_hidden_states_forget_what_leaves_the_window(small_map_config: ModelConfig) -> None:
    """One layer sees `window` tokens; with L layers a token can matter for L * (window - 1) positions."""
    t = small_map_config.transformer
    model = random_model(small_map_config)[1]
    rows = stream(small_map_config).repeat(1, 10, 1)
    hidden, _ = model(rows)
    changed = rows.clone()
    changed[0, 0, 2] = (changed[0, 0, 2] + 1) % 64
    reach = t.n_layers * (t.window - 1)
    after, _ = model(changed)
    assert rows.shape[1] > reach + 10
    assert (after[0, : t.window] - hidden[0, : t.window]).abs().max() > 1e-3
    torch.testing.assert_close(after[0, reach + 1 :], hidden[0, reach + 1 :], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("max_motion", "sprites"), [(0, False), (2, False), (2, True)])
def test_every_field_of_a_token_reaches_its_embedding(
    small_map_config: ModelConfig, max_motion: int, sprites: bool
) -> None:
    stream = dataclasses.replace(small_map_config.stream, max_motion=max_motion, sprites=sprites)
    transformer = dataclasses.replace(small_map_config.transformer, pointer=True, anchor=sprites)
    model = random_model(dataclasses.replace(small_map_config, stream=stream, transformer=transformer))[1]
    # kind -> columns that mean something (time is the rotary embedding's). Models without motions know no camera.
    act = (1, 2, 3, 4) if max_motion else (1, 3, 4)
    columns = {KEY: (1, 2, 3, 4), ACT: act, SCROLL: (1, 2, 3, 4), UPD: (1, 2, 3, 4), END: (1, 2, 3, 4)}
    for kind, used in columns.items():
        row = torch.tensor([[kind, 1, 0, 4, 8, 3]])
        for column in range(1, 5):
            other = row.clone()
            other[0, column] += 1
            assert torch.equal(model.embed(row), model.embed(other)) == (column not in used), (kind, column)
    if sprites:  # of the same motion
        move, codes, n = 7, model.config.tokenizer.codebook_size, stream.n_vectors
        rows = torch.tensor([[UPD, 1, codes * (1 + motion), 4, 8, 3] for motion in (move, move + n)])
        assert not torch.equal(*model.embed(rows))


def test_features_stay_inside_the_table(small_map_config: ModelConfig) -> None:
    table = FeatureTable.of(small_map_config)
    indices, codes = token_features(stream(small_map_config), table)
    assert indices.min() >= 0
    assert indices.max() < table.size
    assert (codes >= 0).sum() == (stream(small_map_config)[..., 0] % 3 == 0).sum()  # KEY and UPD


def test_rotary_score_depends_on_offsets_alone_and_wraps_on_the_torus(small_map_config: ModelConfig) -> None:
    m = small_map_config.stream.map_cells
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 64, generator=generator)

    def score(cell_q: tuple[int, int], cell_k: tuple[int, int], shift: int, time: int) -> float:
        rows = torch.tensor(
            [[UPD, (r % m) * m + c % m, 0, 0, 0, t] for (r, c), t in ((cell_q, time + 3), (cell_k, time))]
        )
        rotary = rotary_embedding(rows, torch.tensor([shift + 9, shift]), small_map_config)
        return float(rotate(q, rotary[0]) @ rotate(k, rotary[1]))

    base = score((1, 2), (0, 1), 0, 0)
    for moved in (
        score((2, 3), (1, 2), 0, 0),
        score((m, m + 1), (m - 1, m), 0, 0),
        score((1, 2), (0, 1), 10**6, 10**5),
    ):
        assert abs(moved - base) < 1e-3
    assert abs(score((2, 2), (0, 1), 0, 0) - base) > 1e-2


def test_code_embedding_keeps_the_codebooks_neighbourhoods(tiny_config: ModelConfig) -> None:
    model = Transformer(tiny_config)
    codebook = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    codebook[1] = codebook[0] + 0.01
    model.set_code_embedding(codebook)
    e = model.code.weight
    assert (e[0] - e[1]).norm() < 0.05 * (e[0] - e[2:]).norm(dim=1).min()


def test_parameters_all_learn(small_map_config: ModelConfig) -> None:
    """No weight is dead: a loss over all heads reaches every parameter."""
    config = dataclasses.replace(small_map_config)
    torch.manual_seed(0)
    model = Transformer(config)
    rows = stream(config)
    hidden, keys = model(rows)
    query = model.code_query(hidden[0, -3:-2], torch.tensor([7]), torch.tensor([[2, 19]]), torch.tensor([4]))
    assert model.pointer is not None
    copy_query, sentinel = model.pointer(query)
    codes = rows[0, :, 2]
    assert model.ballistics is not None
    compared = torch.einsum("hd,khd->hk", model.ballistics.queries(hidden[0, -1]), keys[0].repeat_interleave(2, dim=1))
    motion, elapsed = model.ballistics.motion(hidden), torch.arange(rows.shape[1])[None].float()
    led = model.ballistics(hidden[0, -1:], Paths(compared[None], rows[..., 1].long(), motion, elapsed))
    loss = (
        model.event_logits(hidden).square().sum()
        + led.square().sum()
        + mixture(
            model.vocabulary_logits(query),
            sentinel,
            scores(copy_query, keys[0]),
            codes,
            model.motion_logits(query, torch.tensor([False])),
            torch.tensor([0]),
            0,
        )
        .square()
        .sum()
        + sum(x.square().sum() for x in model.end_logits(hidden))
    )
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
