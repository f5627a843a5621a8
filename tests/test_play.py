"""The player's server: games, two players, uploads, junk."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gamegen_env.image import encode_png
from gamegen_env.play.server import MAX_UPLOAD, Server
from gamegen_env.play.session import MAX_MESSAGES
from tests.browser import Browser, endless, server, step_of

__all__ = ["endless", "server"]  # the fixtures


def test_a_game_plays_pauses_and_goes_back_to_the_same_bits(server: TestClient) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        start = browser.start()
        browser.send(do="rate", fps=60)
        browser.send(do="keys", held=["ArrowRight", "NoSuchKey"], at=5)
        heads = [start]
        while step_of(heads[-1]) < 20:
            heads.append(browser.until(lambda head: True))
        assert heads[-1]["pressed_at"] == 5
        browser.send(do="pause", on=True)
        paused = browser.until(lambda head: head["paused"])
        browser.send(do="step")
        stepped = browser.until(lambda head: step_of(head) == step_of(paused) + 1)
        frames = {step_of(head): head["frames"][0] for head in [*heads, paused, stepped]}
        browser.send(do="pause", on=False)
        browser.send(do="rewind", on=True)
        reached = browser.until(lambda head: step_of(head) == 0)
        browser.send(do="rewind", on=False)
        assert reached["frames"][0] == frames[0]


def test_two_players_do_not_mix_and_a_reload_resumes(server: TestClient) -> None:
    with server.websocket_connect("/socket") as one, server.websocket_connect("/socket") as two:
        first, second = Browser(server, one), Browser(server, two)
        first.start("maze")
        second.start("gold")
        a, b = (browser.until(lambda head: step_of(head) >= 3) for browser in (first, second))
        assert a["frames"] != b["frames"]
        first.send(do="pause", on=True)
        paused = first.until(lambda head: head["paused"])
        name = first.session
    with server.websocket_connect(f"/socket?session={name}") as socket:
        again = Browser(server, socket)
        assert again.session == name
        again.send(do="pause", on=True)
        head = again.until(lambda head: head["paused"])
        assert step_of(head) == step_of(paused)
        assert head["frames"] == paused["frames"]


def test_two_models_play_under_the_same_keys(server: TestClient) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        browser.start(rooms=2)
        head = browser.until(lambda head: step_of(head) >= 5)
        assert len(head["frames"]) == 2
        assert head["frames"][0] == head["frames"][1]  # the same model, seed and keys


def test_a_recording_replays_to_the_same_frame(server: TestClient) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        browser.start(seed=9)
        browser.send(do="keys", held=["KeyD", "Space"])
        browser.until(lambda head: step_of(head) >= 12)
        browser.send(do="pause", on=True)
        end = browser.until(lambda head: head["paused"])
        saved = server.get("/recording", params={"session": browser.session}).content
        film = Image.open(io.BytesIO(server.get("/film", params={"session": browser.session}).content))
        assert film.format == "GIF"
        assert film.size == (256, 256)
        browser.send(do="keys", held=[])
        name = server.post("/recording", params={"session": browser.session}, content=saved).json()["name"]
        browser.start(name)
        replayed = browser.until(lambda head: step_of(head) == step_of(end))
        assert replayed["frames"] == end["frames"]


def test_uploads_become_games_or_are_refused(server: TestClient, picture: np.ndarray) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        at = {"session": browser.session}
        name = server.post("/picture", params=at, content=encode_png(picture)).json()["name"]
        assert browser.start(name)["frames"][0] == picture.tobytes()
        wide = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(wide, "PNG")
        for path, data, status, message in (
            ("/picture", b"not a picture", 400, "expected an image that Pillow reads"),
            ("/picture", wide.getvalue(), 400, "expected at most 64000000 pixels"),
            ("/picture", b"0" * (MAX_UPLOAD + 1), 413, "upload: expected at most"),
            ("/recording", b"junk", 400, "expected a file saved by the player"),
        ):
            answer = server.post(path, params=at, content=data)
            assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
        assert server.post("/picture", content=encode_png(picture)).status_code == 404  # no session
        foreign = server.post("/picture", params=at, content=b"", headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("junk", "message: expected JSON"),
        ("[]", "expected 'do' to be one of"),
        ('{"do": "dance"}', "expected 'do' to be one of"),
        ('{"do": ["start"]}', "expected 'do' to be one of"),
        ('{"do": "keys", "held": "all"}', "held: expected list"),
        ('{"do": "keys", "held": [1]}', "keys: expected at most 16 names"),
        ('{"do": "pause", "on": true}', "expected a game to be started first"),
        ('{"do": "rate", "fps": 1000}', "rate: expected one of"),
        ('{"do": "start", "rooms": [], "picture": "maze"}', "rooms: expected one or two"),
        ('{"do": "start", "rooms": [{"model": "/etc", "temperature": 1}], "picture": "maze"}', "model: expected one"),
        ("[" * 5000, "message: expected"),
    ],
)
def test_junk_gets_an_answer_and_harms_nobody(server: TestClient, text: str, message: str) -> None:
    with server.websocket_connect("/socket") as calm, server.websocket_connect("/socket") as socket:
        bystander, browser = Browser(server, calm), Browser(server, socket)
        bystander.start()
        socket.send_text(text)
        assert message in browser.error()
        socket.send_bytes(b"\0\1")
        assert "expected text" in browser.error()
        bystander.until(lambda head: step_of(head) >= 2)
        browser.start()


def test_too_many_messages_or_players_are_turned_away(server: TestClient) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        for _ in range(3 * MAX_MESSAGES):
            browser.send(do="keys", held=[])
        assert "expected fewer per second" in browser.error()
        with pytest.raises(WebSocketDisconnect):
            browser.receive()
    sockets = [server.websocket_connect("/socket") for _ in range(3)]
    for socket in sockets:
        socket.__enter__()
    with server.websocket_connect("/socket") as late:
        assert "all places are taken" in late.receive_json()["error"]
    for socket in sockets:
        socket.__exit__(None, None, None)


def test_foreign_pages_and_paths_are_refused(server: TestClient, endless: str) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        server.websocket_connect("/socket", headers={"Origin": "http://evil.example"}),
    ):
        pass
    assert server.get("/", headers={"Host": "evil.example"}).status_code == 400
    for path in ("/../pyproject.toml", "/gallery/..%2f..%2fpyproject.toml", "/gallery/nothing.png", "/play.py"):
        assert server.get(path).status_code == 404, path
    made = Server(models=(endless,), hosts=("*",), token="secret")
    with TestClient(made.app) as client:
        assert client.get("/").status_code == 403
        assert client.get("/setup").status_code == 403
        assert client.get("/?token=secret").status_code == 200
        assert client.get("/?token=%C3%A9").status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket?token=guess"):
            pass
        with client.websocket_connect("/socket?token=secret") as socket:
            assert "session" in socket.receive_json()
