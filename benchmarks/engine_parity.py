"""Does `native` decide what `torch` decides, on the packaged weights?

    OMP_NUM_THREADS=1 python -m benchmarks.engine_parity                 float32 and int8, 500 steps of 8 games
    OMP_NUM_THREADS=1 python -m benchmarks.engine_parity --precision float32 --kv-bits 16     the cache not in 4 bits

`native` plays. What it said is run through PyTorch, hundreds of tokens in one pass, as the reference engine defines it:
tokens of one step see each other in 16 bits and all others as the 4-bit cache keeps them, here PyTorch's own keys and
values, with the paths and the copies that follow from these. At every token PyTorch says what it would have drawn with
the same noise: events, codes or motions, and rewards with game overs ("ends"). So both decide every token from one
history, and one difference stays one.

What may differ, and how far: a draw is the largest of logit / temperature + noise. Where no logit of a draw is off by
more than e, the class that `native` draws lies at most 2 e / temperature below the one that PyTorch draws. Both sides
are measured: e, over the classes that noise can reach, and the margin, what a draw that differs lies below, times the
temperature. A margin beyond twice its own draw's e ends the run with an error: then masks, noise or samplers differ and
not the arithmetic. Where e comes from: in float32 from sums in another order, a ten-thousandth of a nat, which now
and then tip a value in the 4-bit cache to its neighbour, one of 15 steps; in int8 and int4 from rounding weights and
activations to 1/254 (weights of int4: 1/15) of the largest beside them.

A game's figures are kept in --keep as it ends and not computed again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.engine_step import actions
from gamegen_env import sampling
from gamegen_env.ballistics import MOTION, REACH, Paths
from gamegen_env.canvas import Canvas
from gamegen_env.checkpoint import Checkpoint, load_checkpoint
from gamegen_env.config import ACT, END, UPD
from gamegen_env.engine.cached import carried
from gamegen_env.engine.native import PRECISIONS, NativeEngine
from gamegen_env.image import load_image, packaged_images
from gamegen_env.kv4 import dequantise, hadamard, quantise
from gamegen_env.pointer import mixture, scores
from gamegen_env.stream import Step
from gamegen_env.transformer import Transformer, rotary_embedding, rotate

AT_ONCE = 512  # tokens of a pass, at least
ROUNDING = 1e-4  # of a score, a sum of numbers up to a hundred
KINDS = ("events", "codes", "ends")


class Telling(NativeEngine):
    """Keeps what it was shown since it was asked, a keyframe or a step each, with the logits at its tokens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown: list[tuple[np.ndarray, tuple[Tensor, ...]]] = []

    def _prefill(self, slot: int, rows: np.ndarray) -> None:
        logits = self._engine.score(slot, np.ascontiguousarray(rows, np.int64))
        self.shown.append((rows, tuple(torch.from_numpy(x) for x in logits)))


