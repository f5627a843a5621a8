"""Does this GPU play what the CPU plays? Every operation that the CUDA engine relies on, then whole games, compared.

    gamegen gpu-selftest                      a table, and gamegen-gpu-selftest.json to send to us

What is compared, to the bit: warp operations, tensor-core products, the 4-bit format, float operations and functions;
keys and values of a keyframe, layer by layer, which tells where a difference begins; then whole steps of packaged
games, tokens, pixels and saved states, against the native engine on the CPU, which plays them at the same time.

Ends with status 0 if everything passed, 1 if something failed or is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gamegen_env.canvas import Canvas
from gamegen_env.cell_decoder import CellDecoder
from gamegen_env.checkpoint import Checkpoint, load_checkpoint
from gamegen_env.device_canvas import DeviceCanvas
from gamegen_env.engine import StepBatch
from gamegen_env.engine.base import State
from gamegen_env.engine.cuda import CudaEngine, library, ways
from gamegen_env.engine.native import NativeEngine
from gamegen_env.gpu.report import described, heading, written
from gamegen_env.image import load_image, packaged_images
from gamegen_env.world import paint

TEMPERATURE = 0.5


class Difference(AssertionError):
    """What was compared is not equal."""


class Checks:
    """Runs checks, prints each as it ends, and keeps what they said."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def run(self, name: str, check: Callable[[], str]) -> None:
        """A check returns what it compared, or raises Difference, or RuntimeError where the device failed."""
        start = time.perf_counter()
        try:
            said, passed = check(), True
        except (Difference, RuntimeError) as error:
            said, passed = str(error), False
        seconds = round(time.perf_counter() - start, 3)
        self.results.append({"name": name, "passed": passed, "said": said, "seconds": seconds})
        print(f"{'PASS' if passed else 'FAIL'}  {name:34s} {said}", flush=True)

    @property
    def passed(self) -> bool:
        return all(result["passed"] for result in self.results)


def equal(name: str, got: np.ndarray, expected: np.ndarray) -> None:
    """Raises: Difference with the first place where arrays differ."""
    if got.shape != expected.shape:
        raise Difference(f"{name}: expected shape {expected.shape}, got {got.shape}")
    wrong = np.argwhere(got != expected)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise Difference(
            f"{name}: {len(wrong)} of {got.size} differ, first at {at}: expected {expected[at]}, got {got[at]}"
        )


def check_warps(module: Any, rng: np.random.Generator) -> str:
    """Shuffles, votes, byte products and shared memory of one warp."""
    x = rng.integers(-(2**31), 2**31, 32).astype(np.int32)
    lanes = np.arange(32)
    beside = x[(lanes + 1) % 32]
    products = [
        (x.view(kind).reshape(32, 4).astype(np.int64) * beside.view(np.int8).reshape(32, 4)).sum(1) + lanes
        for kind in (np.int8, np.uint8)
    ]
    votes = int(((x & 1).astype(np.int64) << lanes).sum()) - (1 << 32 if x[31] & 1 else 0)
    expected = [*(x[lanes ^ 1 << i] for i in range(5)), x[::-1], np.full(32, votes), *products, x[(lanes + 31) % 32]]
    equal("warp", module.exchange(x), np.array(expected, np.int32))
    return "shuffles, ballot, dp4a, shared memory"


def check_tensor_cores(module: Any, rng: np.random.Generator) -> str:
    for _ in range(16):
        a, b = (rng.integers(-128, 128, (n, 32)).astype(np.int8) for n in (16, 8))
        equal("product", module.multiply(a.view(np.int32), b.view(np.int32)), a.astype(np.int32) @ b.T.astype(np.int32))
    return "16 products of (16, 32) by (32, 8) signed bytes"


