"""How soon, how steady and how responsive is the browser's player?

    python -m benchmarks.play_latency
    python -m benchmarks.play_latency --engine torch --players 1

Regime: `gamegen play` as a process of its own with the packaged model, browsers played by WebSocket clients on
loopback, one still-camera picture. Measured: URL printed to page served and to first frame of a started game; frames/s
at 30 wanted, for one player and for several; key to frame: from sending a key to the first frame that heeds it, at
30 fps with the key sent at random moments; resident memory of the server before and after. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

PAGE_BYTES = 4096


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MiB (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


async def frame(socket: ClientConnection) -> dict:
    """Receive until a frame comes; return its head."""
    while True:
        data = await socket.recv()
        if isinstance(data, bytes):
            head = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
            await socket.send(json.dumps({"do": "drawn", "n": head["n"]}))
            return head
        if "error" in (message := json.loads(data)):
            raise AssertionError(message["error"])


async def play(url: str, model: str, image: str, seconds: float, fps: int, keys: bool) -> dict:
    """Play as one browser; return frames/s and the times from keys to frames in ms."""
    async with connect(url.replace("http", "ws") + "socket") as socket:
        began = time.perf_counter()
        start = {"do": "start", "picture": image, "rooms": [{"model": model, "temperature": 0.5}], "seed": 1}
        await socket.send(json.dumps(start))
        await frame(socket)
        first = time.perf_counter() - began
        await socket.send(json.dumps({"do": "rate", "fps": fps}))
        frames, waits, sent, stamp = 0, [], 0.0, 0
        began = time.perf_counter()
        next_key = began + random.random() * 0.2
        last = 0
        while (now := time.perf_counter()) - began < seconds:
            if keys and not sent and now > next_key:
                stamp += 1
                held = [["ArrowRight"], ["ArrowLeft"], ["ArrowUp"], []][stamp % 4]
                sent = time.perf_counter()
                await socket.send(json.dumps({"do": "keys", "held": held, "at": stamp}))
            try:
                head = await asyncio.wait_for(frame(socket), 0.005 if keys and not sent else 2)
            except TimeoutError:
                continue
            step = head["views"][0]["step"]
            if head["views"][0]["over"]:
                await socket.send(json.dumps(start))
            if step != last:
                frames, last = frames + 1, step
            if sent and head["pressed_at"] == stamp:
                waits.append(1e3 * (time.perf_counter() - sent))
                sent, next_key = 0.0, time.perf_counter() + random.random() * 0.2
        return {"fps": frames / (time.perf_counter() - began), "waits": waits, "first_s": first}


async def measure(url: str, model: str, image: str, players: int, seconds: float) -> dict:
    one = await play(url, model, image, seconds, 30, keys=True)
    many = await asyncio.gather(*(play(url, model, image, seconds, 30, keys=False) for _ in range(players)))
    return {
        "first_frame_s": one["first_s"],
        "fps_of_30": one["fps"],
        "key_to_frame_p50_ms": float(np.median(one["waits"])),
        "key_to_frame_p95_ms": float(np.quantile(one["waits"], 0.95)),
        "players": players,
        "fps_of_30_each": min(m["fps"] for m in many),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="explode")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--players", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15, help="per part (default: %(default)s)")
    args = parser.parse_args()
    command = [sys.executable, "-m", "gamegen_env.cli", "play", args.image, "--port", "0", "--engine", args.engine]
    command += ["--model", args.model, "--players", str(max(args.players, 1))]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http\S+", server.stdout.readline())
        if not found:
            raise AssertionError("the server printed no URL")
        url, printed = found.group(0), time.perf_counter()
        for part in ("", "play.js", "link.js", "screen.js", "keys.js", "intake.js", "style.css", "setup"):
            urllib.request.urlopen(url + part).read()
        report: dict[str, object] = {
            "engine": args.engine, "image": args.image, "start_s": printed - began,
            "page_s": time.perf_counter() - printed,
            "resident_mb_before": resident_mb(server.pid),
        }  # fmt: skip
        report |= asyncio.run(measure(url, args.model, args.image, args.players, args.seconds))
        report["resident_mb_after"] = resident_mb(server.pid)
    finally:
        server.terminate()
    for name, value in report.items():
        print(f"{name:22s} {value if isinstance(value, str) else f'{value:.3g}'}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
