"""The page that compares prompts: what it asks for, and in a browser without a screen."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import uvicorn

import prompt_jax as pj
from prompt_jax.model.sharding import MeshShape
from prompt_jax.serve.app import Server
from prompt_jax.serve.engine import Engine
from prompt_jax.serve.observe import Log
from prompt_jax.serve.openapi import document

PAGE = Path(__file__).parents[1] / "prompt_jax" / "serve" / "page.html"


def test_the_page_asks_for_routes_that_are_there_and_for_nothing_else() -> None:
    text = PAGE.read_text()
    asked = set(re.findall(r'"(/v1/[\w/]+)"', text))
    assert asked == {"/v1/prompts", "/v1/rank", "/v1/generate"}
    assert asked <= set(document()["paths"])
    assert re.findall(r"https?:|src=|@import|innerHTML|url\(", text) == []


class Driver:
    """As much of the WebDriver protocol as the test needs."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}/session"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"]
        wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}
        self.url += "/" + self("POST", "", {"capabilities": wanted})["sessionId"]

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script: str) -> Any:
        return self("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, script: str) -> Any:
        for _ in range(600):
            if value := self.run(script):
                return value
            time.sleep(0.1)
        raise AssertionError(script)


@pytest.fixture
def driver() -> Iterator[Driver]:
    program = shutil.which("chromedriver")
    assert program, "install Debian's chromium-driver"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([program, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        made = Driver(port)
        yield made
        made("DELETE", "")
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_prompts_are_compared_side_by_side(tiny: Path, kinds, driver: Driver, tmp_path) -> None:
    backbone = pj.load_backbone(f"files:{tiny}/backbone", "float32")
    mesh = MeshShape().build(jax.devices()[:1])
    prompts = {name: kinds[name] for name in ("plain", "lora")}
    with Engine(backbone, prompts, 4, input_length=24, max_tokens=8, mesh=mesh) as engine:
        server = Server(engine, log=Log(io.StringIO()))
        config = uvicorn.Config(server.asgi, log_config=None, lifespan="off", port=0)
        runner = uvicorn.Server(config)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        while not runner.started:
            time.sleep(0.01)
        port = runner.servers[0].sockets[0].getsockname()[1]
        try:
            driver("POST", "/url", {"url": f"http://127.0.0.1:{port}/"})
            driver.wait("return document.querySelectorAll('#prompts input').length == 3")
            driver.run(
                "byId('input').value = 'say a'; byId('choices').value = 'a\\nb\\nneither';"
                "byId('compare').click();"
            )
            done = "return document.querySelectorAll('.card .choice.best').length == 3"
            driver.wait(done)
            (tmp_path / "page.png").write_bytes(base64.b64decode(driver("GET", "/screenshot")))
            shown = driver.run(
                "return [...document.querySelectorAll('.card')].map((card) => ["
                "card.dataset.prompt, card.querySelector('.text').textContent,"
                "card.querySelector('.facts').textContent,"
                "[...card.querySelectorAll('.choice')].map((row) => row.innerText)])"
            )
            names = [None, "plain", "lora"]
            wanted = engine.rank(["say a"] * 3, ["a", "b", "neither"], names)
            for (name, text, facts, rows), prompt, ranked in zip(shown, names, wanted, strict=True):
                assert name == (prompt or "(no prompt)") and text == ranked.choice
                assert re.fullmatch(r"\d+ ms", facts)
                scores = {row.split("\n")[0]: float(row.split("\n")[1]) for row in rows}
                assert scores == pytest.approx(ranked.scores, abs=0.006)
            driver.run("byId('choices').value = ''; byId('compare').click();")
            driver.wait(
                "return [...document.querySelectorAll('.facts')].filter("
                "(f) => f.textContent.includes('score')).length == 3"
            )
            texts = driver.run(
                "return [...document.querySelectorAll('.text')].map((t) => t.textContent)"
            )
            assert texts == [o.text for o in engine.generate(["say a"] * 3, names)]
        finally:
            runner.should_exit = True
            thread.join()
