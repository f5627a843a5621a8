"""The player in trouble: steps that fail, slow and sleeping browsers, tabs, jobs that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gamegen_env.play.arcade import Arcade
from gamegen_env.play.game import Game
from gamegen_env.play.server import AWAY, IDLE
from gamegen_env.play.session import MAX_MESSAGES, Session
from gamegen_env.world import World
from tests.browser import Browser, endless, head_of, run, server, step_of, world
from tests.test_play_recording import recording

__all__ = ["endless", "server", "world"]  # the fixtures


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


def watched(world: World, picture: np.ndarray) -> tuple[Arcade, Session, Game]:
    """Return an arcade, and a session in it with a started game and a browser that looks on."""
    arcade = Arcade(1, lambda keys: 0)
    session = Session(arcade, ("tiny",), {}, asyncio.get_running_loop())
    game = Game(world, 1)
    game.start(picture, 3)
    session.player.games = [game]
    session.attach(session)
    return arcade, session, game


def test_a_browser_that_draws_nothing_gets_no_more_frames(world: World, picture: np.ndarray) -> None:
    async def slow() -> None:
        arcade, session, game = watched(world, picture)
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
        arcade, session, _ = watched(world, picture)
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
