"""Train the world model (the causal transformer) on streams of recorded games.

    gamegen train-world --data data --tokenizer runs/tokenizer --out runs/world --minutes 60
    gamegen train-world --data data --tokenizer runs/tokenizer --out /tmp/w --steps 2 --batch 1 --no-compile
    torchrun --nproc-per-node 2 -m gamegen_env.training.train_world ...      (one process per core or GPU)

Streams are coded once per tokenizer and game, under `streams/` in the data folder. The
run folder's `model/` is a checkpoint that plays:
`gym.make("ImageGame-v0", model="runs/world/model")`.

Loss = event + code + 0.5 turn + 0.5 reward + 0.5 termination, each the mean cross-entropy in
nats over the places where it applies; "turn" is the first event of a step. Weight matrices
of the blocks learn with Muon (arXiv 2502.16982), everything else with AdamW.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time

import torch
from torch.nn.utils import parametrize
from tqdm import tqdm

from gamegen_env.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from gamegen_env.config import PRESETS
from gamegen_env.kv4 import FakeQuantise
from gamegen_env.training import shared
from gamegen_env.training.batches import Sampler
from gamegen_env.training.data import load_streams
from gamegen_env.training.kernels import DEFINITIONS, compiled
from gamegen_env.training.objective import losses, measure, predict, total
from gamegen_env.training.run import Run
from gamegen_env.training.start import start_from
from gamegen_env.transformer import KVTransform, Transformer, count_parameters, matrices

VALIDATION_SEED = 2**40
VALIDATION_BATCHES = 4


class Optimizers(torch.optim.Optimizer):
    """Muon for the blocks' matrices and AdamW for the rest, as one optimizer with one learning-rate scale."""

    def __init__(self, model: Transformer, learning_rate: float) -> None:
        inside = {id(p) for p in matrices(model)}
        rest = [p for p in model.parameters() if id(p) not in inside]
        self.parts = [
            torch.optim.Muon(
                matrices(model), lr=learning_rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        super().__init__(list(model.parameters()), {"lr": learning_rate})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()

    def state_dict(self) -> dict:
        merged = {}
        for which, part in enumerate(self.parts):
            merged.update({2 * index + which: state for index, state in part.state_dict()["state"].items()})
        return {"state": merged, "param_groups": []}

    def load_state_dict(self, state_dict: dict) -> None:
        for which, part in enumerate(self.parts):
            state = part.state_dict()
            state["state"] = {i // 2: s for i, s in state_dict["state"].items() if i % 2 == which}
            part.load_state_dict(state)


def start_processes() -> tuple[int, int]:
    """Join the other processes that `torchrun` started, if it did. Returns: (rank, number of processes)."""
    if "RANK" not in os.environ:
        return 0, 1
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def average_gradients(model: Transformer) -> None:
    """Give every process the mean gradient. One flat buffer: one message per step."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def any_process(flag: bool) -> bool:
    """Tell whether any process raises its flag: all must stop at the same step."""
    raised = torch.tensor(float(flag))
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised)


def schedule(progress: float, step: int) -> float:
    """Scale of the learning rate: 100 steps of warm-up, flat, then to zero over the last 40 %."""
    return min(1.0, (step + 1) / 100) * min(1.0, max(0.0, (1 - progress) / 0.4))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen train-world", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder written by `gamegen record`")
    parser.add_argument("--tokenizer", required=True, help="run folder of `gamegen train-tokenizer`, or a checkpoint")
    parser.add_argument("--out", required=True, help="run folder; an existing one is resumed")
    parser.add_argument("--games", default=None, help="comma-separated folder names, e.g. procgen-maze (default: all)")
    parser.add_argument(
        "--from",
        dest="start_from",
        default=None,
        metavar="MODEL",
        help="start from the weights of this model instead of from scratch",
    )
    parser.add_argument("--preset", default="pocket", choices=sorted(PRESETS))
    parser.add_argument(
        "--layers", dest="n_layers", type=int, default=None, help="blocks; the model of --from may have fewer (preset)"
    )
    parser.add_argument(
        "--pointer", action=argparse.BooleanOptionalAction, default=None, help="copy codes from the window (preset)"
    )
    parser.add_argument(
        "--ballistics", action=argparse.BooleanOptionalAction, default=None, help="foretell cells from paths (preset)"
    )
    parser.add_argument(
        "--anchor", action=argparse.BooleanOptionalAction, default=None, help="know what cells showed at first (preset)"
    )
    parser.add_argument(
        "--motion", type=int, default=None, metavar="PIXELS",
        help="let updates move the picture by up to so many pixels (preset)",
    )  # fmt: skip
    parser.add_argument(
        "--sprites", action=argparse.BooleanOptionalAction, default=None,
        help="let updates move what stands out from the anchor alone (preset)",
    )  # fmt: skip
    parser.add_argument(
        "--things", action=argparse.BooleanOptionalAction, default=None,
        help="let sprites carry along what hangs together with them (preset)",
    )  # fmt: skip
    parser.add_argument(
        "--shared",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let tables learn what their rows have in common (`training/shared.py`; default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps (default: %(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=None,
        help="stop after this many minutes of this call; the checkpoint stays resumable",
    )
    parser.add_argument("--batch", type=int, default=4, help="sequences per step and process (default: %(default)s)")
    parser.add_argument("--sequence", type=int, default=None, help="tokens (default: the model's window)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak (default: %(default)s)")
    parser.add_argument(
        "--error-rate",
        type=float,
        default=0.03,
        help="share of updates that the training streams get wrong on purpose, to learn the repair",
    )
    parser.add_argument(
        "--restyled",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the sequences from clips in other colours and mirrored, to play pictures never seen",
    )
    parser.add_argument(
        "--self-play",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the sequences from clips in which a model plays some of the steps itself, half in other styles",
    )
    parser.add_argument(
        "--ruins",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the sequences that show what becomes of games that a model plays for long, and the way out "
        "(training/ruins.py), half in other styles",
    )
    parser.add_argument("--player", default=None, metavar="MODEL", help="who plays them (default: the one of --from)")
    parser.add_argument(
        "--ghosts",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the keyframes that show pieces of what moves elsewhere, which later steps take away",
    )
    parser.add_argument(
        "--overtime",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the games' ends that are missed at first and said some steps later",
    )
    parser.add_argument(
        "--kv-quantised",
        type=float,
        default=0.2,
        help="share of the run, at its end, trained through the 4-bit cache (default: %(default)s)",
    )
    parser.add_argument("--checkpoint-every", type=int, default=50, help="steps (default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile (no C++ compiler needed)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    shares = args.restyled, args.self_play, args.ruins
    if min(shares) < 0 or sum(shares) > 1:
        parser.error(f"--restyled, --self-play, --ruins: expected shares from 0 to 1 in all, got {shares}")
    for name in ("ghosts", "overtime"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"argument --{name}: expected a share from 0 to 1, got {getattr(args, name)}")
    plays = args.self_play > 0 or args.ruins > 0
    if args.player is not None and not plays:
        parser.error("argument --player: expected a share for --self-play or --ruins beside it, got none")
    player = args.player or args.start_from
    if plays and player is None:
        parser.error("--self-play, --ruins: expected --player or --from MODEL, which is to play, got none")

    started = time.monotonic()
    rank, world = start_processes()
    if rank > 0:  # the first process sets up the folders, the others find them ready
        torch.distributed.barrier()
    tokenizer = load_tokenizer(args.tokenizer)
    config = dataclasses.replace(PRESETS[args.preset], tokenizer=tokenizer.config)
    names = ("n_layers", "pointer", "ballistics", "anchor")
    switches = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    moves = {"max_motion": args.motion, "sprites": args.sprites, "things": args.things}
    stream = dataclasses.replace(config.stream, **{k: v for k, v in moves.items() if v is not None})
    transformer = dataclasses.replace(config.transformer, **switches)
    config = dataclasses.replace(config, stream=stream, transformer=transformer)
    run = Run(args.out, {**vars(args), "processes": world, "model": dataclasses.asdict(config)})
    sequence = args.sequence or config.transformer.window
    games = args.games.split(",") if args.games else None
    variants = []
    if args.restyled:
        restyled = load_streams(args.data, "train", config, tokenizer, args.error_rate, games, restyled=True)
        variants.append((restyled, args.restyled))
    for share, ruined in ((args.self_play, False), (args.ruins, True)):
        for other_style in (False, True) if share else ():
            played = load_streams(
                args.data, "train", config, tokenizer, args.error_rate, games, other_style, player=player, ruined=ruined
            )
            variants.append((played, share / 2))
    train = Sampler(
        load_streams(args.data, "train", config, tokenizer, args.error_rate, games),
        config,
        sequence,
        args.batch,
        args.seed,
        variants,
        args.ghosts,
        args.overtime,
    )
    heldout = Sampler(
        load_streams(args.data, "heldout", config, tokenizer, 0.0, games), config, sequence, args.batch, VALIDATION_SEED
    )
    torch.manual_seed(args.seed)
    model = Transformer(config)
    model.set_code_embedding(tokenizer.codebook)
    if args.start_from is not None:
        start_from(model, load_checkpoint(args.start_from).transformer, args.start_from)
    if args.shared:
        shared.share(model, tokenizer.codebook)
    optimizer = Optimizers(model, args.learning_rate)
    start = run.resume(model, optimizer)
    if world > 1 and rank == 0:
        torch.distributed.barrier()
    kernels = DEFINITIONS if args.no_compile else compiled(model)
    tokens_per_step = world * sequence * args.batch
    print(f"{config.name}: {count_parameters(model) / 1e6:.1f}M parameters, {tokens_per_step} tokens per step")

    progress = tqdm(
        range(start, args.steps), initial=start, total=args.steps, desc="world", unit="step", disable=rank > 0
    )
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * schedule(step / args.steps, step)
        kv_noise = FakeQuantise() if step >= (1 - args.kv_quantised) * args.steps else None
        began = time.monotonic()
        with parametrize.cached(), torch.autocast("cpu", torch.bfloat16):
            parts = losses(model, train(step * world + rank), kv_noise, kernels)
        loss = total(parts)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; the last checkpoint is intact")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        out_of_time = args.minutes is not None and time.monotonic() - started > 60 * args.minutes
        if world > 1:
            average_gradients(model)
            out_of_time = any_process(out_of_time)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate = tokens_per_step / (time.monotonic() - began)
        if rank > 0:
            if out_of_time:
                break
            continue
        values = {name: round(value.item(), 4) for name, value in parts.items()}
        run.log(step + 1, **values, tokens_per_s=round(rate), lr=optimizer.param_groups[0]["lr"])
        progress.set_postfix(loss=f"{loss.item():.3f}", tokens_per_s=f"{rate:.0f}")
        if (step + 1) % args.checkpoint_every == 0 or step + 1 == args.steps or out_of_time:
            run.save(step + 1, model, optimizer)
            save_checkpoint(run.folder / "model", config, tokenizer, shared.plain(model))
            run.log(step + 1, **{f"heldout_{k}": v for k, v in validate(model, heldout, kv_noise).items()})
        if out_of_time:
            break


@torch.no_grad()
def validate(model: Transformer, heldout: Sampler, kv_noise: KVTransform | None) -> dict[str, float]:
    """Mean losses and hit rates over a few fixed held-out batches."""
    sums: dict[str, float] = {}
    for index in range(VALIDATION_BATCHES):
        with parametrize.cached(), torch.autocast("cpu", torch.bfloat16):
            batch = heldout(index)
            for name, value in measure(predict(model, batch, kv_noise), batch).items():
                sums[name] = sums.get(name, 0.0) + value.item() / VALIDATION_BATCHES
    return {name: round(value, 4) for name, value in sums.items()}


if __name__ == "__main__":
    main()
