"""What training minimises: the cross-entropy of every head under true histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gamegen_env.ballistics import REACH, Ballistics, Paths
from gamegen_env.config import ACT, KEY, UPD
from gamegen_env.pointer import Pointer, mixture, mixture_at, scores
from gamegen_env.training.batches import Batch
from gamegen_env.training.kernels import DEFINITIONS, FORBIDDEN, Kernels
from gamegen_env.transformer import KVTransform, Transformer, rotary_embedding, rotate

EVENT_BLOCK = 128  # events whose paths are compared with one stretch of updates


@dataclass(frozen=True)
class Predicted:
    """Logits of the heads at a batch's targets, float32.

    (E, n_events), (U, codebook_size + n_motions), (D, 3), (D, 2).
    """

    event: Tensor
    code: Tensor
    reward: Tensor
    done: Tensor


@dataclass(frozen=True)
class _Read:
    """What the heads have to say before a code is compared with the vocabulary."""

    event: Tensor  # logits (E, n_events)
    reward: Tensor  # (D, 3)
    done: Tensor  # (D, 2)
    query: Tensor  # (U, d_model), of the code head
    keys: Tensor  # (B, S, nkv, hd), of the last block


def _read(model: Transformer, batch: Batch, kv_noise: KVTransform | None, kernels: Kernels) -> _Read:
    hidden, keys = model(torch.from_numpy(batch.rows), kv_noise)
    hidden = hidden.flatten(0, 1)
    cell, origin, present = (torch.from_numpy(x) for x in (batch.cell, batch.origin, batch.present))
    query = model.code_query(hidden[torch.from_numpy(batch.code_at)], cell, origin, present)
    reward, done = model.end_logits(hidden[torch.from_numpy(batch.end_at)])
    event = model.event_logits(hidden[torch.from_numpy(batch.event_at)]).float()
    if model.ballistics is not None:
        cells = model.config.stream.n_cells
        led = foretold(model, model.ballistics, batch, hidden, keys, kernels)
        event = torch.cat([event[:, :cells] + led, event[:, cells:]], dim=1)
    return _Read(event, reward.float(), done.float(), query, keys)


def predict(model: Transformer, batch: Batch, kv_noise: KVTransform | None = None) -> Predicted:
    """Run a batch under its true histories."""
    read = _read(model, batch, kv_noise, DEFINITIONS)
    present, anchor = torch.from_numpy(batch.present), torch.from_numpy(batch.anchor)
    still = model.config.stream.still
    # As the sampler does: an update never repeats the code that is there.
    code = model.vocabulary_logits(read.query).float().scatter(1, present[:, None], FORBIDDEN)
    if model.pointer is not None:
        code = torch.cat(
            [
                mixture(code[mine], sentinel, copied, codes, moves, anchor[mine], still)
                for mine, sentinel, copied, codes, moves in recollections(model, model.pointer, batch, read)
            ]
        )
    return Predicted(read.event, code, read.reward, read.done)


def measure(predicted: Predicted, batch: Batch) -> dict[str, Tensor]:
    """Return the mean cross-entropy (nats) of each head on a batch, and hit rates of event and code."""
    heads = {"event": batch.event, "code": batch.choice, "reward": batch.reward, "done": batch.done}
    targets = {name: torch.from_numpy(values) for name, values in heads.items()}
    figures = {name: F.cross_entropy(getattr(predicted, name), targets[name]) for name in heads}
    figures["turn"] = turn(predicted.event, batch)
    for name in ("event", "code"):
        figures[f"{name}_hit"] = (getattr(predicted, name).argmax(1) == targets[name]).float().mean()
    return figures


def turn(event: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy (nats) of the first event of a step: the mean over sequences of each one's mean.

    There the action decides, and the camera: where it moves, a step has this one event that matters and thirty
    others, which outweigh it in the mean over all.
    """
    size = batch.rows.shape[1]
    sequence = batch.event_at // size
    first = batch.rows.reshape(-1, 6)[batch.event_at, 0] == ACT
    steps = np.bincount(sequence[first], minlength=len(batch.rows))
    weight = torch.from_numpy(1 / (steps[sequence[first]] * max(1, np.count_nonzero(steps))))
    each = F.cross_entropy(event[torch.from_numpy(first)], torch.from_numpy(batch.event[first]), reduction="none")
    return (each * weight.to(each.dtype)).sum()


