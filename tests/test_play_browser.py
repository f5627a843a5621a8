"""The page in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from gamegen_env.checkpoint import save_checkpoint
from gamegen_env.config import ModelConfig
from gamegen_env.image import encode_png
from gamegen_env.play.server import MAX_MESSAGE, Server
from tests.conftest import random_model

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@pytest.fixture(scope="module")
def url(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with random weights whose games are never over."""
    tokenizer, transformer = random_model(tiny_config)
    with torch.no_grad():
        transformer.end_head.bias[3] += 50
    folder = tmp_path_factory.mktemp("endless")
    save_checkpoint(folder, tiny_config, tokenizer, transformer)
    made = Server(models=(str(folder),), players=4, temperature=1.0)
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(made.app, log_level="warning", ws_max_size=MAX_MESSAGE))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    running.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    # Only the test itself evaluates strings, which the page forbids.
    context = browser.new_context(viewport={"width": 1200, "height": 900}, bypass_csp=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(url)
    page.wait_for_selector("body[data-ready][data-step]")
    yield page
    context.close()
    # A refused upload is an answer that the browser counts as a problem.
    assert [problem for problem in problems if "status of 400" not in problem] == []


def step(page: Any) -> int:
    return int(page.evaluate("document.body.dataset.step"))


def pixels(page: Any, screen: str = "screen0") -> np.ndarray:
    data = page.evaluate(f"[...{screen}.getContext('2d').getImageData(0, 0, 64, 64).data]")
    return np.array(data, np.uint8).reshape(64, 64, 4)[..., :3]


def wait_for_step(page: Any, least: int) -> None:
    page.wait_for_function(f"Number(document.body.dataset.step) >= {least}")


def pause(page: Any, on: bool) -> None:
    page.evaluate("on => document.activeElement.blur()", on)
    page.keyboard.press("KeyP")
    page.wait_for_function(f"document.getElementById('pause').classList.contains('paused') === {str(on).lower()}")


def test_page_opens_and_plays(page: Any) -> None:
    wait_for_step(page, 3)
    assert page.locator("#gallery img").count() >= 8
    assert page.locator("#legend kbd").count() >= 9


def test_keys_change_the_picture_and_rewind_restores_it_to_the_bit(page: Any) -> None:
    page.keyboard.down("ArrowRight")
    page.wait_for_selector("kbd.down")
    wait_for_step(page, 5)
    pause(page, True)
    at, before = step(page), pixels(page)
    pause(page, False)
    wait_for_step(page, at + 12)
    page.keyboard.up("ArrowRight")
    pause(page, True)
    assert not np.array_equal(pixels(page), before)
    pause(page, False)
    page.keyboard.down("Backspace")
    page.wait_for_function(f"Number(document.body.dataset.step) <= {at + 2}")
    page.keyboard.up("Backspace")
    pause(page, True)
    page.keyboard.press("Shift+Digit1")
    page.wait_for_selector("#places .kept")
    kept, frame = step(page), pixels(page)
    pause(page, False)
    wait_for_step(page, kept + 5)
    page.keyboard.press("Digit1")
    page.wait_for_function(f"Number(document.body.dataset.step) <= {kept + 3}")
    pause(page, True)
    page.keyboard.press("Digit1")
    page.wait_for_function(f"document.body.dataset.step === '{kept}'")
    assert np.array_equal(pixels(page), frame)


def test_an_uploaded_picture_becomes_the_game(page: Any, picture: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(encode_png(picture))
    page.set_input_files("#file", str(file))
    page.wait_for_function("document.querySelector('#gallery img').dataset.name.startsWith('upload-')")
    page.wait_for_function("document.querySelector('#gallery img').classList.contains('on')")
    pause(page, True)
    page.keyboard.press("KeyR")
    page.wait_for_function("document.body.dataset.step === '0'")
    assert np.array_equal(pixels(page), picture) or step(page) > 0
    (tmp_path / "no.png").write_text("not a picture")
    page.evaluate("document.body.dataset.step = 'x'")
    with page.expect_response("**/picture*") as answer:
        page.set_input_files("#file", str(tmp_path / "no.png"))
    assert answer.value.status == 400
    page.wait_for_function("document.getElementById('notice').textContent.includes('expected an image')")


def test_two_sessions_do_not_mix(browser: Any, url: str) -> None:
    contexts = [browser.new_context(bypass_csp=True) for _ in range(2)]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.goto(url)
        page.wait_for_selector("body[data-ready][data-step]")
    pages[0].click("#gallery img[data-name=maze]")
    pages[1].click("#gallery img[data-name=fruits]")
    for page in pages:
        wait_for_step(page, 3)
    assert not np.array_equal(pixels(pages[0]), pixels(pages[1]))
    pause(pages[0], True)
    still = step(pages[0])
    wait_for_step(pages[1], step(pages[1]) + 5)
    assert step(pages[0]) == still
    for context in contexts:
        context.close()


def test_a_reload_resumes_the_game(page: Any) -> None:
    wait_for_step(page, 8)
    pause(page, True)
    page.keyboard.press("Shift+Digit2")
    page.wait_for_selector("#places .kept")
    at, frame = step(page), pixels(page)
    page.reload()
    page.wait_for_selector("body[data-ready][data-step]")
    pause(page, True)
    assert step(page) >= at
    page.keyboard.press("Digit2")
    page.wait_for_function(f"document.body.dataset.step === '{at}'")
    assert np.array_equal(pixels(page), frame)


def test_two_models_side_by_side_and_tiles(page: Any, tmp_path: Path) -> None:
    page.select_option("#other", index=1)
    page.wait_for_selector("#second:not([hidden])")
    page.check("#tiles")
    wait_for_step(page, 3)
    page.wait_for_function(
        "[...over0.getContext('2d').getImageData(0, 0, 512, 512).data].some((v) => v > 0)", timeout=10_000
    )
    pause(page, True)
    assert np.array_equal(pixels(page), pixels(page, "screen1"))
    page.screenshot(path=str(tmp_path / "page.png"))
    assert Image.open(tmp_path / "page.png").size == (1200, 900)


def test_a_key_can_be_given_to_another_one(page: Any) -> None:
    page.click("#legend kbd[data-code=Space]")
    page.keyboard.press("KeyJ")
    page.wait_for_selector("#legend kbd[data-code=KeyJ]")
    page.keyboard.down("KeyJ")
    page.wait_for_selector("kbd.down[data-code=KeyJ]")
    page.keyboard.up("KeyJ")


def test_keys_are_released_when_the_window_loses_focus(page: Any) -> None:
    page.keyboard.down("ArrowUp")
    page.wait_for_selector("kbd.down")
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    page.wait_for_function("!document.querySelector('kbd.down')")


def test_two_keys_change_places_and_come_back(page: Any) -> None:
    page.click("#legend kbd[data-code=Space]")
    page.keyboard.press("KeyP")  # pauses, and goes on doing so
    assert "has another use" in page.inner_text("#notice")
    page.keyboard.press("KeyW")
    spans = page.locator("#legend span").all_inner_texts()
    assert [" ".join(s.split()) for s in spans if s.endswith(("up", "fire"))] == ["↑spaceup", "wfire"]
    page.reload()
    page.wait_for_selector("body[data-ready][data-step]")
    page.keyboard.down("KeyW")
    page.wait_for_function("document.querySelectorAll('#inside dd')[1].textContent === 'fire'")
    page.keyboard.up("KeyW")
    page.click("#legend .reset")
    page.keyboard.down("KeyW")
    page.wait_for_function("document.querySelectorAll('#inside dd')[1].textContent === 'up'")
    page.keyboard.up("KeyW")


def test_keys_that_are_not_the_games_are_the_browsers(page: Any) -> None:
    prevented = page.evaluate(
        "['F5', 'Tab', 'Enter', 'KeyQ', 'Space'].map((code) => !document.body.dispatchEvent("
        "new KeyboardEvent('keydown', { code, cancelable: true, bubbles: true })))"
    )
    assert prevented == [False, False, False, False, True]
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    page.focus("#pause")
    page.keyboard.press("Enter")
    page.wait_for_selector("#pause.paused")


def test_a_reload_keeps_what_was_chosen_and_uploaded(page: Any, picture: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(encode_png(picture))
    page.set_input_files("#file", str(file))
    page.wait_for_selector("#gallery img.on[data-name^=upload-]")
    page.fill("#seed", "7")
    page.keyboard.press("Tab")
    wait_for_step(page, 3)
    page.reload()
    page.wait_for_selector("#gallery img.on[data-name^=upload-]")
    assert page.input_value("#seed") == "7"
    loaded = "document.querySelector('#gallery img.on').naturalWidth"
    page.wait_for_function(f"{loaded} === 64")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("KeyR")
    page.wait_for_function("Number(document.body.dataset.step) <= 1")
    assert page.locator("#gallery img.on[data-name^=upload-]").count() == 1


def test_a_huge_file_is_refused_before_it_is_sent(page: Any, tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(bytes(17 << 20))
    page.set_input_files("#file", str(tmp_path / "huge.png"))
    page.wait_for_function("document.getElementById('notice').textContent.includes('at most 16 are taken')")


def test_games_and_films_are_saved_and_played_again(page: Any, tmp_path: Path) -> None:
    wait_for_step(page, 8)
    pause(page, True)
    at, frame = step(page), pixels(page)
    with page.expect_download() as saved:
        page.click("#record")
    saved.value.save_as(tmp_path / "game.gamegen")
    with page.expect_download() as saved:
        page.click("#films button")
    saved.value.save_as(tmp_path / "game.gif")
    assert Image.open(tmp_path / "game.gif").format == "GIF"
    page.set_input_files("#file", str(tmp_path / "game.gamegen"))
    page.wait_for_function("document.getElementById('notice').textContent.startsWith('Replaying')")
    page.wait_for_selector("#pause.paused")
    assert step(page) == at
    assert np.array_equal(pixels(page), frame)


def test_it_fits_a_telephone_and_is_touched(browser: Any, url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready][data-step]")
    assert page.locator("#pad").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    button = page.locator("#pad [data-code=ArrowLeft]")
    button.dispatch_event("pointerdown")
    page.wait_for_selector("kbd.down[data-code=ArrowLeft]")
    button.dispatch_event("pointerup")
    page.wait_for_selector("kbd.down[data-code=ArrowLeft]", state="detached")
    context.close()
