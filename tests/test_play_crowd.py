"""The player's server over real sockets: crowds, and browsers that vanish in the middle of a frame."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gamegen_env.play.server import MAX_MESSAGE, Server

PLACES, CROWD = 4, 200


@pytest.fixture
def url(tiny_checkpoint: Path) -> Iterator[str]:
    made = Server(models=(str(tiny_checkpoint),), players=PLACES, temperature=1.0)
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(made.app, log_level="critical", ws_max_size=MAX_MESSAGE))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"ws://127.0.0.1:{listener.getsockname()[1]}/socket"
    running.should_exit = True
    thread.join()


async def play(connection: ClientConnection, model: str) -> dict:
    """Start a game and return the head of its first frame."""
    start = {"do": "start", "picture": "maze", "rooms": [{"model": model, "temperature": 1}], "seed": 1}
    await connection.send(json.dumps(start))
    while True:
        data = await connection.recv()
        if isinstance(data, bytes):
            return json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])


def test_a_crowd_is_turned_away_and_players_play_on(url: str, tiny_checkpoint: Path) -> None:
    async def crowd() -> tuple[int, int]:
        first = await connect(url)
        await first.recv()
        await play(first, str(tiny_checkpoint))
        connections = await asyncio.gather(*(connect(url) for _ in range(CROWD)))
        told = [json.loads(await connection.recv()) for connection in connections]
        assert (await play(first, str(tiny_checkpoint)))["views"]
        for connection in (first, *connections):
            await connection.close()
        again = await connect(url)
        assert "session" in json.loads(await again.recv())
        await play(again, str(tiny_checkpoint))
        await again.close()
        return sum("session" in t for t in told), sum("all places are taken" in t.get("error", "") for t in told)

    assert asyncio.run(crowd()) == (PLACES - 1, CROWD - PLACES + 1)


def test_a_browser_that_vanishes_harms_nobody(url: str, tiny_checkpoint: Path) -> None:
    async def vanish() -> None:
        calm = await connect(url)
        await calm.recv()
        await play(calm, str(tiny_checkpoint))
        for _ in range(12):
            rude = await connect(url)
            await rude.recv()
            await play(rude, str(tiny_checkpoint))
            await rude.send(json.dumps({"do": "rate", "fps": 0}))
            rude.transport.abort()
        assert (await play(calm, str(tiny_checkpoint)))["views"]
        await calm.close()

    asyncio.run(vanish())


def test_an_oversized_message_ends_its_connection_only(url: str, tiny_checkpoint: Path) -> None:
    async def shout() -> None:
        calm, loud = await connect(url), await connect(url)
        await calm.recv()
        await loud.recv()
        await loud.send("x" * (MAX_MESSAGE + 1))
        with pytest.raises(ConnectionClosed, match="1009"):  # too big
            await loud.recv()
        await play(calm, str(tiny_checkpoint))
        await calm.close()

    asyncio.run(shout())
