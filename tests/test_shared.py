"""Tables whose rows learn from each other: nothing changes at first, nothing is left of it in what is saved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gamegen_env.config import ModelConfig
from gamegen_env.training.shared import Shared, of_events, plain, share
from gamegen_env.transformer import Transformer


@pytest.fixture
def codebook(tiny_config: ModelConfig) -> Tensor:
    tokenizer = tiny_config.tokenizer
    return torch.randn(tokenizer.codebook_size, tokenizer.code_dim, generator=torch.Generator().manual_seed(0))


def test_sharing_changes_nothing_before_it_learns(tiny_config: ModelConfig, codebook: Tensor) -> None:
    model = Transformer(tiny_config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    share(model, codebook)
    after = plain(model).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_folded_model_computes_the_same(tiny_config: ModelConfig, codebook: Tensor) -> None:
    model = Transformer(tiny_config)
    share(model, codebook)
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    hidden = torch.randn(5, tiny_config.transformer.d_model)
    folded = plain(model)
    assert not any("parametrizations" in name for name in folded.state_dict())
    assert torch.equal(folded.event_logits(hidden), model.event_logits(hidden))
    assert torch.equal(folded.vocabulary_logits(hidden), model.vocabulary_logits(hidden))
    assert torch.equal(folded.event_head.weight, model.event_head.weight)


def test_what_one_row_learns_reaches_rows_that_are_like_it() -> None:
    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    features[1] = features[0] + 0.01  # looks like row 0
    features[2] = -features[0]  # does not
    torch.manual_seed(0)
    table, own = Shared(features, 4), torch.zeros(64, 4)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.01)
    for _ in range(20):  # row 0 alone is shown
        loss = (table(own)[0] - 1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    zero, alike, unlike = table(own)[:3].detach()
    assert (zero > 0.1).all()
    assert torch.allclose(alike, zero, rtol=0.1)
    assert (unlike < 0).all()


def test_events_are_described_by_place_and_movement(tiny_config: ModelConfig) -> None:
    stream = tiny_config.stream
    m, s, features = stream.map_cells, 2 * stream.max_scroll + 1, of_events(stream)
    assert features.shape == (stream.n_events, 2 * m + 2 * s + 1)
    cell = features[2 * m + 3]  # row 2, column 3
    assert cell.nonzero()[:, 0].tolist() == [2, m + 3]
    scroll = features[stream.n_cells + 1 * s + 4]  # down 1, right 4, from the least
    assert scroll.nonzero()[:, 0].tolist() == [2 * m + 1, 2 * m + s + 4]
    assert features[-1].nonzero()[:, 0].tolist() == [2 * m + 2 * s]
