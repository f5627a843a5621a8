"""What training minimises: the cross-entropy of every head under true histories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gamegen_env.ballistics import REACH, Ballistics, Paths
from gamegen_env.config import KEY, UPD
from gamegen_env.pointer import Pointer, mixture, scores
from gamegen_env.training.batches import Batch
from gamegen_env.transformer import KVTransform, Transformer, rotary_embedding, rotate


@dataclass(frozen=True)
class Predicted:
    """Logits of the heads at a batch's targets: (E, n_events), (U, codebook_size), (D, 3), (D, 2), float32."""

    event: Tensor
    code: Tensor
    reward: Tensor
    done: Tensor


def predict(model: Transformer, batch: Batch, kv_noise: KVTransform | None = None) -> Predicted:
    """Run a batch under its true histories."""
    hidden, keys = model(torch.from_numpy(batch.rows), kv_noise)
    hidden = hidden.flatten(0, 1)
    present = torch.from_numpy(batch.present)
    query = model.code_query(
        hidden[torch.from_numpy(batch.code_at)], torch.from_numpy(batch.cell), torch.from_numpy(batch.origin), present
    )
    # As the sampler does: an update never repeats the code that is there.
    code = model.vocabulary_logits(query).float().scatter(1, present[:, None], -1e4)
    if model.pointer is not None:
        code = recalled(model, model.pointer, batch, query, keys, code)
    reward, done = model.end_logits(hidden[torch.from_numpy(batch.end_at)])
    event_at = torch.from_numpy(batch.event_at)
    event = model.event_logits(hidden[event_at]).float()
    if model.ballistics is not None:
        cells = model.config.stream.n_cells
        led = foretold(model, model.ballistics, batch, hidden, keys)
        event = torch.cat([event[:, :cells] + led, event[:, cells:]], dim=1)
    return Predicted(event, code, reward.float(), done.float())


def losses(model: Transformer, batch: Batch, kv_noise: KVTransform | None = None) -> dict[str, Tensor]:
    """Return the mean cross-entropy (nats) of each head on a batch, and hit rates of event and code."""
    predicted = predict(model, batch, kv_noise)
    event, code = torch.from_numpy(batch.event), torch.from_numpy(batch.code)
    return {
        "event": F.cross_entropy(predicted.event, event),
        "code": F.cross_entropy(predicted.code, code),
        "reward": F.cross_entropy(predicted.reward, torch.from_numpy(batch.reward)),
        "done": F.cross_entropy(predicted.done, torch.from_numpy(batch.done)),
        "event_hit": (predicted.event.argmax(1) == event).float().mean(),
        "code_hit": (predicted.code.argmax(1) == code).float().mean(),
    }


def recalled(
    model: Transformer, pointer: Pointer, batch: Batch, query: Tensor, keys: Tensor, vocabulary: Tensor
) -> Tensor:
    """Mix what the vocabulary says (U, codebook_size) with what the tokens before each update hold."""
    rows, present = torch.from_numpy(batch.rows), torch.from_numpy(batch.present)
    size = rows.shape[1]
    update = torch.from_numpy(batch.code_at) + 1
    sequence, place = update // size, update % size
    rotary = rotary_embedding(rows.flatten(0, 1)[update], place, model.config)
    copy_query, sentinel = pointer(query)
    copy_query = rotate(copy_query, rotary[:, None])
    carries = (rows[..., 0] == KEY) | (rows[..., 0] == UPD)
    mixed = []
    for i in range(len(rows)):  # `code_at` ascends: the parts come out in order
        mine = sequence == i
        codes = torch.where(carries[i], rows[i, :, 2], 0).long()
        earlier = torch.arange(size) < place[mine, None]
        copyable = carries[i] & earlier & (codes != present[mine, None])
        copied = scores(copy_query[mine], keys[i]).float().masked_fill(~copyable, -torch.inf)
        mixed.append(mixture(vocabulary[mine], sentinel[mine], copied, codes))
    return torch.cat(mixed)


def foretold(model: Transformer, ballistics: Ballistics, batch: Batch, hidden: Tensor, keys: Tensor) -> Tensor:
    """Return what the paths of the latest updates before each event add to the logits of the cells.

    Args:    hidden: (B * S, d_model); keys: (B, S, nkv, hd).
    Returns: (E, n_cells) float32.
    """
    rows, event_at = torch.from_numpy(batch.rows).flatten(0, 1), torch.from_numpy(batch.event_at)
    size = batch.rows.shape[1]
    query = ballistics.queries(hidden[event_at])
    query = rotate(query, rotary_embedding(rows[event_at], event_at % size, model.config)[:, None])
    parts = []
    for i in range(len(batch.rows)):  # `event_at` ascends: the parts come out in order
        mine = event_at // size == i
        updates = i * size + (rows[i * size : (i + 1) * size, 0] == UPD).nonzero()[:, 0]
        if not len(updates):  # a quiet stretch
            updates = torch.tensor([i * size])
        known = torch.searchsorted(updates, event_at[mine], right=True)
        latest = known[:, None] - 1 - torch.arange(REACH)
        none = (latest < 0) | (rows[updates[latest.clamp_min(0)], 0] != UPD)
        latest = latest.clamp_min(0)
        key = keys.flatten(0, 1)[updates].unflatten(1, (-1, 1)).expand(-1, -1, query.shape[1] // keys.shape[2], -1)
        compared = torch.einsum("ehd,uhd->ehu", query[mine], key.flatten(1, 2).to(query.dtype)) * key.shape[-1] ** -0.5
        compared = compared.gather(2, latest[:, None].expand(-1, query.shape[1], -1))
        parts.append(
            Paths(
                compared.masked_fill(none[:, None], -torch.inf),
                rows[updates, 1].long()[latest],
                ballistics.motion(hidden[updates])[latest],
                (rows[event_at[mine], 5][:, None] - rows[updates, 5][latest]).float(),
            )
        )
    paths = Paths(*(torch.cat([getattr(part, field) for part in parts]) for field in Paths.__dataclass_fields__))
    return ballistics(hidden[event_at], paths)


def total(parts: dict[str, Tensor]) -> Tensor:
    return parts["event"] + parts["code"] + 0.5 * (parts["reward"] + parts["done"])
