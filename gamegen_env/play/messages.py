"""What a browser may say, message by message: JSON objects whose "do" names one of `HANDLERS`."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from gamegen_env.image import FITS, load_image, packaged_images
from gamegen_env.keyboard import HID
from gamegen_env.play.arcade import RATES, Room, Shown
from gamegen_env.play.recording import MAX_TEMPERATURE
from gamegen_env.play.session import Session

MAX_HELD = 16  # keys at once


async def heed(session: Session, text: str) -> None:
    """Do what a message asks.

    Raises: ValueError naming what was expected and what came; nothing has changed then.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"message: expected JSON, got {text[:40]!r}") from None
    kind = message.get("do") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in HANDLERS:
        raise ValueError(f"message: expected 'do' to be one of {sorted(HANDLERS)}, got {kind!r:.40}")
    if kind != "drawn":
        session.active = time.monotonic()
    await HANDLERS[kind](session, message)


def _get(message: dict, name: str, kind: type) -> Any:
    value = message.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, got {value!r:.40}")
    return value


async def _drawn(session: Session, message: dict) -> None:
    session.drawn(_get(message, "n", int))


async def _keys(session: Session, message: dict) -> None:
    held = _get(message, "held", list)
    if len(held) > MAX_HELD or not all(isinstance(code, str) for code in held):
        raise ValueError(f"keys: expected at most {MAX_HELD} names of keys")
    player, at = session.player, message.get("at", 0)
    # Keys that no action knows are none of our business.
    player.keys.held = {HID[code] for code in held if code in HID}
    player.pressed_at = float(at) if isinstance(at, int | float) and abs(at) < 1e15 else 0.0
    if held and (player.agent or any(game.script for game in player.games)):

        def take_over() -> None:
            player.agent = False
            for game in player.games:
                game.script.clear()

        await session.call(take_over)


def _room(session: Session, room: Any) -> Room:
    if not isinstance(room, dict):
        raise ValueError(f"rooms: expected objects with model and temperature, got {room!r:.40}")
    model, temperature = room.get("model"), room.get("temperature")
    if model not in session.models:
        raise ValueError(f"model: expected one of {list(session.models)}, got {model!r:.40}")
    if not isinstance(temperature, int | float) or not 0 <= temperature <= MAX_TEMPERATURE:
        raise ValueError(f"temperature: expected 0..{MAX_TEMPERATURE}, got {temperature!r:.40}")
    return model, round(float(temperature), 2)


async def _start(session: Session, message: dict) -> None:
    rooms = [_room(session, room) for room in _get(message, "rooms", list)]
    if not 1 <= len(rooms) <= 2:
        raise ValueError(f"rooms: expected one or two, got {len(rooms)}")
    seed, fit = message.get("seed", 0), message.get("fit", "crop")
    if type(seed) is not int or not 0 <= seed < 2**53:
        raise ValueError(f"seed: expected 0..2**53-1, got {seed!r:.40}")
    if fit not in FITS:
        raise ValueError(f"fit: expected one of {FITS}, got {fit!r:.40}")
    name, script = _get(message, "picture", str), []
    recording = session.recordings.get(name)
    if recording is not None:
        seed, script = recording.seed, recording.keys
        rooms = [(rooms[0][0], recording.temperature)]
    elif name not in session.pictures and name not in packaged_images():
        raise ValueError(f"picture: expected an upload or one of {sorted(packaged_images())}, got {name!r:.40}")

    def picture(side: int) -> np.ndarray:
        if recording is not None:
            return recording.picture
        fitted = session.pictures.get(name)
        return fitted[fit] if fitted else load_image(packaged_images()[name], side, fit)

    def job() -> Shown:
        player, arcade = session.player, session.arcade
        if recording is not None:
            world = arcade.worlds(rooms)[0]
            here, there = (world.fingerprint, world.engine_name), (recording.fingerprint, recording.engine)
            if here != there:
                raise ValueError(
                    f"recording: expected model {here[0]} and engine {here[1]}, got {there[0]:.40} and {there[1]:.40}"
                )
        arcade.open(player, rooms)
        for game in player.games:
            game.start(picture(game.world.frame_shape[0]), seed, script)
        # The picture itself is seen for a moment before it moves.
        player.due, player.paused, player.rewinding = time.perf_counter() + 1 / 15, False, False
        player.trouble = ""
        player.agent = player.agent and not script
        player.dice = np.random.default_rng(seed)
        return player.shown()

    session.show(await session.call(job))


async def _change(session: Session, job: Callable[[], None]) -> None:
    """Run a job on a started game and show what it looks like then."""

    def changed() -> Shown:
        if not session.player.games:
            raise ValueError("message: expected a game to be started first")
        session.player.trouble = ""
        job()
        return session.player.shown()

    session.show(await session.call(changed))


async def _pause(session: Session, message: dict) -> None:
    on = _get(message, "on", bool)

    def job() -> None:
        session.player.paused, session.player.due = on, time.perf_counter()

    await _change(session, job)


async def _step(session: Session, message: dict) -> None:
    def job() -> None:
        session.player.paused, session.player.rewinding = True, False
        if not session.player.games[0].over:
            session.arcade.tick([session.player])

    await _change(session, job)


async def _rewind(session: Session, message: dict) -> None:
    on = _get(message, "on", bool)

    def job() -> None:
        session.player.rewinding, session.player.due = on, time.perf_counter()

    await _change(session, job)


async def _agent(session: Session, message: dict) -> None:
    on = _get(message, "on", bool)

    def job() -> None:
        if on and session.arcade.policy is None:
            raise ValueError("agent: expected the server to be started with --agent FOLDER")
        session.player.agent = on
        for game in session.player.games:
            game.script.clear()

    await _change(session, job)


async def _rate(session: Session, message: dict) -> None:
    rate = message.get("fps")
    if type(rate) is not int or rate not in RATES:
        raise ValueError(f"rate: expected one of {RATES}, got {rate!r:.40}")

    def job() -> None:
        session.player.rate, session.player.due = rate, time.perf_counter()

    await _change(session, job)


async def _save(session: Session, message: dict) -> None:
    place = _get(message, "place", int)

    def job() -> None:
        for game in session.player.games:
            game.save(place)

    await _change(session, job)


async def _load(session: Session, message: dict) -> None:
    place = _get(message, "place", int)

    def job() -> None:
        for game in session.player.games:
            game.load(place)

    await _change(session, job)


HANDLERS: dict[str, Callable[[Session, dict], Awaitable[None]]] = {
    "agent": _agent, "drawn": _drawn, "keys": _keys, "load": _load, "pause": _pause, "rate": _rate,
    "rewind": _rewind, "save": _save, "start": _start, "step": _step,
}  # fmt: skip
