"""The files that deploy a server: they parse, their commands exist, and their probes are served."""

import configparser
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click import Command
from typer.main import get_command

from prompt_jax.cli.main import app
from prompt_jax.serve.guard import OPEN

FOLDER = Path(__file__).parents[1] / "launch" / "serve"


@pytest.fixture(scope="module")
def flags() -> set[str]:
    command: Command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {flag for option in command.params for flag in option.opts}


def named(arguments: list[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}


def test_the_manifest_runs_the_verb_and_probes_what_is_there(flags: set[str]) -> None:
    deployment, service = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert named(container["args"]) <= flags
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in OPEN
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {v["name"] for v in deployment["spec"]["template"]["spec"]["volumes"]}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    [pause] = [int(word) for word in container["lifecycle"]["preStop"]["exec"]["command"][1:]]
    [timeout] = [int(a.split("=")[1]) for a in container["args"] if a.startswith("--timeout")]
    spec = deployment["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= pause + timeout


def test_the_unit_runs_the_verb(flags: set[str]) -> None:
    text = (FOLDER / "prompt-jax-serve.service").read_text().replace("\\\n", " ")
    unit = configparser.RawConfigParser(strict=False)
    unit.read_string(text)
    program, verb, *rest = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, verb) == ("prompt-jax", "serve")
    assert named(rest) <= flags
    timeout = float(next(a.split("=")[1] for a in rest if a.startswith("--timeout")))
    assert float(unit["Service"]["TimeoutStopSec"]) > timeout


def test_the_image_runs_the_verb(flags: set[str]) -> None:
    text = (FOLDER / "Dockerfile").read_text()
    [entry] = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    program, verb, *rest = yaml.safe_load(entry)
    assert (program, verb) == ("prompt-jax", "serve")
    assert named(rest) <= flags
    assert "[serve]" in text and "/healthz" in text


@pytest.mark.slow
def test_the_page_from_train_to_an_openai_client_runs(tmp_path: Path) -> None:
    """Every command of docs/serving.md, with few steps and a free port."""
    page = (FOLDER.parents[1] / "docs" / "serving.md").read_text()

    def block(name: str) -> str:
        inner = page.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
        return re.sub(r"^```\w*$", "", inner, flags=re.MULTILINE)

    (tmp_path / "cli").write_text(f'#!/bin/sh\nexec {sys.executable} -m prompt_jax "$@"\n')
    (tmp_path / "cli").chmod(0o755)
    (tmp_path / "cli").rename(tmp_path / "prompt-jax")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    few = " --gin.TRAIN_STEPS=4 --gin.EVAL_PERIOD=4 --gin.Evaluation.max_examples=8"
    run(["bash", "-ec", block("train").strip() + few])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [
        *shlex.split(block("serve").replace("8000", port)),
        "--warm_up=",
        "--slots=4",
        "--input_length=64",
        "--timeout=600",
    ]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=log)
    try:
        ready = f"http://127.0.0.1:{port}/readyz"
        run(["curl", "-sf", "--retry", "600", "--retry-all-errors", "--retry-delay", "1", ready])
        said = run(["bash", "-ec", block("curl").replace("8000", port)])
        assert '"finish_reason"' in said and '"choice"' in said and '"embedding"' in said
        said = run([sys.executable, "-c", block("openai").replace("8000", port)])
        models, text, streamed = said.split("\n")
        assert models == "['nano', 'topic']" and text.strip() == streamed.strip()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events[:2] == ["listening", "ready"] and events[-2:] == ["draining", "closed"]