def losses(
    model: Transformer,
    batch: Batch,
    kv_noise: KVTransform | None = None,
    kernels: Kernels = DEFINITIONS,
) -> dict[str, Tensor]:
    """Return the mean cross-entropy (nats) of each head on a batch, as `measure` does.

    Faster: of the distribution over the codes only what concerns the right one is formed.

    Args: kernels: of `kernels.compiled`, or slow ones.
    """
    read = _read(model, batch, kv_noise, kernels)
    targets = (batch.present, batch.code, batch.motion, batch.anchor)
    present, code, motion, anchor = (torch.from_numpy(x) for x in targets)
    still = model.config.stream.still
    log_p = kernels.likelihood(read.query, model.code.weight, present, code)
    if model.pointer is not None:
        log_p = torch.cat(
            [
                mixture_at(log_p[mine], sentinel, copied, codes, moves, anchor[mine], still, code[mine], motion[mine])
                for mine, sentinel, copied, codes, moves in recollections(model, model.pointer, batch, read)
            ]
        )
    return {
        "event": F.cross_entropy(read.event, torch.from_numpy(batch.event)),
        "code": -log_p.mean(),
        "reward": F.cross_entropy(read.reward, torch.from_numpy(batch.reward)),
        "done": F.cross_entropy(read.done, torch.from_numpy(batch.done)),
        "turn": turn(read.event, batch),
    }


def recollections(
    model: Transformer, pointer: Pointer, batch: Batch, read: _Read
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Yield, sequence by sequence, in the order of `code_at`, what the tokens before its updates hold.

    Yields: which updates (U,) bool; the sentinel's scores (u,); the tokens' scores (u, S), -inf where there
            is nothing to copy; the codes (S,) that they carry; the motions' scores (u, n_motions).
    """
    rows, present = torch.from_numpy(batch.rows), torch.from_numpy(batch.present)
    astray = torch.from_numpy(batch.anchor) != present
    size = rows.shape[1]
    update = torch.from_numpy(batch.code_at) + 1
    sequence, place = update // size, update % size
    rotary = rotary_embedding(rows.flatten(0, 1)[update], place, model.config)
    copy_query, sentinel = pointer(read.query)
    copy_query = rotate(copy_query, rotary[:, None])
    carries = (rows[..., 0] == KEY) | (rows[..., 0] == UPD)
    for i in range(len(rows)):
        mine = sequence == i
        codes = torch.where(carries[i], rows[i, :, 2] % model.config.tokenizer.codebook_size, 0).long()
        earlier = torch.arange(size) < place[mine, None]
        copyable = carries[i] & earlier & (codes != present[mine, None])
        copied = scores(copy_query[mine], read.keys[i]).float().masked_fill(~copyable, -torch.inf)
        yield mine, sentinel[mine], copied, codes, model.motion_logits(read.query[mine], astray[mine])


def foretold(
    model: Transformer, ballistics: Ballistics, batch: Batch, hidden: Tensor, keys: Tensor, kernels: Kernels
) -> Tensor:
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
        parts.append(
            Paths(
                _compared(query[mine], keys.flatten(0, 1)[updates], latest).masked_fill(none[:, None], -torch.inf),
                rows[updates, 1].long()[latest],
                ballistics.motion(hidden[updates])[latest],
                (rows[event_at[mine], 5][:, None] - rows[updates, 5][latest]).float(),
            )
        )
    paths = Paths(*(torch.cat([getattr(part, field) for part in parts]) for field in Paths.__dataclass_fields__))
    return ballistics(hidden[event_at], paths, kernels.gaussians)


def _compared(query: Tensor, keys: Tensor, latest: Tensor) -> Tensor:
    """Return the scores (E, nh, K) of updates, by their keys (U, nkv, hd), for queries (E, nh, hd).

    In blocks of events, for those that follow each other look at nearly the same updates: of all pairs of an event
    and an update few are asked for.

    Args: latest: (E, K) int64, which updates, each row descending, the rows ascending.
    """
    if not len(query):  # nothing in a sequence is scored
        return query.new_zeros(0, query.shape[1], latest.shape[1])
    query = query.unflatten(1, (keys.shape[1], -1)) * keys.shape[-1] ** -0.5
    compared = []
    for mine, which in zip(query.split(EVENT_BLOCK), latest.split(EVENT_BLOCK), strict=True):
        first = int(which[0, -1])
        near = keys[first : int(which[-1, 0]) + 1].to(query.dtype)
        products = torch.einsum("ekgd,ukd->ekgu", mine, near).flatten(1, 2)
        compared.append(products.gather(2, (which - first)[:, None].expand(-1, products.shape[1], -1)))
    return torch.cat(compared)


def total(parts: dict[str, Tensor]) -> Tensor:
    return parts["event"] + parts["code"] + 0.5 * (parts["turn"] + parts["reward"] + parts["done"])
