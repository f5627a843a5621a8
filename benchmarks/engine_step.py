"""How fast do the engines play, and what does coding only changes buy?

    python -m benchmarks.engine_step                         one game and 64 games, on a still-camera game
    python -m benchmarks.engine_step --image coinrun         a moving camera
    python -m benchmarks.engine_step --compiled --full-frame and against torch.compile, and a model that says every cell

Regime: the packaged model, random sticky play from one packaged picture, this machine's cores (OMP_NUM_THREADS
is heeded; on one thread times are the process's own, so that a neighbour on the core does not count). Paired in one
run, in turns: `native` and `torch`. Passes: through the transformer, per game and step; one per token if nothing were
drafted and END did not travel with the next action. KB: what a game holds between steps. Prefill: a keyframe,
computed at once when a game starts and now and then while it goes on.
With --compiled, also `torch` with its blocks' products, norms and gates compiled for every tile of rows that it uses.
Attention over the ring stays eager, for its shapes change as games end (to compile the whole pass fails in torch 2.13).
With --full-frame, the engines are also made to re-emit every visible cell in every step, as IRIS-like models do (257
passes; what they draw is meaningless, their work is not): an event head that likes the next cell best does that.
Correct before timed: one game alone and the same game among others must show equal frames.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import platform
import time

import numpy as np
import torch

from gamegen_env.actions import ALE
from gamegen_env.engine import Engine
from gamegen_env.engine.cached import CachedEngine
from gamegen_env.engine.native import NativeEngine
from gamegen_env.image import load_image
from gamegen_env.transformer import Transformer
from gamegen_env.world import World

ENGINES = ("native", "torch")
CLOCK = time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def actions(count: int, slots: int, seed: int) -> np.ndarray:
    """Sticky random action tokens (count, slots)."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(ALE, (count, slots))
    for t in range(1, count):
        chosen[t] = np.where(rng.random(slots) < 0.85, chosen[t - 1], chosen[t])
    return chosen


def start(model: str, slots: int, image: str, engine: str) -> World:
    """Start games; engine: a name, perhaps with " compiled" or " full-frame" behind it."""
    name, _, how = engine.partition(" ")
    world = World(model, slots, engine=name)
    if how:
        weights = copy.deepcopy(world.engine.transformer)
        if how == "full-frame":
            say_every_cell(weights)
        world.engine = type(world.engine)(world.config, weights, slots, temperature=0.5)
        if how == "compiled":
            compile_blocks(world.engine)
    picture = load_image(image, world.frame_shape[0])
    world.reset(range(slots), [picture] * slots, list(range(slots)))
    return world


@torch.no_grad()
def say_every_cell(model: Transformer) -> None:
    """Let every visible cell follow the one before it, and END the last."""
    head, n_cells = model.event_head, model.config.stream.n_cells
    head.weight.mul_(1e-6)
    head.bias.fill_(-1e8)
    head.bias[:n_cells] = -1e3 * torch.arange(n_cells)
    head.bias[-1] = -1e7


