"""The player behind the page: games that go back, recordings, messages, limits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.image import encode_png
from gamegen_env.play.arcade import Arcade
from gamegen_env.play.game import EVERY, Game
from gamegen_env.play.recording import Recording
from gamegen_env.play.server import AWAY, IDLE, MAX_UPLOAD, Server
from gamegen_env.play.session import MAX_MESSAGES, Session
from gamegen_env.world import World
from tests.conftest import random_model

# --- Game ---


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


TOKENS = [(5 * t) % 9 for t in range(4 * EVERY)]


def test_going_back_gives_the_same_frame_and_the_same_future(world: World, picture: np.ndarray) -> None:
    game = Game(world, 0)
    first = game.start(picture, 3).frame
    frames = [first, *run(game, TOKENS)]
    assert len({f.tobytes() for f in frames}) > 10
    for step in (3 * EVERY + 7, 3 * EVERY, EVERY - 1, 1, 0):
        assert np.array_equal(game.seek(step).frame, frames[step]), step
        assert game.step == step
        assert len(game.film) == step + 1
    again = run(game, TOKENS[:EVERY])
    assert all(np.array_equal(a, b) for a, b in zip(again, frames[1:], strict=False))
    assert game.seek(-5).step == 0


def test_kept_moments_branch(world: World, picture: np.ndarray) -> None:
    game = Game(world, 0)
    first = game.start(picture, 3).frame
    frames = run(game, TOKENS[:20])
    game.save(4)
    kept = game.view
    ahead = run(game, TOKENS[20:30])
    run(game, [8] * 30)
    assert kept is not None
    assert np.array_equal(game.load(4).frame, kept.frame)
    assert game.keys == TOKENS[:20]
    assert all(np.array_equal(a, b) for a, b in zip(run(game, TOKENS[20:30]), ahead, strict=True))
    game.seek(10)
    assert game.load(4).step == 20
    assert game.seek(16).step == 16
    game.seek(5)
    run(game, [8] * 3)
    game.load(4)
    past = [first, *frames]
    assert [step for step, _ in game.film] == [0, 1, 2, 3, 4, 5, 20]  # no frame of another past
    assert all(np.array_equal(frame, past[step]) for step, frame in game.film)
    with pytest.raises(ValueError, match=r"place: expected 1..9, got 10"):
        game.save(10)
    with pytest.raises(ValueError, match=r"place: expected one of \[4\], got 5"):
        game.load(5)


def test_keys_of_a_branched_game_replay_to_its_frame(world: World, picture: np.ndarray) -> None:
    dice, game = np.random.default_rng(1), Game(world, 0)
    game.start(picture, 3)
    for _ in range(200):
        act = dice.random()
        if act < 0.05:
            game.save(int(dice.integers(1, 10)))
        elif act < 0.1 and game.places:
            game.load(int(dice.choice(list(game.places))))
        elif act < 0.15:
            game.seek(game.step - int(dice.integers(30)))
        else:
            run(game, [int(dice.integers(18))])
    again = Game(world, 1)
    again.start(picture, 3, game.keys)
    while again.script:
        run(again, [again.next_key(0)])
    assert again.step == game.step > EVERY
    assert again.view is not None
    assert game.view is not None
    assert np.array_equal(again.view.frame, game.view.frame)


# --- Recording ---


def recording(picture: np.ndarray, **changes: object) -> Recording:
    fields = {"fingerprint": "f", "engine": "native", "temperature": 0.5, "seed": 7, "keys": [0, 1, 2], **changes}
    return Recording(picture, **fields)  # type: ignore[arg-type]


def test_recording_comes_back(picture: np.ndarray) -> None:
    original = recording(picture)
    back = Recording.from_bytes(original.to_bytes(), 64)
    assert np.array_equal(back.picture, picture)
    assert (back.fingerprint, back.engine, back.temperature, back.seed, back.keys) == ("f", "native", 0.5, 7, [0, 1, 2])


def packed(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def test_broken_recordings_are_refused(picture: np.ndarray) -> None:
    png = encode_png(picture)
    good = {
        "format": "gamegen-recording-1", "fingerprint": "f", "engine": "native", "temperature": 1.0, "seed": 1,
        "keys": [1],
    }  # fmt: skip
    for data, message in (
        (b"junk", "expected a file saved by the player"),
        (b"x" * (2 << 20), "expected at most"),
        (packed(game_json=b"{}"), "expected game.json and picture.png"),
        (packed(game_json=b"{", picture_png=png), "expected JSON"),
        (packed(game_json=b"[" * 100_000, picture_png=png), "expected"),
        (packed(game_json=b" " * (8 << 20), picture_png=png), "unpacks to far more"),
        (packed(game_json=json.dumps(good).encode(), picture_png=b"no"), "expected an image"),
        *(
            (packed(game_json=json.dumps({**good, name: value}).encode(), picture_png=png), "recording: ")
            for name, value in (
                ("keys", [99]), ("keys", [1.5]), ("keys", "x"), ("seed", -1), ("seed", True), ("temperature", "hot"),
                ("format", "other"), ("more", 1), ("temperature", 10**400), ("temperature", float("nan")),
            )
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Recording.from_bytes(data, 64)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("game.json", json.dumps(good))
        archive.writestr("picture.png", png)
    with pytest.raises(ValueError, match="got another compression"):
        Recording.from_bytes(squeezed.getvalue(), 64)
    with pytest.raises(ValueError, match="expected at most 1000000 steps"):
        recording(picture, keys=[0] * 1_000_001).to_bytes()


def test_no_damaged_byte_of_a_recording_goes_unanswered(picture: np.ndarray) -> None:
    data = recording(picture).to_bytes()
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        with contextlib.suppress(ValueError):
            Recording.from_bytes(bytes(damaged), 64)


# --- Server ---


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


# --- Trouble ---


def test_a_recording_of_another_model_is_refused_and_the_game_goes_on(server: TestClient, picture: np.ndarray) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        at = step_of(browser.start())
        name = server.post(
            "/recording", params={"session": browser.session}, content=recording(picture).to_bytes()
        ).json()["name"]
        browser.send(do="start", picture=name, rooms=[{"model": browser.model, "temperature": 1}])
        assert "recording: expected model" in browser.error()
        browser.until(lambda head: step_of(head) > at + 2)


def test_a_step_that_fails_stops_its_own_game_only(server: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    real = World.step

    def step(world: World, slots: list[int], actions: list[int]) -> object:
        if world.engine.temperature == 0.25:
            raise RuntimeError("out of tokens")
        return real(world, slots, actions)

    monkeypatch.setattr(World, "step", step)
    with server.websocket_connect("/socket") as calm, server.websocket_connect("/socket") as socket:
        bystander, browser = Browser(server, calm), Browser(server, socket)
        bystander.start()
        browser.send(do="start", picture="maze", rooms=[{"model": browser.model, "temperature": 0.25}])
        head = browser.until(lambda head: head["trouble"])
        assert head["paused"]
        assert "the game failed" in head["trouble"]
        bystander.until(lambda head: step_of(head) > 5)
        browser.start()


def test_a_game_that_fails_after_the_step_stops_alone(server: TestClient) -> None:
    with server.websocket_connect("/socket") as calm, server.websocket_connect("/socket") as socket:
        bystander, browser = Browser(server, calm), Browser(server, socket)
        bystander.start()
        browser.start()
        made = server.server  # type: ignore[attr-defined]

        def fail(*_: object) -> None:
            raise RuntimeError("broken on purpose")

        made.sessions[browser.session].player.games[0].accept = fail
        assert "failed" in browser.until(lambda head: head["trouble"])["trouble"]
        at = step_of(bystander.until(lambda head: True))
        bystander.until(lambda head: step_of(head) >= at + 5)
        browser.start()  # a new game in the slot plays again
        browser.until(lambda head: step_of(head) >= 3)


def test_rooms_make_way_for_new_ones_but_not_for_each_other(server: TestClient) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        for t in range(8):  # more temperatures than worlds, the last one's always wanted again
            rooms = [{"model": browser.model, "temperature": (t + i) / 10} for i in range(2)]
            browser.send(do="start", picture="maze", rooms=rooms, seed=1)
            head = browser.until(lambda head: len(head["views"]) == 2 and step_of(head) == 0)
            assert len(head["frames"]) == 2


def test_a_way_back_that_fails_stops_its_own_game_only(server: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.websocket_connect("/socket") as calm, server.websocket_connect("/socket") as socket:
        bystander, browser = Browser(server, calm), Browser(server, socket)
        bystander.start()
        browser.start()
        browser.until(lambda head: step_of(head) > 2)
        monkeypatch.setattr(Game, "seek", lambda game, step: 1 / 0)
        browser.send(do="rewind", on=True)
        assert browser.until(lambda head: head["trouble"])["paused"]
        monkeypatch.undo()
        at = step_of(bystander.until(lambda head: True))
        bystander.until(lambda head: step_of(head) > at + 2)
        browser.start()


def test_who_vanishes_while_going_back_goes_on_forwards(server: TestClient) -> None:
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        browser.start()
        browser.until(lambda head: step_of(head) > 2)
        browser.send(do="rewind", on=True)
        browser.until(lambda head: step_of(head) == 0)
    with server.websocket_connect(f"/socket?session={browser.session}") as socket:
        again = Browser(server, socket)
        again.send(do="pause", on=False)
        again.until(lambda head: step_of(head) > 2)


def test_a_job_that_nobody_waits_for_harms_nobody() -> None:
    arcade = Arcade(1, lambda keys: 0)
    gate = threading.Event()
    busy = arcade.call(gate.wait)
    arcade.call(lambda: 1 / 0).cancel()
    gate.set()
    assert busy.result(10)
    assert arcade.call(lambda: 7).result(10) == 7
    assert isinstance(arcade.call(lambda: 1 / 0).exception(10), ZeroDivisionError)
    arcade.close()
    with pytest.raises(RuntimeError, match="closed"):
        arcade.call(lambda: 7)


def test_a_browser_that_draws_nothing_gets_no_more_frames(world: World, picture: np.ndarray) -> None:
    async def slow() -> None:
        arcade = Arcade(1, lambda keys: 0)
        session = Session(arcade, ("tiny",), {}, asyncio.get_running_loop())
        game = Game(world, 1)
        game.start(picture, 3)
        session.player.games = [game]
        session.attach(session)
        numbers = []
        for _ in range(5):
            run(game, [1])
            late, now = session.player.shown(), session.player.shown()
            session.show(now)
            session.show(dataclasses.replace(late, views=()))  # overtaken on its way: not shown
            with contextlib.suppress(TimeoutError):
                packet = await asyncio.wait_for(session.packet(session), 0.01)
                assert packet is not None
                numbers.append(head_of(packet)["views"][0]["step"])
        assert numbers == [1, 2]
        session.drawn(10**9)  # never sent: no answer to anything
        session.drawn(2)
        packet = await session.packet(session)
        assert packet is not None
        assert head_of(packet)["views"][0]["step"] == 5  # the newest; 3 and 4 are dropped
        session.attach(None)
        assert await session.packet(session) is None
        arcade.close()

    asyncio.run(slow())


def test_answers_to_frames_are_not_too_many_messages(world: World, picture: np.ndarray) -> None:
    async def fast() -> None:
        arcade = Arcade(1, lambda keys: 0)
        session = Session(arcade, ("tiny",), {}, asyncio.get_running_loop())
        game = Game(world, 1)
        game.start(picture, 3)
        session.player.games = [game]
        session.attach(session)
        for _ in range(3 * MAX_MESSAGES):
            session.show(session.player.shown())
            packet = await session.packet(session)
            assert packet is not None
            assert session.allowed()
            session.drawn(head_of(packet)["n"])
        answers = 0
        while session.allowed():
            session.drawn(answers)
            answers += 1
        assert answers < 2 * MAX_MESSAGES  # but answers to nothing are
        arcade.close()

    asyncio.run(fast())


def head_of(packet: bytes) -> dict:
    return json.loads(packet[4 : 4 + int.from_bytes(packet[:4], "little")])


def test_a_second_tab_takes_the_game_over(server: TestClient) -> None:
    with server.websocket_connect("/socket") as one:
        first = Browser(server, one)
        first.start()
        with server.websocket_connect(f"/socket?session={first.session}") as two:
            second = Browser(server, two)
            assert second.session == first.session
            with pytest.raises(WebSocketDisconnect, match="4000"):
                first.until(lambda head: False)
            second.send(do="pause", on=False)
            second.until(lambda head: not head["paused"])


def test_those_who_fall_asleep_make_room(server: TestClient) -> None:
    made = server.server  # type: ignore[attr-defined]
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        browser.start()
        server.portal.call(made.tidy, time.monotonic())
        assert browser.session in made.sessions
        server.portal.call(made.tidy, time.monotonic() + AWAY + 1)
        with pytest.raises(WebSocketDisconnect, match="4408"):
            browser.until(lambda head: False)
    server.portal.call(made.tidy, time.monotonic() + IDLE + 1)
    assert browser.session not in made.sessions
