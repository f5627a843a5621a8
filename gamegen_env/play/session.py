"""One browser's session: what it is shown, what it has uploaded, how much it may ask for. Outlives reloads."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import Any

import numpy as np

from gamegen_env.image import load_every_fit
from gamegen_env.play.arcade import Arcade, Player, Shown
from gamegen_env.play.recording import Recording

MAX_MESSAGES = 240  # per second
MAX_PICTURES = 16  # uploads that a session keeps
AHEAD = 2  # frames on their way that the browser has not drawn yet


class Session:
    """A player, its newest view that was not sent yet, and its uploads. Lives in the event loop."""

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
        self.player = Player(self._publish)
        self.pictures = dict(pictures)
        self.recordings: dict[str, Recording] = {}
        self.uploading = asyncio.Lock()
        self.connection: object | None = None  # the socket in use; an older one ends when it sees another here
        self.seen = self.active = time.monotonic()  # last sign of life; last act of a person
        self._shown: Shown | None = None
        self._newest = 0  # number of the latest that was to be shown
        self._sent = self._drawn = 0
        self._stir = asyncio.Event()
        self._budget, self._filled = float(MAX_MESSAGES), time.monotonic()

    # --- What the browser is shown ---

    def _publish(self, shown: Shown) -> None:
        self._loop.call_soon_threadsafe(self.show, shown)

    def show(self, shown: Shown) -> None:
        """Have this sent next. What was not sent yet is late: dropped; so is what a later one has overtaken."""
        if shown.number > self._newest:
            self._shown, self._newest = shown, shown.number
            self._stir.set()

    def drawn(self, number: int) -> None:
        """Take note that the browser has drawn a packet: there is room for another one."""
        if self._drawn < number <= self._sent:
            self._drawn = number
            self._budget += 1  # an answer to a frame is none of the messages that are too many
            self._stir.set()

    def attach(self, connection: object | None) -> None:
        """Send to this connection from now on, beginning with what there is to see."""
        self.connection = connection
        self._sent = self._drawn = 0
        self.seen = self.active = time.monotonic()
        self._stir.set()

    async def packet(self, connection: object) -> bytes | None:
        """Wait for something new and for room on the way.

        Returns: length of the head (4 bytes), the head in JSON, the frames' RGB bytes; None as soon as
                 another connection is in use.
        """
        while self.connection is connection:
            if self._shown is not None and self._sent - self._drawn < AHEAD:
                shown, self._shown = self._shown, None
                self._sent += 1
                return _packed(shown, self._sent)
            self._stir.clear()
            await self._stir.wait()
        return None

    def allowed(self) -> bool:
        """Count a message; False if this session has sent too many."""
        now = time.monotonic()
        self._budget = min(MAX_MESSAGES, self._budget + (now - self._filled) * MAX_MESSAGES)
        self._filled = self.seen = now
        self._budget -= 1
        return self._budget >= 0

    async def call(self, job: Any) -> Any:
        """Run a job in the thread of the worlds."""
        return await asyncio.wrap_future(self.arcade.call(job))

    # --- Uploads and downloads ---

    def add_picture(self, data: bytes, side: int) -> str:
        """Keep an uploaded picture, fitted in every way. Raises: ValueError if it is none."""
        return self._keep(self.pictures, load_every_fit(data, side))

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
        """Return the first game as a recording. Raises: ValueError if none was started, or it was too long."""

        def job() -> Recording:
            if not self.player.games:
                raise ValueError("recording: expected a game to be started first")
            game = self.player.games[0]
            world = game.world
            return Recording(
                game.picture, world.fingerprint, world.engine_name, world.engine.temperature, game.seed, list(game.keys)
            )

        recording = await self.call(job)
        return await asyncio.to_thread(recording.to_bytes)

    async def film(self) -> tuple[list[np.ndarray], int]:
        """Return the first game's latest frames and its frames per second. Raises: ValueError if none was started."""

        def job() -> tuple[list[np.ndarray], int]:
            if not self.player.games:
                raise ValueError("film: expected a game to be started first")
            return [frame for _, frame in self.player.games[0].film], self.player.rate or 15

        return await self.call(job)


def _packed(shown: Shown, number: int) -> bytes:
    head = {
        "n": number,
        "views": [
            {
                "step": v.step, "action": v.action, "score": v.score, "reward": v.reward, "over": v.over,
                "tokens": v.tokens, "scroll": v.scroll, "tiles": v.tiles.tolist(), "side": v.frame.shape[0],
            }
            for v in shown.views
        ],
        "paused": shown.paused, "agent": shown.agent, "rate": shown.rate, "step_ms": shown.step_ms,
        "pressed_at": shown.pressed_at, "places": shown.places, "script": shown.script, "odds": shown.odds,
        "trouble": shown.trouble,
    }  # fmt: skip
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "little") + text + b"".join(v.frame.tobytes() for v in shown.views)
