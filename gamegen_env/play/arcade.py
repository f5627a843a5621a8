"""The hall of games: worlds, their slots, and the one thread that steps them at fixed rates.

Everything that touches a world runs in that thread; others hand it jobs (`call`) and get views
through `Player.publish`. A tick plays all games that are due in one batch per world. A game that
falls behind drops what it missed instead of hurrying after it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from gamegen_env.keyboard import KeyState
from gamegen_env.play.game import Game, View
from gamegen_env.world import World

RATES = (0, 15, 30, 60)  # frames per second; 0 is as fast as it goes
MAX_WORLDS = 4  # models and temperatures in use at once


class Player:
    """One person: keys, rate, and a game, or two that are compared under the same keys."""

    def __init__(self, publish: Callable[[Player, list[View]], None], fail: Callable[[str], None]) -> None:
        """Args: publish: called with new views; fail: with what ended a step. Both in the arcade's thread."""
        self.publish, self.fail = publish, fail
        self.keys = KeyState()
        self.games: list[Game] = []
        self.rate = 15
        self.paused = True
        self.rewinding = False
        self.due = 0.0
        self.step_ms = 0.0
        self.pressed_at = 0.0  # client clock of the newest key event, echoed with the first view that heeds it

    @property
    def playing(self) -> bool:
        return bool(self.games) and not self.paused and not (self.games[0].over and not self.rewinding)


class Arcade:
    """Worlds with `places` slots each."""

    def __init__(self, places: int, engine: str = "auto", token: Callable[[KeyState], int] | None = None) -> None:
        """Args: places: players at once; token: what held keys mean; needed before anybody plays."""
        self.places, self.engine = places, engine
        self._token = token or (lambda keys: 0)
        self._worlds: dict[tuple[str, float], World] = {}
        self._free: dict[tuple[str, float], list[int]] = {}
        self.players: list[Player] = []
        self._jobs: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._wake = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="arcade", daemon=True)
        self._thread.start()

    def call(self, job: Callable[[], Any]) -> Future:
        """Run a job in the thread of the worlds; its result or exception comes in a future."""
        future: Future = Future()
        with self._wake:
            if self._ending:
                raise RuntimeError("the arcade is closed")
            self._jobs.append((future, job))
            self._wake.notify()
        return future

    def close(self) -> None:
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join()
        for world in self._worlds.values():
            world.close()

    # --- Jobs: to be called in the arcade's thread ---

    def open(self, player: Player, rooms: list[tuple[str, float]]) -> None:
        """Give a player a slot in each room (model, temperature), instead of what it had.

        Raises: ValueError if there is no place or room left, or the model is none; the player then keeps its games.
        """
        worlds = self.worlds(rooms)
        for room, world in zip(rooms, worlds, strict=True):
            own = sum(game.world is world for game in player.games)
            if len(self._free[room]) + own < rooms.count(room):
                raise ValueError(f"players: expected at most {self.places}, and all places are taken")
        self.leave(player)
        player.games = [Game(world, self._free[room].pop(0)) for room, world in zip(rooms, worlds, strict=True)]
        self.players.append(player)

    def leave(self, player: Player) -> None:
        """Free a player's slots."""
        for game in player.games:
            room = next(room for room, world in self._worlds.items() if world is game.world)
            self._free[room].append(game.slot)
        player.games = []
        if player in self.players:
            self.players.remove(player)

    def worlds(self, rooms: list[tuple[str, float]]) -> list[World]:
        """Return the worlds of models and temperatures, loaded if need be. Raises: ValueError as `open`."""
        missing = [room for room in dict.fromkeys(rooms) if room not in self._worlds]
        idle = [r for r, free in self._free.items() if len(free) == 2 * self.places and r not in rooms]
        surplus = len(self._worlds) + len(missing) - MAX_WORLDS
        if surplus > len(idle):
            raise ValueError(f"models: expected at most {MAX_WORLDS} models and temperatures in use at once")
        # Twice the places: everybody may compare a model with itself under another temperature.
        made = {room: World(room[0], 2 * self.places, engine=self.engine, temperature=room[1]) for room in missing}
        for room in idle[: max(0, surplus)]:  # nobody plays there
            self._free.pop(room)
            self._worlds.pop(room).close()
        for room, world in made.items():
            self._worlds[room], self._free[room] = world, list(range(2 * self.places))
        return [self._worlds[room] for room in rooms]

    # --- The thread ---

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._ending:
                    waiting = [player.due for player in self.players if player.playing]
                    if not waiting:
                        self._wake.wait()
                        continue
                    left = min(waiting) - time.perf_counter()
                    if left <= 0:
                        break
                    self._wake.wait(left)
                if self._ending:
                    return
                jobs, self._jobs = list(self._jobs), deque()
            for future, job in jobs:
                # Whoever asked may have gone; from here on nobody can cancel it any more.
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(job())
                except Exception as error:
                    future.set_exception(error)
            now = time.perf_counter()
            due = [player for player in self.players if player.playing and player.due <= now]
            try:
                self.tick(due)
            except Exception:
                self._alone(due)

    def _alone(self, due: list[Player]) -> None:
        """After a tick that failed: step players one by one; one that fails is paused and told."""
        for player in due:
            try:
                self.tick([player])
            except Exception as error:
                logging.getLogger(__name__).exception("a player's step failed")
                player.paused = True
                player.fail(f"the game stopped: {error}")

    def tick(self, due: list[Player]) -> None:
        """Play one step of each player's games, one batch per world."""
        now = time.perf_counter()
        views: dict[int, list[View]] = {id(player): [] for player in due}
        for player in due:
            # What was missed is dropped: the next frame is due one period from now at the latest.
            period = 1 / player.rate if player.rate else 0.0
            player.due = max(player.due + period, now)
            if player.rewinding:
                views[id(player)] = [game.seek(game.step - 1) for game in player.games]
        moving = [player for player in due if not player.rewinding]
        for world in {id(g.world): g.world for player in moving for g in player.games}.values():
            games = [(player, game) for player in moving for game in player.games if game.world is world]
            tokens = [game.next_key(self._token(player.keys)) for player, game in games]
            result = world.step([game.slot for _, game in games], tokens)
            for i, ((_, game), token) in enumerate(zip(games, tokens, strict=True)):
                game.accept(token, result, i)
        for player in moving:
            views[id(player)] = [game.view for game in player.games if game.view is not None]
        spent = 1e3 * (time.perf_counter() - now)
        for player in due:
            player.step_ms = float(np.float32(0.9 * player.step_ms + 0.1 * spent)) if player.step_ms else spent
            player.publish(player, views[id(player)])
