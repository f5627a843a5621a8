"""The web server: page, pictures, recordings, and one WebSocket per browser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gamegen_env.actions import N_ACTIONS, meaning
from gamegen_env.image import encode_png, load_every_fit, packaged_images
from gamegen_env.keyboard import KEY_MAPS, KeyState, action_ids
from gamegen_env.play.arcade import RATES, Arcade, Policy
from gamegen_env.play.film import MEDIA, encode, kinds
from gamegen_env.play.guard import HEADERS, check_origin, check_token, refuse
from gamegen_env.play.messages import heed
from gamegen_env.play.session import Session

PAGE = {
    "": "text/html", "style.css": "text/css",
    **dict.fromkeys(("play.js", "link.js", "screen.js", "keys.js", "intake.js"), "text/javascript"),
}  # fmt: skip
MAX_UPLOAD = 16 << 20  # bytes
MAX_MESSAGE = 8 << 10  # bytes
IDLE = 300.0  # seconds without a connection, after which a session's place is given away
AWAY = 900.0  # seconds without a key or a click, after which a connection ends
SIDE = 64  # pixels of a frame


class Server:
    """Sessions and routes. `app` is the ASGI application."""

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("pocket",),
        players: int = 8,
        engine: str = "auto",
        temperature: float = 0.5,
        picture: str = "gold",
        hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]", "::1"),
        token: str | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Set up; nothing is loaded before the application starts.

        Args:   models: packaged names or folders; picture: what a new page starts with, packaged or a path; hosts:
                names under which the server may be called, against foreign pages that point a name of theirs here;
                token: must then be in every URL; policy: of an agent that may play.
        Raises: as `load_every_fit`.
        """
        ids, key_map = action_ids("ale"), KEY_MAPS["ale"]

        def token_of(keys: KeyState) -> int:
            return ids[key_map.action(keys.held, "ale")]

        self.models, self.players, self.token, self.hosts = models, players, token, hosts
        self.temperature = temperature
        # A picture of the caller's own stands in the gallery beside the packaged ones.
        self.picture = picture if picture in packaged_images() else Path(picture).stem[:40]
        fitted = load_every_fit(picture, SIDE)
        self.own = {} if picture in packaged_images() else {self.picture: fitted}
        self.arcade = Arcade(players, token_of, engine)
        self.arcade.policy = policy
        self.decoding = asyncio.Semaphore(1)  # pictures and films at once: each may take hundreds of MB
        self.sessions: dict[str, Session] = {}
        routes: list[Any] = [Route(f"/{name}", self.page) for name in PAGE]
        routes += [
            Route("/setup", self.setup),
            Route("/gallery/{name}", self.gallery),
            Route("/picture", self.upload, methods=["POST"]),
            Route("/recording", self.upload, methods=["POST"]),
            Route("/recording", self.download),
            Route("/film", self.download),
            WebSocketRoute("/socket", self.socket),
        ]
        middleware = [] if "*" in hosts else [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
        self.app = Starlette(
            routes=routes,
            middleware=middleware,
            lifespan=self.lifespan,
            exception_handlers={ValueError: refuse, ImportError: refuse, PermissionError: refuse, LookupError: refuse},
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        # The model is loaded before the first visitor comes.
        await asyncio.wrap_future(self.arcade.call(lambda: self.arcade.worlds([(self.models[0], self.temperature)])))
        sweeper = asyncio.create_task(self.sweep())
        yield
        sweeper.cancel()
        await asyncio.to_thread(self.arcade.close)

    async def sweep(self) -> None:
        """Give away the places of those who left, and part from those who have fallen asleep."""
        while True:
            await asyncio.sleep(IDLE / 10)
            await self.tidy(time.monotonic())

    async def tidy(self, now: float) -> None:
        """Do so once. Args: now: seconds, as `time.monotonic` counts."""
        for session in list(self.sessions.values()):
            socket = session.connection
            if socket is None and now - session.seen > IDLE:
                await self.forget(session)
            elif isinstance(socket, WebSocket) and now - session.active > AWAY:
                with suppress(WebSocketDisconnect, RuntimeError):
                    await socket.close(4408)

    async def forget(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        await asyncio.wrap_future(self.arcade.call(lambda: self.arcade.leave(session.player)))

    def session(self, request: Request) -> Session:
        name = request.query_params.get("session", "")
        if name not in self.sessions:
            raise LookupError("session: expected one that is connected, got none or another")
        self.sessions[name].seen = time.monotonic()
        return self.sessions[name]

    async def page(self, request: Request) -> Response:
        name = request.url.path.lstrip("/")
        if not name:
            check_token(request, self.token)
        file = resources.files("gamegen_env") / "play" / "page" / (name or "index.html")
        return Response(file.read_bytes(), media_type=PAGE[name], headers=HEADERS)

    async def setup(self, request: Request) -> Response:
        check_token(request, self.token)
        return JSONResponse({
            "models": list(self.models), "temperature": self.temperature, "rates": list(RATES), "players": self.players,
            "gallery": [*self.own, *sorted(packaged_images())], "picture": self.picture,
            "keys": dict(KEY_MAPS["ale"].roles), "actions": [meaning(token) for token in range(N_ACTIONS)],
            "agent": self.arcade.policy is not None, "films": kinds(), "max_upload": MAX_UPLOAD,
        })  # fmt: skip

    async def gallery(self, request: Request) -> Response:
        check_token(request, self.token)
        name = request.path_params["name"].removesuffix(".png")
        session = self.sessions.get(request.query_params.get("session", ""))
        own = session.pictures if session else self.own
        if name in own:
            data = encode_png(own[name]["crop"])
        elif name in packaged_images():
            data = packaged_images()[name].read_bytes()
        else:
            raise LookupError(f"picture: expected one of {sorted(packaged_images())}, got {name[:40]!r}")
        return Response(data, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    async def upload(self, request: Request) -> Response:
        check_token(request, self.token)
        session = self.session(request)
        check_origin(request)
        data = bytearray()
        async with session.uploading:
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_UPLOAD:
                    return JSONResponse({"error": f"upload: expected at most {MAX_UPLOAD} bytes, got more"}, 413)
            add = session.add_picture if request.url.path == "/picture" else session.add_recording
            async with self.decoding:
                name = await asyncio.to_thread(add, bytes(data), SIDE)
        return JSONResponse({"name": name})

    async def download(self, request: Request) -> Response:
        check_token(request, self.token)
        session = self.session(request)
        if request.url.path == "/recording":
            body, kind, name = await session.recording(), "application/zip", "game.gamegen"
        else:
            kind = request.query_params.get("kind", "gif")
            frames, fps = await session.film()
            async with self.decoding:
                body = await asyncio.to_thread(encode, kind, frames, fps)
            kind, name = MEDIA[kind], f"game.{kind}"
        return Response(body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    async def socket(self, socket: WebSocket) -> None:
        try:
            check_token(socket, self.token)
            check_origin(socket)
        except PermissionError:
            await socket.close(4403)
            return
        session = self.sessions.get(socket.query_params.get("session", "")) or self.admit()
        if session is None:
            await socket.accept()
            await socket.send_json({"error": f"players: expected at most {self.players}, and all places are taken"})
            await socket.close(4409)
            return
        former = session.connection
        session.attach(socket)
        await socket.accept()
        if isinstance(former, WebSocket):
            with suppress(WebSocketDisconnect, RuntimeError):
                await former.close(4000)  # the same game in another tab
        uploads = [name for name in session.pictures if name not in self.own]
        await socket.send_json({"session": session.id, "playing": bool(session.player.games), "uploads": uploads})
        sender = asyncio.create_task(self.send(session, socket))
        try:
            await self.listen(session, socket)
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await sender
            if session.connection is socket:
                session.attach(None)
                session.player.paused, session.player.rewinding = True, False
                session.player.keys.clear()

    def admit(self) -> Session | None:
        """Return a new session, or None if all places are taken. Those who wait for a reload make room."""
        if len(self.sessions) >= self.players:
            waiting = [s for s in self.sessions.values() if s.connection is None]
            if not waiting:
                return None
            gone = self.sessions.pop(min(waiting, key=lambda s: s.seen).id)
            self.arcade.call(lambda: self.arcade.leave(gone.player))
        session = Session(self.arcade, self.models, self.own, asyncio.get_running_loop())
        self.sessions[session.id] = session
        return session

    async def send(self, session: Session, socket: WebSocket) -> None:
        """Send the newest view whenever there is one and the browser has drawn the last ones."""
        while (packet := await session.packet(socket)) is not None:
            await socket.send_bytes(packet)

    async def listen(self, session: Session, socket: WebSocket) -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if not session.allowed():
                await socket.send_json({"error": "messages: expected fewer per second, got too many"})
                await socket.close(4429)
                return
            try:
                if message.get("text") is None:
                    raise ValueError("message: expected text, got bytes")
                await heed(session, message["text"])
            except (ValueError, FileNotFoundError) as error:
                await socket.send_json({"error": str(error)})
