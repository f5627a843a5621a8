"""What tests of the player share: worlds whose games are never over, a server, and a page that talks to it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.play.game import Game
from gamegen_env.play.server import Server
from gamegen_env.world import World
from tests.conftest import random_model


@pytest.fixture(scope="module")
def endless(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of random weights whose games are never over."""
    tokenizer, transformer = random_model(tiny_config)
    with torch.no_grad():
        transformer.end_head.bias[3] += 50
    folder = tmp_path_factory.mktemp("endless")
    save_checkpoint(folder, tiny_config, tokenizer, transformer)
    return str(folder)


@pytest.fixture(scope="module")
def world(endless: str) -> World:
    return World(endless, 2, temperature=1.0)


def run(game: Game, tokens: list[int]) -> list[np.ndarray]:
    frames = []
    for token in tokens:
        frames.append(game.accept(token, game.world.step([game.slot], [token]), 0).frame)
    return frames


@pytest.fixture(scope="module")
def server(endless: str) -> Iterator[TestClient]:
    made = Server(models=(endless,), players=3, temperature=1.0, hosts=("testserver",), picture="gold")
    with TestClient(made.app) as client:
        client.server = made  # type: ignore[attr-defined]
        yield client


class Browser:
    """A page, in as much as the server can tell."""

    def __init__(self, client: TestClient, socket: object) -> None:
        self.client, self.socket = client, socket
        self.model = client.get("/setup").json()["models"][0]
        self.session = self.receive()["session"]

    def receive(self) -> dict:
        """Return the next message; of frames the head, with `frames` added."""
        message = self.socket.receive()  # type: ignore[attr-defined]
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"], str(message["code"]))
        if message.get("text"):
            return json.loads(message["text"])
        data = message["bytes"]
        head, at = head_of(data), 4 + int.from_bytes(data[:4], "little")
        head["frames"] = []
        for view in head["views"]:
            n = view["side"] ** 2 * 3
            head["frames"].append(data[at : at + n])
            at += n
        assert at == len(data)
        self.send(do="drawn", n=head["n"])
        return head

    def send(self, **message: object) -> None:
        self.socket.send_text(json.dumps(message))  # type: ignore[attr-defined]

    def start(self, picture: str = "maze", rooms: int = 1, seed: int = 1) -> dict:
        self.send(do="start", picture=picture, rooms=[{"model": self.model, "temperature": 1}] * rooms, seed=seed)
        return self.until(lambda head: head["views"][0]["step"] == 0)

    def until(self, wanted: object) -> dict:
        """Receive until a frame's head is as wanted."""
        for _ in range(2000):
            head = self.receive()
            if "error" in head:
                raise ValueError(head["error"])
            if "views" in head and wanted(head):  # type: ignore[operator]
                return head
        raise AssertionError("no such frame came")

    def error(self) -> str:
        for _ in range(2000):
            message = self.receive()
            if "error" in message:
                return str(message["error"])
        raise AssertionError("no error came")


def step_of(head: dict) -> int:
    return int(head["views"][0]["step"])


def head_of(packet: bytes) -> dict:
    return json.loads(packet[4 : 4 + int.from_bytes(packet[:4], "little")])
