"""Tables whose rows learn from each other while a model trains; folded away when it is saved.

The code table has 8192 rows and the event head 579, and each learns from the few tokens in which
it occurs. While training, such a table is therefore a sum,

    row(i) = own(i) + SCALE * network(what is known of i),

so that every token teaches all rows that have something in common with its own, those never met
too. Known of a code is what the tokenizer's codebook says it looks like; of an event, its row and
column, or its movement down and right. The sum depends on i alone: a saved model holds plain tables,
and engines know nothing of this.

A codebook row's squared length is among the inputs: with it, a linear layer alone can make logits
fall off with the square of the distance from a patch that the model has in mind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from gamegen_env.config import StreamConfig
from gamegen_env.transformer import Transformer

D_HIDDEN = 256
SCALE = 0.1  # table entries are small (0.05 to begin with), and the learning rate is that of everything else


class Shared(nn.Module):
    """The parametrisation of a table (n, d); the sum is the table alone to begin with."""

    def __init__(self, features: Tensor, d: int) -> None:
        """Args: features: (n, k) float32, what is known of each row."""
        super().__init__()
        centred = features - features.mean(0)
        self.features = nn.Buffer(centred / centred.std(0).clamp_min(1e-6), persistent=False)
        self.direct = nn.Linear(features.shape[1], d, bias=False)
        self.inner = nn.Linear(features.shape[1], D_HIDDEN)
        self.outer = nn.Linear(D_HIDDEN, d, bias=False)
        nn.init.zeros_(self.direct.weight)
        nn.init.zeros_(self.outer.weight)

    def forward(self, own: Tensor) -> Tensor:
        common = self.direct(self.features) + self.outer(F.silu(self.inner(self.features)))
        return own + SCALE * common.to(own.dtype)


def of_codes(codebook: Tensor) -> Tensor:
    """Describe codes: (codebook_size, code_dim + 1) float32 from the tokenizer's codebook (codebook_size, code_dim)."""
    return torch.cat([codebook, codebook.square().sum(1, keepdim=True)], dim=1)


def of_events(stream: StreamConfig) -> Tensor:
    """Describe events, in the event head's order: (n_events, 2 * map_cells + 2 * (2 * max_scroll + 1) + 1) float32."""
    m, s = stream.map_cells, 2 * stream.max_scroll + 1
    cells, scrolls = torch.eye(m), torch.eye(s)
    blocks = [
        torch.cat([cells.repeat_interleave(m, 0), cells.repeat(m, 1)], dim=1),
        torch.cat([scrolls.repeat_interleave(s, 0), scrolls.repeat(s, 1)], dim=1),
        torch.ones(1, 1),
    ]
    return torch.block_diag(*blocks)


def share(model: Transformer, codebook: Tensor) -> None:
    """Let the rows of a model's code table and event head learn from each other."""
    d = model.config.transformer.d_model
    for module, features in ((model.code, of_codes(codebook)), (model.event_head, of_events(model.config.stream))):
        parametrize.register_parametrization(module, "weight", Shared(features, d))


@torch.no_grad()
def plain(model: Transformer) -> Transformer:
    """Return a copy with plain tables, as engines and checkpoints know them."""
    state = {name: tensor for name, tensor in model.state_dict().items() if "parametrizations" not in name}
    state |= {"code.weight": model.code.weight, "event_head.weight": model.event_head.weight}
    folded = Transformer(model.config)
    folded.load_state_dict(state)
    return folded