def check_quantisation(module: Any, rng: np.random.Generator, samples: int) -> str:
    groups = rng.normal(0, rng.choice([1e-4, 1.0, 100.0], (samples, 1)), (samples, 64)).astype(np.float16)
    groups[0], groups[1] = 0.5, np.linspace(-1, 1, 64)
    device, host = module.quantise(groups.view(np.uint16))
    equal("group", device, host)
    return f"{samples} groups of 64 values to 4 bits"


def check_function(module: Any, name: str, rng: np.random.Generator, samples: int) -> str:
    """One function, arguments as the engine has them."""
    turns, chances = rng.uniform(0, 2 * np.pi, samples), 10.0 ** rng.uniform(-20, 0, samples)
    arguments = {"cos": turns, "sin": turns, "log": chances, "log1p": np.exp(rng.uniform(-80, 20, samples))}
    x = arguments.get(name, rng.uniform(-80, 20, samples)).astype(np.float32)
    if name == "sqrt":
        x = np.abs(x)
    device, host = module.evaluate(name, x, rng.uniform(0.1, 10, samples).astype(np.float32))
    equal(name, device.view(np.int32), host.view(np.int32))
    return f"{samples} arguments"


class Pair:
    """The same games on the CPU and on the GPU."""

    def __init__(self, checkpoint: Checkpoint, slots: int, turns: str, emulate: bool) -> None:
        config, model = checkpoint.config, checkpoint.transformer
        patches = checkpoint.patches
        self.checkpoint, self.slots = checkpoint, slots
        self.native = NativeEngine(config, model, slots, threads=1, temperature=TEMPERATURE, patches=patches)
        self.cuda = CudaEngine(
            config, model, slots, temperature=TEMPERATURE, turns=turns, emulate=emulate, patches=patches
        )
        self.canvas = Canvas(config, CellDecoder(checkpoint.tokenizer), slots)
        self.device_canvas = DeviceCanvas(config, checkpoint.tokenizer, slots, emulate=emulate)

    def reset(self, images: Sequence[Path]) -> None:
        every = np.arange(self.slots)
        size = self.checkpoint.config.frame_size
        frames = np.stack([load_image(images[slot % len(images)], size) for slot in range(self.slots)])
        for canvas in (self.canvas, self.device_canvas):
            canvas.reset(every, frames)
        for engine in (self.native, self.cuda):
            for slot in range(self.slots):
                engine.reset(slot, self.canvas.codes[slot], seed=slot)

    def layers(self) -> str:
        """Compare what a keyframe has left in the cache, the first layer first: it tells which one goes wrong."""
        expected, got = self.native.save(0), self.cuda.save(0)
        n_layers = self.checkpoint.config.transformer.n_layers
        for layer in range(n_layers):
            for which, name in enumerate(("keys", "values")):
                for part in ("kv_nibbles", "kv_scale_minimum"):
                    equal(f"{name} of layer {layer}, {part}", got[part][which, layer], expected[part][which, layer])
        return f"keys and values of {n_layers} layers"

    def step(self, slots: list[int], actions: list[int], step: int) -> int:
        """Step both and paint what came of it. Returns tokens."""
        got, expected = self.cuda.step(slots, actions), self.native.step(slots, actions)
        tokens = compare_steps(got, expected, slots, step)
        at = np.array(slots)
        paint(self.cuda, self.device_canvas, at, got)
        paint(self.native, self.canvas, at, expected)
        equal(f"step {step}, pixels", self.device_canvas.view(at), self.canvas.view(at))
        return tokens

    def play(self, steps: int) -> str:
        """Step both; slots that sit out must not move. Then compare states, and go on from the other's."""
        tokens, n_actions = 0, self.checkpoint.config.transformer.n_actions
        for t in range(steps):
            asked = [s for s in reversed(range(self.slots)) if (t + s) % 4 or self.slots == 1]
            if asked:
                tokens += self.step(asked, [(7 * t + 5 * s) % n_actions for s in asked], t)
        for slot in range(self.slots):
            compare_states(self.cuda.save(slot), self.native.save(slot), slot)
            compare_states(self.device_canvas.save(slot), self.canvas.save(slot), slot)
        self.cuda.load(0, self.native.save(0))
        self.native.load(self.slots - 1, self.cuda.save(self.slots - 1))
        for t in range(3):
            tokens += self.step(list(range(self.slots)), [t] * self.slots, steps + t)
        return f"{steps + 3} steps, {tokens} tokens, pixels and states equal"


