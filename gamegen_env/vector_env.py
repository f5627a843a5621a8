"""`ImageGame-v0` as a native vector environment: one world, one inference for all games.

Equal, bit for bit, to `SyncVectorEnv` over single environments with a time limit: row i
with seed s plays what a single environment plays that was reset with s + i.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gamegen_env.actions import meaning
from gamegen_env.env import ImageGameEnv, State, check_render_mode
from gamegen_env.episode import Games, option_dict
from gamegen_env.keyboard import sdl_keycodes

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class ImageGameVectorEnv(VectorEnv):
    """`num_envs` games side by side. Arguments of the game as in `ImageGameEnv`."""

    # A copy: Gymnasium before 1.4 writes into the single environment's.
    metadata: dict[str, Any] = {**ImageGameEnv.metadata}  # noqa: RUF012  (Gymnasium's protocol)
    # Gymnasium before 1.3 closes on deletion, and so also what a refused argument left unfinished.
    _games: Games | None = None

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = 1000,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        action_set: str = "ale",
        **options: Any,
    ) -> None:
        """Allocate the games.

        Args:   max_episode_steps: None for no limit. autoreset_mode: "NextStep", "SameStep" or
                "Disabled", or Gymnasium's enum. options: the game's arguments.
        Raises: ValueError or TypeError on bad arguments.
        """
        self._arguments = {
            "num_envs": num_envs,
            "max_episode_steps": max_episode_steps,
            "autoreset_mode": autoreset_mode,
            "render_mode": render_mode,
            "action_set": action_set,
            **options,
        }
        check_render_mode(render_mode)
        if max_episode_steps is not None and (not isinstance(max_episode_steps, int) or max_episode_steps < 1):
            raise ValueError(f"max_episode_steps: expected an integer >= 1 or None, got {max_episode_steps!r}")
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            modes = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode: expected one of {modes}, got {autoreset_mode!r}") from None
        self._games = Games(num_envs, action_set=action_set, **options)
        self._action_set = action_set
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {**ImageGameEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = gym.spaces.Box(0, 255, self._games.frame_shape, np.uint8)
        self.single_action_space = gym.spaces.Discrete(len(self._games.tokens))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._limit = max_episode_steps
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._playing: set[int] = set()  # rows whose step was sent and not received
        self._due: set[int] = set()  # the same of rows that are to be reset instead

    def __reduce__(self) -> tuple[partial, tuple[()]]:
        """Pickle the arguments, not the weights, as `EzPickle` does; that one's copy would share its world."""
        return partial(type(self), **self._arguments), ()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset all games, or those under `options["reset_mask"]`.

        Args:    seed: int s seeds row i with s + i; a list seeds row by row, None leaves a row's generator.
                 options: "image" (one picture, or a list with one per row), "reset_mask" (n,) bool.
        Returns: observations (n, H, W, 3) uint8, rows outside the mask unchanged, and infos.
        """
        games = self._open()
        generators = self._seeded(seed)
        options = option_dict(options)
        mask = self._mask(options.pop("reset_mask")) if "reset_mask" in options else np.ones(self.num_envs, bool)
        pictures = games.pictures(options, self.num_envs)
        rows = self._idle(mask.nonzero()[0], "reset")
        if not games.started[~mask].all():
            raise gym.error.ResetNeeded("reset_mask: expected every row outside it to have been reset before")
        for row in rows:
            self._generators[row] = generators[row]
        _, row_infos = games.reset(rows, [self._generators[row] for row in rows], [pictures[row] for row in rows])
        infos: dict[str, Any] = {}
        for row, info in zip(rows, row_infos, strict=True):
            infos = self._add_info(infos, info, row)
        return games.world.canvas.view(np.arange(self.num_envs)), infos

    def step(self, actions: np.ndarray) -> Step:
        """Advance all games by one step, with autoreset as configured."""
        self.send(actions)
        return self._receive(self.num_envs)[1]

    def send(self, actions: np.ndarray, rows: Sequence[int] | None = None) -> None:
        """Let games begin a step (default: all), so that a long one holds up no other; `recv` ends it.

        Args:   actions: (n,) integers; rows: n distinct numbers of games whose step is not under way.
        Raises: AlreadyPendingCallError, ResetNeeded or InvalidAction of `gymnasium.error`, or ValueError on bad
                rows; nothing was sent then.
        """
        games = self._open()
        rows = self._idle(rows, "send")
        if not games.started[rows].all():
            raise gym.error.ResetNeeded("expected reset() before a step")
        ids = games.check_actions(actions, len(rows))
        ended = [row for row in rows if games.ended[row]]
        if self.autoreset_mode == AutoresetMode.DISABLED and ended:
            raise gym.error.ResetNeeded(f"rows {ended}: expected a reset after their end")
        due = set(ended) if self.autoreset_mode == AutoresetMode.NEXT_STEP else set()
        played = {row: action for row, action in zip(rows, ids, strict=True) if row not in due}
        games.send(list(played), list(played.values()), [self._generators[row] for row in played])
        self._playing |= set(played)
        self._due |= due

    def recv(self, min_count: int = 1) -> tuple[np.ndarray, Step]:
        """Decode until at least `min_count` of the steps under way are finished, and return all that are.

        Autoreset is that of `step`; a game's seed and actions alone say what happens in it, not when it was sent.

        Returns: rows (n,) int64, ascending, and what `step` returns, of these rows in this order.
        Raises:  NoAsyncCallError of `gymnasium.error` if nothing was sent; ValueError if fewer rows are under way.
        """
        self._open()
        under_way = len(self._playing) + len(self._due)
        if not under_way:
            raise gym.error.NoAsyncCallError("recv: expected a send() before it", "recv")
        if not isinstance(min_count, int | np.integer) or not 1 <= min_count <= under_way:
            raise ValueError(f"min_count: expected 1 to {under_way} rows whose step is under way, got {min_count!r}")
        rows, (*arrays, infos) = self._receive(int(min_count))
        observations, rewards, terminated, truncated = (array[rows] for array in arrays)
        return rows, (observations, rewards, terminated, truncated, _of_rows(infos, rows))

    def _receive(self, min_count: int) -> tuple[np.ndarray, Step]:
        """Return the rows that are finished, and what happened in arrays of all rows, the others' undefined."""
        games = self._open()
        fresh, self._due = sorted(self._due), set()
        frames = np.empty((self.num_envs, *games.frame_shape), np.uint8)
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        row_infos: dict[int, dict[str, Any]] = {}
        if min_count > len(fresh):
            played, outcome = games.recv(min_count - len(fresh))
            self._playing -= set(played)
            frames[played], rewards[played], terminated[played] = outcome.frames, outcome.rewards, outcome.terminated
            if self._limit is not None:
                truncated[played] = games.steps[played] >= self._limit
            row_infos.update(zip(played, outcome.infos, strict=True))
        games.ended |= truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            fresh = [row for row in sorted(row_infos) if games.ended[row]]
            for row in fresh:
                final = {"final_obs": frames[row].copy(), "final_info": row_infos[row]}
                infos = self._add_info(infos, final, row)
        if fresh:
            frames[fresh], fresh_infos = games.reset(fresh, [self._generators[r] for r in fresh], [None] * len(fresh))
            row_infos.update(zip(fresh, fresh_infos, strict=True))
        rows = sorted(row_infos)
        for row in rows:
            infos = self._add_info(infos, row_infos[row], row)
        return np.array(rows, np.int64), (frames, rewards, terminated, truncated, infos)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return every game's frame under `render_mode="rgb_array"`, else None."""
        games = self._open()
        if not games.started.all():
            raise gym.error.ResetNeeded("expected reset() before render()")
        if self.render_mode is None:
            return None
        return tuple(games.frame(row) for row in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        if self._games is not None:
            self._games.world.close()
        self._games = None

    def clone_state(self, rows: Sequence[int] | None = None, include_rng: bool = True) -> list[State]:
        """Copy games (default: all): per row a state as `ImageGameEnv.clone_state` returns."""
        games = self._open()
        rows = self._idle(rows, "clone_state")
        if not all(games.started[row] for row in rows):
            raise gym.error.ResetNeeded("expected reset() before clone_state()")
        return [games.save(row, self._generators[row] if include_rng else None) for row in rows]

    def restore_state(self, states: Sequence[State], rows: Sequence[int] | None = None) -> None:
        """Put copied games into rows (default: all, in order). One state may go into many rows.

        Step counts come along, and with them the distance to the time limit.

        Raises: ValueError or TypeError if a state does not fit; only damaged arrays inside a state
                are found after the rows before it have been restored.
        """
        games = self._open()
        rows = self._idle(rows, "restore_state")
        if len(states) != len(rows):
            raise ValueError(f"states: expected {len(rows)}, got {len(states)}")
        for state in states:
            games.check_state(state)
        for row, state in zip(rows, states, strict=True):
            games.load_state(row, state, self._generators[row])

    def observations_dlpack(self) -> Any:
        """Return the frames (num_envs, H, W, 3) uint8 in the GPU's memory, for `torch.from_dlpack` without a copy.

        The memory is the environment's own, the same at every call: the next step or reset overwrites it.
        Raises: RuntimeError on an engine that plays on a CPU.
        """
        return self._open().world.observations()

    def get_action_meanings(self) -> list[str]:
        """Return the actions' names, spelled as ALE does."""
        return [meaning(token) for token in self._open().tokens]

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return key combinations for `gymnasium.utils.play`."""
        return sdl_keycodes(self._action_set)

    def _seeded(self, seed: int | Sequence[int | None] | None) -> list[np.random.Generator]:
        """Return every row's generator under reset's `seed`, new or as it is; nothing changes yet."""
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + row for row in range(self.num_envs)]
        elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
            seeds = [int(one) if isinstance(one, np.integer) else one for one in seed]
        else:
            raise TypeError(f"seed: expected an integer, a sequence of integers or None, got {seed!r}")
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: expected {self.num_envs} seeds, got {len(seeds)}")
        return [
            now if one is None else seeding.np_random(one)[0] for now, one in zip(self._generators, seeds, strict=True)
        ]

    def _idle(self, rows: Sequence[int] | np.ndarray | None, call: str) -> list[int]:
        """Return checked rows, by default all. Raises: AlreadyPendingCallError if a row's step is under way."""
        rows = list(range(self.num_envs)) if rows is None else [int(row) for row in rows]
        if len(set(rows)) != len(rows) or not set(rows) <= set(range(self.num_envs)):
            raise ValueError(f"rows: expected distinct numbers in 0..{self.num_envs - 1}, got {rows}")
        busy = sorted((self._playing | self._due) & set(rows))
        if busy:
            raise gym.error.AlreadyPendingCallError(f"{call}: expected rows {busy} to be received before", call)
        return rows

    def _mask(self, mask: Any) -> np.ndarray:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(
                f"options['reset_mask']: expected an array of bool, got {getattr(mask, 'dtype', type(mask))}"
            )
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask']: expected shape ({self.num_envs},) and at least one True, got {mask.shape}, "
                f"{int(mask.sum())} True"
            )
        return mask

    def _open(self) -> Games:
        if self._games is None:
            raise gym.error.ClosedEnvironmentError("expected an open environment, got one after close()")
        return self._games


def _of_rows(infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Take rows of every array."""
    return {key: _of_rows(value, rows) if isinstance(value, dict) else value[rows] for key, value in infos.items()}
