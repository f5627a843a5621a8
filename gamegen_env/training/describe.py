"""What recorded games are like as streams: how much changes, who presses what, what it pays.

gamegen describe --data data --error-rate 0.03      (the streams that training has coded)
"""

from __future__ import annotations

import argparse

import numpy as np

from gamegen_env.checkpoint import load_checkpoint, load_tokenizer
from gamegen_env.codec import Stream
from gamegen_env.training.data import load_streams

_HEAD = ("game", "steps", "clips", "updates/step", "none %", "scroll %", "actions", "commonest %", "balance",
         "+ per 1000", "− per 1000", "ends per 1000")  # fmt: skip


def statistics(stream: Stream) -> dict[str, float]:
    """Describe a stream.

    Returns: steps, clips; updates: mean per step; still: share of steps without any; scroll: share of
        steps that move the view; actions: tokens in use; commonest: share of the commonest one; balance:
        entropy of the tokens over that of as many equally common ones; plus, minus, ends: per 1000 steps.
    """
    n = len(stream.action)
    counts = np.bincount(stream.action)
    shares = counts[counts > 0] / n
    entropy = -(shares * np.log(shares)).sum()
    updates = np.diff(stream.update_ptr)
    return {
        "steps": n,
        "clips": stream.n_clips,
        "updates": float(updates.mean()),
        "still": float((updates == 0).mean()),
        "scroll": float(stream.scroll.any(1).mean()),
        "actions": len(shares),
        "commonest": float(shares.max()),
        "balance": float(entropy / np.log(len(shares))) if len(shares) > 1 else 0.0,
        "plus": 1000 * float((stream.reward_class == 2).mean()),
        "minus": 1000 * float((stream.reward_class == 0).mean()),
        "ends": 1000 * float(stream.done.mean()),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen describe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder written by `gamegen record`")
    parser.add_argument("--split", default="train", help="(default: %(default)s)")
    parser.add_argument("--tokenizer", default="pocket", help="run folder or checkpoint (default: %(default)s)")
    parser.add_argument("--games", default=None, help="comma-separated folder names (default: all)")
    parser.add_argument("--error-rate", type=float, default=0.0, help="of the streams, as in `gamegen train-world`")
    parser.add_argument("--restyled", action="store_true", help="the clips in other styles")
    args = parser.parse_args(argv)
    games = args.games.split(",") if args.games else None
    config, tokenizer = load_checkpoint("pocket").config, load_tokenizer(args.tokenizer)
    print("| " + " | ".join(_HEAD) + " |\n" + "|---" * len(_HEAD) + "|")
    for stream in load_streams(args.data, args.split, config, tokenizer, args.error_rate, games, args.restyled):
        s = statistics(stream)
        print(
            f"| {stream.game} | {s['steps']:,} | {s['clips']:,} | {s['updates']:.2f} | {100 * s['still']:.0f} "
            f"| {100 * s['scroll']:.0f} | {s['actions']} | {100 * s['commonest']:.0f} | {s['balance']:.2f} "
            f"| {s['plus']:.1f} | {s['minus']:.1f} | {s['ends']:.1f} |"
        )


if __name__ == "__main__":
    main()