def compare_steps(got: StepBatch, expected: StepBatch, slots: Sequence[int], step: int) -> int:
    """Return the tokens decoded. Raises: Difference naming the first slot that differs."""
    for i, slot in enumerate(slots):
        for name in ("scroll", "reward_class", "done", "tokens"):
            equal(
                f"step {step}, slot {slot}, {name}", getattr(got, name)[i : i + 1], getattr(expected, name)[i : i + 1]
            )
        for name in ("cells", "codes", "motions"):
            a, b = (getattr(batch, name)[batch.ptr[i] : batch.ptr[i + 1]] for batch in (got, expected))
            equal(f"step {step}, slot {slot}, {name}", a, b)
    return int(expected.tokens.sum())


def compare_states(got: State, expected: State, slot: int) -> None:
    for name, array in expected.items():
        equal(f"slot {slot}, state {name}", np.asarray(got[name]), array)


def run(
    checks: Checks, models: Sequence[str], batches: Sequence[int], games: int, steps: int, samples: int, emulate: bool
) -> None:
    """Run every check there is."""
    module, rng = library(emulate), np.random.default_rng(0)
    checks.run("warp operations", partial(check_warps, module, rng))
    checks.run("tensor cores", partial(check_tensor_cores, module, rng))
    checks.run("4-bit groups", partial(check_quantisation, module, rng, max(samples // 64, 2)))
    for name in module.functions():
        checks.run(f"function {name}", partial(check_function, module, name, rng, samples))
    images = sorted(packaged_images().values())
    for model in models:
        checkpoint = load_checkpoint(model)
        named = Path(model).name
        for slots, turns in ways(batches):
            pair = Pair(checkpoint, slots, turns, emulate)
            how = f"{slots} at once" + (", one kernel" if turns == "persistent" else "")
            for game in range(games):
                turn = game * slots % len(images)
                pair.reset(images[turn:] + images[:turn])
                if (slots, turns) == (batches[0], "auto"):
                    checks.run(f"{named}, keyframe of game {game}", pair.layers)
                checks.run(f"{named}, {how}, game {game}", partial(pair.play, steps))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gamegen gpu-selftest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="packaged name or folder (default: pocket)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 3, 16], help="games at once (default: 1 3 16)")
    parser.add_argument("--games", type=int, default=4, help="rounds per batch, other pictures (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="per round (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=200_000, help="arguments per function (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gamegen-gpu-selftest.json"), help="(default: %(default)s)")
    parser.add_argument("--emulate", action="store_true", help="the kernels on the host instead: for tests, very slow")
    args = parser.parse_args(argv)
    for name in ("games", "steps", "samples"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if min(args.batches) < 1:
        raise ValueError(f"--batches: expected at least 1, got {args.batches}")
    try:
        report = described(library(args.emulate), args.emulate)
        print(heading(report), "\n")
        checks, start = Checks(), time.perf_counter()
        run(checks, args.model or ["pocket"], args.batches, args.games, args.steps, args.samples, args.emulate)
    except (ImportError, RuntimeError) as error:
        print(f"gamegen gpu-selftest: {error}", file=sys.stderr)
        return 1
    report |= {"seconds": round(time.perf_counter() - start, 1), "passed": checks.passed, "checks": checks.results}
    failed = sum(not result["passed"] for result in checks.results)
    print(f"\n{len(checks.results) - failed} of {len(checks.results)} checks passed")
    written(report, args.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