@torch.inference_mode()
def compile_blocks(engine: Engine) -> None:
    """Compile what a tile's shape fixes, for all tiles, before anything is timed."""
    assert isinstance(engine, CachedEngine)
    t = engine.config.transformer
    for block in engine.transformer.layers():
        for part in ("project", "feed_forward"):
            setattr(block, part, torch.compile(getattr(block, part), dynamic=False))
        for rows in engine._tiles:
            x = torch.zeros(rows, t.d_model)
            block.project(x, torch.zeros(rows, 2, t.head_dim // 2))
            block.feed_forward(x)


def verify(model: str, image: str, slots: int, engine: str) -> str:
    """Check that game 0 is the same alone and among others; return a hash of its frames."""
    played = actions(12, slots, seed=1)
    alone, many = start(model, 1, image, engine), start(model, slots, image, engine)
    digest = hashlib.sha256()
    for row in played:
        a = alone.step([0], row[:1].tolist()).frames[0]
        b = many.step(range(slots), row.tolist()).frames[0]
        if not np.array_equal(a, b):
            raise AssertionError(f"{engine}: a game alone and the same game in a batch differ")
        digest.update(a.tobytes())
    return digest.hexdigest()[:12]


class Player:
    """One engine's games, timed in turns with the others'."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.slots, self.rng = world, world.num_slots, seed
        self.seconds: list[float] = []
        self.tokens = self.passes = 0

    def play(self, steps: int, timed: bool = True) -> None:
        self.rng += 1
        native = self.world.engine if isinstance(self.world.engine, NativeEngine) else None
        before = native.counts().passes if native else 0
        for row in actions(steps, self.slots, self.rng):
            began = CLOCK()
            result = self.world.step(range(self.slots), row.tolist())
            if timed:
                self.seconds.append(CLOCK() - began)
                self.tokens += int(result.tokens.sum())
        if timed and native:
            self.passes += native.counts().passes - before

    def figures(self) -> dict[str, float]:
        steps, total = len(self.seconds) * self.slots, sum(self.seconds)
        figures = {
            "steps_per_s": steps / total,
            "p50_ms": 1e3 * float(np.median(self.seconds)),
            "p99_ms": 1e3 * float(np.quantile(self.seconds, 0.99)),
            "tokens_per_step": self.tokens / steps,
        }
        return figures | ({"passes_per_step": self.passes / steps} if self.passes else {})

    def keyframe_ms(self) -> float:
        """Start game 0 anew, again and again; return the median time of its keyframe."""
        engine, codes, seconds = self.world.engine, self.world.canvas.codes[0], []
        for seed in range(9):
            began = CLOCK()
            engine.reset(0, codes, seed)
            seconds.append(CLOCK() - began)
        return 1e3 * float(np.median(seconds))


def measure(model: str, image: str, slots: int, steps: int, rounds: int, engines: list[str]) -> dict[str, dict]:
    """Time `steps` vector steps of each engine, in `rounds` turns; torch plays a tenth, full frames are one a turn."""
    players = {name: Player(start(model, slots, image, name), 2) for name in engines}

    def share(name: str) -> int:
        return rounds if "full-frame" in name else max(rounds, steps // 10) if "torch" in name else steps

    for name, player in players.items():
        player.play(1 if "full-frame" in name else share(name) // 2, timed=False)
    for _ in range(rounds):
        for name, player in players.items():
            player.play(share(name) // rounds)
    figures: dict[str, dict] = {name: player.figures() for name, player in players.items()}
    held = players["native"].world.engine
    assert isinstance(held, NativeEngine)
    figures["native"]["kb_per_game"] = max(held.bytes_per_slot(slot) for slot in range(slots)) / 1e3
    for name, player in players.items():
        figures[name]["prefill_ms"] = player.keyframe_ms()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--image", nargs="+", default=["maze", "explode"])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 64])
    parser.add_argument(
        "--steps", type=int, default=600, help="timed steps, shared by the games (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns that the engines take (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--full-frame", action="store_true")
    args = parser.parse_args()
    report: dict[str, object] = {
        "cpu": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    others = ["torch", *["torch compiled"] * args.compiled, *["native full-frame"] * args.full_frame]
    head = ["picture", "games", "steps/s", "p50 ms", "p99 ms", "tokens/step", "passes/step", "KB/game", "prefill ms"]
    head += [f"{name} steps/s, ratio" for name in (*others, *["torch full-frame"] * args.full_frame)]
    print(f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|")
    for image in args.image:
        report[image] = {"frames": {name: verify(args.model, image, 5, name) for name in ENGINES}}
        for slots in args.slots:
            steps = max(10 * args.rounds, args.steps // slots * 4 if slots > 1 else args.steps)
            # Of 64 games a full frame takes `torch` half a minute.
            engines = ["native", *others, *["torch full-frame"] * (args.full_frame and slots == 1)]
            figures = measure(args.model, image, slots, steps, args.rounds, engines)
            native = figures["native"]
            cells = [f"{native['steps_per_s']:.0f}", f"{native['p50_ms']:.2f}", f"{native['p99_ms']:.2f}"]
            cells += [f"{native['tokens_per_step']:.1f}", f"{native['passes_per_step']:.1f}"]
            cells += [f"{native['kb_per_game']:.0f}", f"{native['prefill_ms']:.1f}"]
            for other in (figures[name]["steps_per_s"] for name in engines[1:]):
                cells.append(f"{other:.3g}, ×{native['steps_per_s'] / other:.1f}")
            print(f"| {image} | {slots} | {' | '.join(cells)} |", flush=True)
            report[image][str(slots)] = figures  # type: ignore[index]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
