"""The hall of games: worlds, their slots, and the one thread that steps them at fixed rates.

Everything that touches a world runs in that thread; others hand it jobs (`call`) and are told what
there is to see through `Player.publish`. A tick plays all games that are due in one batch per
world. A game that falls behind drops what it missed instead of hurrying after it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from gamegen_env.keyboard import KeyState
from gamegen_env.play.game import Game, View
from gamegen_env.world import World

RATES = (0, 15, 30, 60)  # frames per second; 0 is as fast as it goes
MAX_WORLDS = 4  # models and temperatures in use at once

Room = tuple[str, float]  # model, temperature
# Frames (n, H, W, 3) uint8 -> probabilities of the tokens (n, N_ACTIONS) float64.
Policy = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shown:
    """What a player is told after a step or a job: plain values, safe in any thread."""

    views: tuple[View, ...]
    paused: bool
    agent: bool
    rate: int
    step_ms: float  # smoothed time of the whole batch
    pressed_at: float  # client clock of the newest key event that these views heed
    places: tuple[int, ...]  # save slots in use
    script: int  # steps of a recording still to be replayed
    odds: tuple[float, ...]  # the agent's probabilities by action token, empty if it does not play
    trouble: str  # why the game stands still, if it failed
    number: int  # later ones have larger numbers


class Player:
    """One person: keys, rate, and a game, or two that are compared under the same keys."""

    def __init__(self, publish: Callable[[Shown], None]) -> None:
        self.publish = publish
        self.keys = KeyState()
        self.pressed_at = 0.0  # set after the keys, read before them: a view never claims a key it missed
        self.games: list[Game] = []
        self.rate = 15
        self.paused = True
        self.rewinding = False
        self.agent = False
        self.odds: tuple[float, ...] = ()
        self.due = 0.0
        self.step_ms = 0.0
        self.heeded_at = 0.0
        self.trouble = ""  # until the player starts, goes on or goes elsewhere
        self._told = 0
        self.dice = np.random.default_rng(0)  # the agent's own; what it did is in the game's keys

    @property
    def playing(self) -> bool:
        return bool(self.games) and not self.paused and not (self.games[0].over and not self.rewinding)

    def shown(self) -> Shown:
        """Say what there is to see. To be called in the arcade's thread."""
        self._told += 1
        first = self.games[0] if self.games else None
        return Shown(
            views=tuple(game.view for game in self.games if game.view is not None),
            paused=self.paused,
            agent=self.agent,
            rate=self.rate,
            step_ms=round(self.step_ms, 2),
            pressed_at=self.heeded_at,
            places=tuple(sorted(first.places)) if first else (),
            script=len(first.script) if first else 0,
            odds=self.odds if self.agent else (),
            trouble=self.trouble,
            number=self._told,
        )


class Arcade:
    """Worlds with two slots for each of `places` players."""

    def __init__(self, places: int, token: Callable[[KeyState], int], engine: str = "auto") -> None:
        """Args: places: players at once; token: what held keys mean, an action token."""
        self.places, self.engine = places, engine
        self.policy: Policy | None = None
        self._token = token
        self._worlds: dict[Room, World] = {}
        self._free: dict[Room, list[int]] = {}
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
        """End the thread and give the worlds back; jobs that still wait are cancelled."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join()
        for future, _ in self._jobs:
            future.cancel()
        for world in self._worlds.values():
            world.close()

    # --- Jobs: to be called in the arcade's thread ---

    def open(self, player: Player, rooms: list[Room]) -> None:
        """Give a player a slot in each room, instead of what it had.

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

    def worlds(self, rooms: list[Room]) -> list[World]:
        """Return the worlds of rooms, loaded if need be. Raises: ValueError as `open`; nothing has changed then."""
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
                if not future.set_running_or_notify_cancel():
                    continue  # whoever asked has gone
                try:
                    future.set_result(job())
                except Exception as error:
                    future.set_exception(error)
            now = time.perf_counter()
            self.tick([player for player in self.players if player.playing and player.due <= now])

    def tick(self, due: list[Player]) -> None:
        """Play one step of each player's games, one batch per world."""
        began = time.perf_counter()
        for player in due:
            # What was missed is dropped: the next frame is due one period from now at the latest.
            player.due = max(player.due + (1 / player.rate if player.rate else 0.0), began)
        moving = [player for player in due if not player.rewinding]
        replaying = {id(player) for player in moving if player.games[0].script}
        tokens = self._tokens(moving)
        moving = [player for player in moving if id(player) in tokens]
        for player in due:
            if player.rewinding:
                try:
                    for game in player.games:
                        game.seek(game.step - 1)
                except Exception:
                    self._stop([player])
        for world in {id(g.world): g.world for player in moving for g in player.games}.values():
            playing = [(player, game) for player in moving for game in player.games if game.world is world]
            chosen = [game.next_key(tokens[id(player)]) for player, game in playing]
            # What fails in one game must not end the games of the others: not those of another world, nor, once the
            # world has stepped, those of this one.
            try:
                result = world.step([game.slot for _, game in playing], chosen)
            except Exception:
                self._stop([player for player, _ in playing])
                continue
            for i, ((player, game), token) in enumerate(zip(playing, chosen, strict=True)):
                try:
                    game.accept(token, result, i)
                except Exception:
                    self._stop([player])
                # A recording that has just come to its end stays there.
                player.paused |= id(player) in replaying and not game.script
        spent = 1e3 * (time.perf_counter() - began)
        for player in due:
            player.step_ms = 0.9 * player.step_ms + 0.1 * spent if player.step_ms else spent
            player.publish(player.shown())

    @staticmethod
    def _stop(players: list[Player]) -> None:
        """Pause those whose games have just failed, and have them told."""
        logging.getLogger(__name__).exception("a step failed")
        for player in players:
            player.paused, player.rewinding = True, False
            player.trouble = "the game failed; the server's log says why"

    def _tokens(self, players: list[Player]) -> dict[int, int]:
        """Return what each player plays next, by id: by its keys, or by the agent, unless that fails, in its place."""
        tokens = {}
        for player in players:
            player.heeded_at = player.pressed_at
            tokens[id(player)] = self._token(player.keys)
        led = [player for player in players if player.agent and not player.games[0].script]
        if led and self.policy is not None:
            try:
                odds = self.policy(np.stack([game.view.frame for game in (p.games[0] for p in led) if game.view]))
                for player, row in zip(led, odds, strict=True):
                    tokens[id(player)] = int(player.dice.choice(len(row), p=row))
                    player.odds = tuple(np.round(row, 4).tolist())
            except Exception:  # an agent's failure must not end anybody's game
                self._stop(led)
                return {key: token for key, token in tokens.items() if key not in set(map(id, led))}
        return tokens
