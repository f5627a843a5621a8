"""A trained agent plays in the browser, and hands over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

from stable_baselines3 import PPO

from agents.common import save_agent
from gamegen_env.actions import ALE, N_ACTIONS, token
from gamegen_env.agent import load_policy
from gamegen_env.play.server import Server
from gamegen_env.sb3 import ImageGameVecEnv
from tests.browser import Browser, endless, step_of

__all__ = ["endless"]  # the fixture
RIGHT = token("RIGHT")


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent with random weights."""
    made = tmp_path_factory.mktemp("agent")
    games = ImageGameVecEnv(1, model=str(tiny_checkpoint))
    save_agent(made, PPO("CnnPolicy", games, n_steps=8, batch_size=8, seed=0, device="cpu"), {})
    return made


def test_a_loaded_policy_says_what_the_agent_would(tiny_checkpoint: Path, folder: Path) -> None:
    games = ImageGameVecEnv(1, model=str(tiny_checkpoint))
    agent = PPO("CnnPolicy", games, n_steps=8, batch_size=8, seed=0, device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    odds = load_policy(folder)(frames)
    seen, _ = agent.policy.obs_to_tensor(frames.transpose(0, 3, 1, 2))
    expected = agent.policy.get_distribution(seen).distribution.probs.detach().numpy()  # type: ignore[union-attr]
    assert odds.shape == (3, N_ACTIONS)
    assert np.allclose(odds[:, list(ALE)], expected, atol=1e-6)
    assert np.allclose(odds.sum(1), 1, atol=1e-12)


def test_a_folder_without_an_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an agent written by"):
        load_policy(tmp_path)
    (tmp_path / "agent.safetensors").write_bytes(b"\x80\x04junk")
    with pytest.raises(ValueError, match="expected an agent written by"):
        load_policy(tmp_path)


class Scripted:
    """An agent that goes right nine times in ten, until it breaks."""

    broken = False

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        assert frames.shape[1:] == (64, 64, 3)
        odds = np.zeros((len(frames), N_ACTIONS))
        odds[:, RIGHT], odds[:, 0] = 0.9, np.nan if self.broken else 0.1
        return odds


@pytest.fixture
def policy() -> Scripted:
    return Scripted()


@pytest.fixture
def server(endless: str, policy: Scripted) -> Iterator[TestClient]:
    made = Server(models=(endless,), players=2, temperature=1.0, hosts=("testserver",), policy=policy)
    with TestClient(made.app) as client:
        yield client


def test_the_agent_plays_and_a_key_takes_over(server: TestClient) -> None:
    assert server.get("/setup").json()["agent"] is True
    with server.websocket_connect("/socket") as socket:
        browser = Browser(server, socket)
        browser.start()
        browser.send(do="agent", on=True)
        head = browser.until(lambda head: head["agent"] and head["views"][0]["action"] == RIGHT)
        assert head["odds"][RIGHT] == 0.9
        browser.send(do="keys", held=["ArrowUp"])
        head = browser.until(lambda head: not head["agent"] and head["views"][0]["action"] == token("UP"))
        assert head["odds"] == []


def test_an_agent_that_breaks_stops_its_own_game_only(server: TestClient, policy: Scripted) -> None:
    with server.websocket_connect("/socket") as calm, server.websocket_connect("/socket") as socket:
        bystander, browser = Browser(server, calm), Browser(server, socket)
        bystander.start()
        browser.start()
        policy.broken = True
        browser.send(do="agent", on=True)
        assert browser.until(lambda head: head["trouble"])["paused"]
        at = step_of(bystander.until(lambda head: True))
        bystander.until(lambda head: step_of(head) > at + 2)
        browser.send(do="agent", on=False)
        browser.send(do="pause", on=False)
        browser.until(lambda head: not head["paused"] and not head["trouble"])


def test_without_an_agent_it_is_not_offered(endless: str) -> None:
    with (
        TestClient(Server(models=(endless,), hosts=("testserver",)).app) as client,
        client.websocket_connect("/socket") as socket,
    ):
        assert client.get("/setup").json()["agent"] is False
        browser = Browser(client, socket)
        browser.start()
        browser.send(do="agent", on=True)
        assert "expected the server to be started with --agent" in browser.error()
