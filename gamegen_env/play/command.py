"""Play in the browser: a picture becomes a game.

    gamegen play
    gamegen play picture.png
    gamegen play --terminal picture.png          over SSH
    gamegen play --agent runs/ppo                a trained agent can play, and hand over

Prints a URL; the page takes pictures by drop, paste, upload and camera. Only this machine can reach it, unless
--host says otherwise: then a token is in the URL.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import webbrowser
from pathlib import Path

import uvicorn

from gamegen_env.play.arcade import Policy
from gamegen_env.play.server import MAX_MESSAGE, Server
from gamegen_env.play.terminal import play
from gamegen_env.world import World

LOCAL = ("127.0.0.1", "localhost", "::1")


class Announcing(uvicorn.Server):
    """Says where it is as soon as it listens."""

    url = ""
    open_browser = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"Play at {self.url}   (Ctrl+C ends)", flush=True)
            if self.open_browser:
                webbrowser.open(self.url)


def agent_in(folder: Path | None) -> Policy | None:
    """Load an agent, and what it needs, only if one is asked for."""
    if folder is None:
        return None
    from gamegen_env.agent import load_policy

    return load_policy(folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="gamegen play", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "image", nargs="?", default="gold", help="any picture, or a packaged one (default: %(default)s)"
    )
    parser.add_argument(
        "--model", action="append", help="packaged name or checkpoint folder; several can be compared (default: pocket)"
    )
    parser.add_argument("--temperature", type=float, default=0.5, help="0 = most likely token (default: %(default)s)")
    parser.add_argument("--players", type=int, default=8, help="at once (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: %(default)s)")
    parser.add_argument("--engine", default="auto", choices=("auto", "native", "torch", "reference"))
    parser.add_argument("--agent", type=Path, help="folder of an agent that can play, from `python -m agents.train`")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--terminal", action="store_true", help="play here instead of in a browser")
    parser.add_argument("--seed", type=int, default=0, help="with --terminal")
    parser.add_argument("--fps", type=int, default=15, help="with --terminal (default: %(default)s)")
    args = parser.parse_args(argv)
    models = tuple(args.model or ["pocket"])
    if not 1 <= args.players <= 64:
        raise ValueError(f"--players: expected 1..64, got {args.players}")
    if not 1 <= args.fps <= 120:
        raise ValueError(f"--fps: expected 1..120, got {args.fps}")
    if args.terminal:
        world = World(models[0], 1, engine=args.engine, temperature=args.temperature)
        play(world, args.image, args.seed, args.fps)
        return
    token = None if args.host in LOCAL else secrets.token_urlsafe(16)
    names = ("*",) if args.host in ("0.0.0.0", "::") else (*LOCAL, "[::1]", args.host)
    server = Server(
        models=models,
        players=args.players,
        engine=args.engine,
        temperature=args.temperature,
        picture=args.image,
        hosts=names,
        token=token,
        policy=agent_in(args.agent),
    )
    listener = socket.create_server(
        (args.host, args.port), family=socket.AF_INET6 if ":" in args.host else socket.AF_INET
    )
    shown = f"[{args.host}]" if ":" in args.host else args.host
    runner = Announcing(
        uvicorn.Config(server.app, log_level="warning", ws_max_size=MAX_MESSAGE, ws_max_queue=16, lifespan="on")
    )
    runner.url = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    runner.open_browser = args.open
    runner.run(sockets=[listener])
