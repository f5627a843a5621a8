"""Does the player's server stay flat over hours of play?

    python -m benchmarks.play_soak --steps 108000             what an hour at 30 fps plays, as fast as it goes
    python -m benchmarks.play_soak --steps 108000 --fps 30    an hour

Regime: `gamegen play` as a process of its own with the packaged model, one browser played by a WebSocket client on
loopback, keys that change every 50 frames, a save slot and a way back now and then, games started again when they
end. Prints steps and resident memory every tenth of the way. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time

from websockets.asyncio.client import connect

from benchmarks.play_latency import frame, resident_mb

HELD = (["ArrowRight"], ["ArrowLeft", "Space"], ["ArrowUp"], [])


async def soak(url: str, pid: int, image: str, model: str, steps: int, fps: int) -> list[tuple[int, float]]:
    """Play so many steps; return steps and resident memory in MiB at the start and after every tenth."""
    start = {"do": "start", "picture": image, "rooms": [{"model": model, "temperature": 0.5}], "seed": 1}
    async with connect(url.replace("http", "ws") + "socket") as socket:
        await socket.send(json.dumps(start))
        await socket.send(json.dumps({"do": "rate", "fps": fps}))
        total, last, seen, report = 0, 0, 0, [(0, resident_mb(pid))]
        while total < steps:
            view = (await frame(socket))["views"][0]
            total, last, seen = total + max(view["step"] - last, 0), view["step"], seen + 1
            if view["over"]:
                await socket.send(json.dumps({**start, "seed": seen}))
            if seen % 50 == 0:
                await socket.send(json.dumps({"do": "keys", "held": HELD[seen // 50 % 4], "at": seen}))
            if seen % 500 == 0:
                await socket.send(json.dumps({"do": "save", "place": 1 + seen // 500 % 9}))
            if seen % 700 in (0, 20):
                await socket.send(json.dumps({"do": "rewind", "on": seen % 700 == 0}))
            if total >= len(report) * steps / 10:
                report.append((total, resident_mb(pid)))
                print(f"{total:8d} steps {report[-1][1]:6.0f} MiB", flush=True)
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="explode")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--steps", type=int, default=108_000, help="default: %(default)s")
    parser.add_argument("--fps", type=int, default=0, help="0: as fast as it goes (default: %(default)s)")
    args = parser.parse_args()
    command = [sys.executable, "-m", "gamegen_env.cli", "play", args.image, "--port", "0", "--model", args.model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http\S+", server.stdout.readline())
        if not found:
            raise AssertionError("the server printed no URL")
        began = time.perf_counter()
        report = asyncio.run(soak(found.group(0), server.pid, args.image, args.model, args.steps, args.fps))
    finally:
        server.terminate()
    print(json.dumps({"image": args.image, "seconds": time.perf_counter() - began, "steps_and_mb": report}))


if __name__ == "__main__":
    main()
