"""What a browser says, and what it is told: messages of one session."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import Any

import numpy as np

from gamegen_env.image import FITS, load_image, packaged_images
from gamegen_env.keyboard import HID
from gamegen_env.play.arcade import RATES, Arcade, Player
from gamegen_env.play.game import View
from gamegen_env.play.recording import Recording

MAX_MESSAGES = 240  # per second
MAX_PICTURES = 16  # uploads that a session keeps


class Session:
    """One browser's player, its newest view not yet sent, and its uploads. Lives on through reloads."""

    def __init__(
        self,
        arcade: Arcade,
        models: tuple[str, ...],
        pictures: dict[str, dict[str, np.ndarray]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Args: pictures: by name and fit, known from the start beside the packaged ones."""
        self.id = secrets.token_urlsafe(12)
        self.arcade, self.models, self._loop = arcade, models, loop
        self.player = Player(self._publish, self._fail)
        self.pictures = dict(pictures)
        self.recordings: dict[str, Recording] = {}
        self.fresh = asyncio.Event()
        self.connection: object | None = None  # the socket in use; an older one ends when it sees another here
        self.seen = time.monotonic()
        self._views: list[View] = []
        self._problem: str | None = None
        self._budget, self._filled = float(MAX_MESSAGES), time.monotonic()

    # --- Views: from the arcade's thread to the socket ---

    def _publish(self, player: Player, views: list[View]) -> None:
        self._loop.call_soon_threadsafe(self._show, views)

    def _fail(self, problem: str) -> None:
        self._loop.call_soon_threadsafe(self._tell, problem)

    def _tell(self, problem: str) -> None:
        self._problem = problem
        self.fresh.set()

    def problem(self) -> str | None:
        """Return what went wrong with the game since the last call, if anything did."""
        problem, self._problem = self._problem, None
        return problem

    def _show(self, views: list[View]) -> None:
        self._views = views  # a view that was not sent yet is late: dropped
        self.fresh.set()

    def packet(self) -> bytes | None:
        """Return the newest views: length of the head (4 bytes), the head in JSON, then the frames' RGB bytes."""
        self.fresh.clear()
        views, player = self._views, self.player
        if not views:
            return None
        head = {
            "views": [
                {
                    "step": v.step, "score": v.score, "reward": v.reward, "over": v.over, "tokens": v.tokens,
                    "scroll": v.scroll, "tiles": v.tiles.tolist(), "side": v.frame.shape[0],
                }
                for v in views
            ],
            "paused": player.paused, "rate": player.rate, "step_ms": round(player.step_ms, 2),
            "pressed_at": player.pressed_at, "places": sorted(player.games[0].places) if player.games else [],
            "script": len(player.games[0].script) if player.games else 0,
        }  # fmt: skip
        text = json.dumps(head).encode()
        return len(text).to_bytes(4, "little") + text + b"".join(v.frame.tobytes() for v in views)

    # --- Messages: from the socket ---

    def allowed(self) -> bool:
        """Count a message; False if this session has sent too many."""
        now = time.monotonic()
        self._budget = min(MAX_MESSAGES, self._budget + (now - self._filled) * MAX_MESSAGES)
        self._filled = self.seen = now
        self._budget -= 1
        return self._budget >= 0

    async def heed(self, text: str) -> None:
        """Do what a message asks.

        Raises: ValueError naming what was expected and what came; nothing has changed then.
        """
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"message: expected JSON, got {text[:40]!r}") from None
        kind = message.get("do") if isinstance(message, dict) else None
        handlers = {
            "keys": self._keys, "start": self._start, "pause": self._pause, "step": self._step,
            "rewind": self._rewind, "rate": self._rate, "save": self._save, "load": self._load,
        }  # fmt: skip
        if not isinstance(kind, str) or kind not in handlers:
            raise ValueError(f"message: expected 'do' to be one of {sorted(handlers)}, got {kind!r:.40}")
        await handlers[kind](message)

    async def _call(self, job: Any) -> Any:
        return await asyncio.wrap_future(self.arcade.call(job))

    async def _keys(self, message: dict) -> None:
        held = _get(message, "held", list)
        if len(held) > 16 or not all(isinstance(code, str) for code in held):
            raise ValueError("keys: expected at most 16 names of keys")
        # Keys that no action knows are none of our business.
        self.player.keys.held = {HID[code] for code in held if code in HID}
        at = message.get("at", 0)
        self.player.pressed_at = float(at) if isinstance(at, int | float) and abs(at) < 1e15 else 0.0
        if self.player.games and self.player.games[0].script and held:
            await self._call(self._take_over)

    def _take_over(self) -> None:
        for game in self.player.games:
            game.script.clear()

    async def _start(self, message: dict) -> None:
        rooms = []
        for room in _get(message, "rooms", list):
            if not isinstance(room, dict):
                raise ValueError(f"rooms: expected objects with model and temperature, got {room!r:.40}")
            model, temperature = room.get("model"), room.get("temperature")
            if model not in self.models:
                raise ValueError(f"model: expected one of {list(self.models)}, got {model!r:.40}")
            if not isinstance(temperature, int | float) or not 0 <= temperature <= 2:
                raise ValueError(f"temperature: expected 0..2, got {temperature!r:.40}")
            rooms.append((model, round(float(temperature), 2)))
        if not 1 <= len(rooms) <= 2:
            raise ValueError(f"rooms: expected one or two, got {len(rooms)}")
        seed, fit = message.get("seed", 0), message.get("fit", "crop")
        if type(seed) is not int or not 0 <= seed < 2**53:
            raise ValueError(f"seed: expected 0..2**53-1, got {seed!r:.40}")
        if fit not in FITS:
            raise ValueError(f"fit: expected one of {FITS}, got {fit!r:.40}")
        name, script = _get(message, "picture", str), []
        recording = self.recordings.get(name)
        if recording is not None:
            seed, script = recording.seed, recording.keys
            rooms = [(rooms[0][0], recording.temperature)]
        elif name not in self.pictures and name not in packaged_images():
            raise ValueError(f"picture: expected an upload or one of {sorted(packaged_images())}, got {name!r:.40}")

        def job() -> list[View]:
            for world in self.arcade.worlds(rooms):  # before a slot is given up or taken
                got = (recording.fingerprint, recording.engine) if recording else None
                if got and got != (world.fingerprint, world.engine_name):
                    raise ValueError(
                        f"recording: expected model {world.fingerprint} and engine {world.engine_name}, "
                        f"got {got[0][:40]} and {got[1][:40]}"
                    )
            self.arcade.open(self.player, rooms)
            views = []
            for game in self.player.games:
                side = game.world.frame_shape[0]
                if recording is not None:
                    picture = recording.picture
                else:
                    fitted = self.pictures.get(name)
                    picture = fitted[fit] if fitted else load_image(packaged_images()[name], side, fit)
                views.append(game.start(picture, seed, script))
            # The picture itself is seen for a moment first.
            self.player.due = time.perf_counter() + 1 / (self.player.rate or RATES[-1])
            self.player.paused = self.player.rewinding = False
            return views

        self._show(await self._call(job))

    async def _change(self, job: Any) -> None:
        """Run a job on the games and show what they look like then."""
        if not self.player.games:
            raise ValueError("message: expected a game to be started first")

        def changed() -> list[View]:
            job()
            return [game.view for game in self.player.games if game.view is not None]

        self._show(await self._call(changed))

    async def _pause(self, message: dict) -> None:
        on = _get(message, "on", bool)

        def job() -> None:
            self.player.paused, self.player.due = on, time.perf_counter()

        await self._change(job)

    async def _step(self, message: dict) -> None:
        def job() -> None:
            self.player.paused = True
            if not self.player.games[0].over:
                self.arcade.tick([self.player])

        await self._change(job)

    async def _rewind(self, message: dict) -> None:
        on = _get(message, "on", bool)

        def job() -> None:
            self.player.rewinding, self.player.due = on, time.perf_counter()

        await self._change(job)

    async def _rate(self, message: dict) -> None:
        rate = message.get("fps")
        if type(rate) is not int or rate not in RATES:
            raise ValueError(f"rate: expected one of {RATES}, got {rate!r:.40}")

        def job() -> None:
            self.player.rate, self.player.due = rate, time.perf_counter()

        await self._change(job)

    async def _save(self, message: dict) -> None:
        place = _get(message, "place", int)

        def job() -> None:
            for game in self.player.games:
                game.save(place)

        await self._change(job)

    async def _load(self, message: dict) -> None:
        place = _get(message, "place", int)

        def job() -> None:
            for game in self.player.games:
                game.load(place)

        await self._change(job)

    # --- Uploads and downloads ---

    def add_picture(self, data: bytes, side: int) -> str:
        """Keep an uploaded picture, fitted in every way. Raises: ValueError if it is none."""
        return self._keep(self.pictures, {fit: load_image(data, side, fit) for fit in FITS})

    def add_recording(self, data: bytes, side: int) -> str:
        """Keep an uploaded recording. Raises: ValueError if it is none."""
        return self._keep(self.recordings, Recording.from_bytes(data, side))

    @staticmethod
    def _keep(shelf: dict[str, Any], thing: Any) -> str:
        name = "upload-" + secrets.token_hex(4)
        shelf[name] = thing
        while len(shelf) > MAX_PICTURES:
            del shelf[next(iter(shelf))]
        return name

    async def recording(self) -> bytes:
        """Return the first game as a recording. Raises: ValueError if none was started."""
        if not self.player.games:
            raise ValueError("recording: expected a game to be started first")
        game = self.player.games[0]

        def job() -> Recording:
            world = game.world
            return Recording(
                game.picture, world.fingerprint, world.engine_name, world.engine.temperature, game.seed, list(game.keys)
            )

        return (await self._call(job)).to_bytes()


def _get(message: dict, name: str, kind: type) -> Any:
    value = message.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, got {value!r:.40}")
    return value
