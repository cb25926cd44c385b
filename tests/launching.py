"""What the tests of the launchers share."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
BIN = Path(sys.executable).parent
# What no shell may touch.
NASTY = """TASK='it is "my" $HOME `id` \\\\ * ; task'"""
JOB = """
name = "small"
gin_files = ["run.gin"]
model_dir = "runs/a b"
"""
PLACES = """
[gcloud]
project = "p"
zone = "z"
runtime_version = "v"
[xpk]
project = "p"
zone = "z"
cluster = "c"
image = "registry/image"
[sky]
[slurm]
time = "1:00:00"
[xm]
"""


def import_job():
    """The module launch/job.py."""
    spec = importlib.util.spec_from_file_location("job", LAUNCH / "job.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["job"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def call(launcher: str, *arguments: str, cwd: Path = ROOT, path: Path | None = None):
    """Runs a launcher; `path` is a folder of programs that come before all others."""
    program = [sys.executable] if launcher.endswith(".py") else ["bash"]
    before = f"{path}{os.pathsep}" if path else ""
    env = {**os.environ, "USER": "me", "PATH": f"{before}{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [*program, str(LAUNCH / launcher), *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def job(tmp_path: Path):
    """Writes a description into an empty folder and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "job.toml").write_text(text, encoding="utf-8")
        return str(tmp_path / "job.toml")

    return write


@pytest.fixture
def stub(tmp_path: Path):
    """Writes a program of bash; what it is called with goes to `calls`, one call a line."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(name: str, body: str) -> Path:
        log = f'(printf %s {name}; printf " %q" "$@"; echo) >>{shlex.quote(str(tmp_path))}/calls\n'
        (folder / name).write_text(f"#!/usr/bin/env bash\n{log}{body}\n")
        (folder / name).chmod(0o755)
        return folder

    return write