class Follower:
    """PyTorch on a stream, many keyframes and steps in one pass.

    What a token of the pass may look at is a row of columns: the past as the cache keeps it, the pass as the cache will
    keep it, and the pass as it is staged, of which a token sees its own unit.
    """

    def __init__(self, model: Transformer, kv_bits: int) -> None:
        self.model, self.kv_bits, t = model, kv_bits, model.config.transformer
        self.past = torch.zeros(t.n_layers, 2, t.n_kv_heads, 0, t.head_dim)  # of the last tokens, as caches keep them
        self.past_rows, self.past_motion = torch.zeros(0, 6, dtype=torch.int64), torch.zeros(0, MOTION)
        self.position = 0
        # Of the last pass:
        self.rows = self.columns = self.past_rows  # its tokens (S, 6), and the tokens of the columns (C, 6)
        self.keys = torch.zeros(0)  # (nkv, C, hd), of the last block
        self.motion = torch.zeros(0)  # (C, MOTION), how the columns' updates go on
        self.unseen = self.before = torch.zeros(0)  # (S, C): by which token; how many tokens earlier a column is

    def run(self, units: list[np.ndarray]) -> Tensor:
        """Return hidden states (S, d_model) at the tokens of the next units, (n, 6) each."""
        model, t = self.model, self.model.config.transformer
        rows = torch.from_numpy(np.concatenate(units))
        unit = torch.repeat_interleave(torch.tensor([len(u) for u in units]))
        position = self.position + torch.arange(len(rows))
        rotary = rotary_embedding(rows, position, model.config)
        n_past, same = self.past.shape[3], unit[:, None] == unit
        before = position[:, None] - torch.cat([position[:1] - n_past + torch.arange(n_past), position, position])
        # Of the tokens of this pass a token sees those of its own unit in 16 bits and the others as they are kept.
        other = torch.cat([torch.zeros(len(rows), n_past, dtype=torch.bool), same, ~same], 1)
        unseen = other | (before < 0) | (before >= t.window)
        x, kept = model.embed(rows), []
        for past, block in zip(self.past, model.layers(), strict=True):
            q, k, v = (y.transpose(0, 1) @ hadamard() for y in block.project(x, rotary))  # (heads, S, hd)
            staged = torch.stack([k, v]).half().float()
            stored = dequantise(*quantise(staged)) if self.kv_bits == 4 else staged
            keys, values = torch.cat([past, stored, staged], 2)
            q = q.unflatten(0, (t.n_kv_heads, -1))
            logits = (q @ keys[:, None].transpose(2, 3) * t.head_dim**-0.5).masked_fill_(unseen, -torch.inf)
            mixed = (logits.softmax(-1) @ values[:, None]).flatten(0, 1)
            x = x + block.out((mixed @ hadamard()).transpose(0, 1).flatten(1))
            x = x + block.feed_forward(x)
            kept.append(torch.cat([past, stored], 2)[:, :, -t.window :])
        hidden = model.norm(x)
        motion = torch.zeros(len(rows), MOTION) if model.ballistics is None else model.ballistics.motion(hidden)
        self.rows, self.columns = rows, torch.cat([self.past_rows, rows, rows])
        self.keys, self.motion = keys, torch.cat([self.past_motion, motion, motion])
        self.unseen, self.before = unseen, before
        self.past_rows, self.past_motion = (
            torch.cat([past, new])[-t.window :] for past, new in ((self.past_rows, rows), (self.past_motion, motion))
        )
        self.past, self.position = torch.stack(kept), self.position + len(rows)
        return hidden

    def event_logits(self, hidden: Tensor, at: slice) -> Tensor:
        """Return logits (n, n_events), not masked, after the tokens `at` of the last pass; hidden: (n, d_model)."""
        model, cells = self.model, self.model.config.stream.n_cells
        logits = model.event_logits(hidden)
        if model.ballistics is None:
            return logits
        rows, unseen, before = self.rows[at], self.unseen[at], self.before[at]
        position = self.position - len(self.rows) + torch.arange(at.start, at.stop)
        rotary = rotary_embedding(rows, position, model.config)
        query = rotate(model.ballistics.queries(hidden), rotary[:, None]) @ hadamard()  # (n, heads, hd)
        keys = self.keys.repeat_interleave(query.shape[1] // len(self.keys), 0)
        compared = torch.einsum("nhd,hcd->nhc", query, keys) * query.shape[-1] ** -0.5
        hidden_from = unseen | (self.columns[:, 0] != UPD)
        latest = before.masked_fill(hidden_from, 2**40).topk(min(REACH, before.shape[1]), largest=False).indices
        none = hidden_from.gather(1, latest)
        picked = compared.gather(2, latest[:, None].expand(-1, query.shape[1], -1))
        paths = Paths(
            picked.masked_fill(none[:, None], -torch.inf),
            self.columns[latest, 1].where(~none, 0),
            self.motion[latest],
            (rows[:, 5:] - self.columns[latest, 5]).float(),
        )
        logits[:, :cells] += model.ballistics(hidden, paths)
        return logits

    def code_logits(self, hidden: Tensor, at: Tensor, update: Tensor, present: Tensor, anchor: Tensor) -> Tensor:
        """Return logits of codes and motions (u, n_codes + n_motions) of updates that follow tokens of the last pass.

        Args: hidden: (u, d_model) at those tokens; at: (u,) which; update: (u, 6); present: (u,) the codes replaced;
              anchor: (u,) those of the cells' anchors.
        """
        model, config = self.model, self.model.config
        query = model.code_query(hidden, update[:, 1], update[:, 3:5], present)
        logits = model.vocabulary_logits(query).scatter(1, present[:, None], -torch.inf)
        if model.pointer is None:
            return logits
        position = self.position - len(self.rows) + at + 1
        copy_query, sentinel = model.pointer(query)
        copy_query = rotate(copy_query, rotary_embedding(update, position, config)[..., None, :, :]) @ hadamard()
        copied = scores(copy_query, self.keys.transpose(0, 1))
        held = torch.from_numpy(carried(self.columns.numpy(), config.tokenizer.codebook_size))
        nothing = (held < 0) | (held == present[:, None]) | self.unseen[at]
        nothing = nothing | (self.before[at] + 1 >= config.transformer.window)
        copied = copied.masked_fill(nothing, -torch.inf)
        moves = model.motion_logits(query, anchor != present)
        mixed = mixture(logits, sentinel, copied, held.clamp_min(0), moves, anchor, config.stream.still)
        return mixed.scatter(1, present[:, None], -torch.inf)


def compare(ours: Tensor, theirs: Tensor, drawn: Tensor, keys: Tensor, temperature: float) -> np.ndarray:
    """Compare draws.

    Args:    ours, theirs: (n, classes) logits; drawn (n,): by `native`; keys (n,): of the noise.
    Returns: (n, 2): error e of the logits, and margin below the class that `torch` draws, both in nats of a logit.
    """
    table = sampling.gumbel_table()
    in_reach = theirs >= theirs.amax(1, keepdim=True) - float(table[-1] - table[0]) * temperature
    in_reach.scatter_(1, drawn[:, None], True)
    row, found = in_reach.nonzero(as_tuple=True)
    off = (ours[row, found] - theirs[row, found]).abs()
    score = theirs[row, found] + temperature * sampling.gumbel(keys[row], found)
    error, best = (torch.full((len(drawn),), -torch.inf).scatter_reduce(0, row, x, "amax") for x in (off, score))
    margin = best - (theirs.gather(1, drawn[:, None])[:, 0] + temperature * sampling.gumbel(keys, drawn))
    if (margin > 2 * error + ROUNDING).any():
        raise AssertionError(
            f"margins {margin.tolist()} beyond twice the errors {error.tolist()}: no rounding explains it"
        )
    return torch.stack([error, margin], 1).numpy()


def step_draws(
    engine: Telling, follower: Follower, first: int, hidden: Tensor, rows: np.ndarray, told: tuple[Tensor, ...],
    replaced: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Compare all draws of a step.

    Args: first: of the step's tokens in the follower's last pass; hidden: (n, d_model) of PyTorch there, rows (n, 6);
          told: the native logits there; replaced: (2, u) the codes that its updates replaced, and their anchors.
    """
    model, grammar, temperature = engine.transformer, engine.grammar, engine.temperature
    last, said, hidden = rows[:-1], torch.from_numpy(rows[1:]), hidden[:-1]
    seeds, count = torch.from_numpy(engine.seed).expand(len(last)), torch.arange(1, len(rows))
    keys = sampling.noise_keys(seeds, torch.from_numpy(last[:, 5]), count)
    events, codes, ends = told
    allowed = grammar.event_mask(last[:, 3:5], np.where(last[:, 0] == UPD, last[:, 1], -1), last[:, 0] == ACT)
    if not torch.equal(torch.isfinite(events[:-1]), torch.from_numpy(allowed)):
        raise AssertionError("masks differ")
    update, end = said[:, 0] == UPD, said[:, 0] == END
    scroll = grammar.scroll_event(*(said[:, 1:3] - grammar.max_scroll).T.numpy())
    drawn = torch.where(update, said[:, 1], torch.where(end, grammar.end_event, torch.from_numpy(scroll)))
    logits = follower.event_logits(hidden, slice(first, first + len(last)))
    logits = logits.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    found = {
        "events": [compare(events[:-1], logits, drawn, keys[sampling.EVENT], temperature)],
        "codes": [],
        "ends": [],
    }
    if update.any():
        was, anchor = torch.from_numpy(replaced)
        at = first + update.nonzero()[:, 0]
        theirs = follower.code_logits(hidden[update], at, said[update], was, anchor)
        ours = codes.scatter(1, was[:, None], -torch.inf)
        content = said[update, 2]  # a code, beside the motion that brought it if one did
        drawn = torch.where(content < grammar.n_codes, content, grammar.n_codes + content // grammar.n_codes - 1)
        found["codes"] = [compare(ours, theirs, drawn, keys[sampling.CODE, update], temperature)]
    for part, logits in enumerate(model.end_logits(hidden[-1:])):
        ours = ends[-2:-1].split([3, 2], 1)[part]
        purpose = (sampling.REWARD, sampling.DONE)[part]
        # Drawn at temperature 1, whatever that of the picture is.
        found["ends"].append(
            compare(ours, logits, said[-1:, 1 + part], keys[purpose, -1:], 1.0 if temperature else 0.0)
        )
    return {kind: np.concatenate([np.zeros((0, 2), np.float32), *of]) for kind, of in found.items()}


@torch.inference_mode()
def follow(
    checkpoint: Checkpoint, name: str, seed: int, precision: str, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Play one game and follow it; return errors and margins of all draws, and which step each was of."""
    built = (checkpoint.config, checkpoint.transformer, 1)
    options = {"precision": precision, "kv_bits": args.kv_bits, "patches": checkpoint.patches}
    player = NativeEngine(*built, temperature=args.temperature, **options)
    teller = Telling(*built, temperature=args.temperature, **options)
    follower = Follower(checkpoint.transformer, args.kv_bits)
    canvas = Canvas(checkpoint.config, checkpoint.tokenizer, 1)
    canvas.reset(np.zeros(1, np.int64), load_image(packaged_images()[name], checkpoint.config.frame_size)[None])
    for engine in (player, teller):
        engine.reset(0, canvas.codes[0], seed)
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    replaced: list[np.ndarray] = []
    t = 0
    for number, action in enumerate(tqdm(actions(args.steps, 1, seed)[:, 0].tolist(), desc=f"{precision} {name}")):
        before = np.stack([player.codes[0], player.anchor[0]])
        batch = player.step([0], [action])
        replaced.append(before[:, batch.cells])
        teller.observe(
            0,
            Step(
                action, tuple(batch.scroll[0].tolist()), batch.cells, batch.codes,
                int(batch.reward_class[0]), bool(batch.done[0]), batch.motions,
            ),
        )  # fmt: skip
        units = [rows for rows, _ in teller.shown]
        if sum(map(len, units)) < AT_ONCE and number + 1 < args.steps:
            continue
        hidden, first = follower.run(units), 0
        for rows, told in teller.shown:
            states, begins, first = hidden[first : first + len(rows)], first, first + len(rows)
            if rows[0, 0] != ACT:
                continue  # a keyframe is known, nothing is drawn
            for kind, draws in step_draws(teller, follower, begins, states, rows, told, replaced.pop(0)).items():
                found[kind].append(np.column_stack([draws, np.full(len(draws), t)]))
            t += 1
        teller.shown.clear()
    return {kind: np.concatenate(draws) for kind, draws in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32", "int8"])
    parser.add_argument("--games", type=int, default=8)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--kv-bits", type=int, choices=(4, 16), default=4)
    parser.add_argument("--keep", type=Path, default=Path("out/engine_parity"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    args.keep.mkdir(parents=True, exist_ok=True)
    print(
        "| precision | drawn | draws | the same | steps | the same | error, median | 99.9 % | largest | widest margin |"
    )
    print("|---" * 10 + "|")
    report: dict[str, dict[str, float]] = {}
    for precision in args.precision:
        games = []
        for seed, name in enumerate(sorted(packaged_images())[: args.games]):
            of = (checkpoint.fingerprint, precision, args.kv_bits, name, args.steps, args.temperature)
            kept = args.keep / f"{'-'.join(map(str, of))}.npz"
            if not kept.exists():
                np.savez(kept, **follow(checkpoint, name, seed, precision, args))  # type: ignore[arg-type]
            games.append(dict(np.load(kept)))
        for kind in (*KINDS, "all"):
            of_game = [np.concatenate([g[k] for k in (KINDS if kind == "all" else (kind,))]) for g in games]
            error, margin, _ = np.concatenate(of_game).T
            steps, wrong = args.steps * len(games), sum(len(np.unique(g[g[:, 1] > 0, 2])) for g in of_game)
            row = {
                "draws": len(error), "equal": float((margin == 0).mean()), "steps": steps,
                "equal_steps": 1 - wrong / steps, "median": float(np.median(error)),
                "most": float(np.quantile(error, 0.999)), "largest": float(error.max()), "margin": float(margin.max()),
            }  # fmt: skip
            report[f"{precision} {kind}"] = row
            print(
                f"| {precision} | {kind} | {row['draws']} | {100 * row['equal']:.2f} % | {steps} | "
                f"{100 * row['equal_steps']:.1f} % | {row['median']:.1e} | {row['most']:.1e} | {row['largest']:.1e} | "
                f"{row['margin']:.1e} |",
                flush=True,
            )
    print(json.dumps({"threads": torch.get_num_threads(), **report}))


if __name__ == "__main__":
    main()
