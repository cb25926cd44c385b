"""The dashboard of live runs: one frame of folders that runs left, at two widths."""

import io
import json

import pytest
from rich.console import Console
from run_folders import write_run

from prompt_jax.cli.main import main
from prompt_jax.inspect import watch
from prompt_jax.inspect.runs import find_runs


@pytest.fixture
def farm(tmp_path):
    """Three members, of which the last is at step 30 of 60."""
    for name in ("a", "b", "half"):
        run = write_run(tmp_path / "farm" / "members" / name)
    path = run / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= 30]
    path.write_text("\n".join(lines) + "\n")
    return tmp_path / "farm"


def text_of(folder, width: int, later: float = 0.0) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    runs = find_runs(str(folder))
    now = (runs[-1].folder / "metrics.jsonl").stat().mtime + later
    console.print(watch.frame(runs, "farm", width, now))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 160])
def test_a_frame_fits_and_says_how_far_runs_are(farm, width):
    lines = text_of(farm, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "3 runs, 1 not finished" in text
    assert "30/60" in text and "60/60" in text and "done" in text and "running" in text
    assert "ETA 0:06" in text, "thirty steps of 0.2 seconds"
    assert "21.0 % of peak" in text and "tokens/s" in text and "host 1.3 GiB" in text
    assert "▇" in text or "█" in text


def test_a_run_that_says_nothing_is_marked(farm):
    assert "silent 10:00" in "\n".join(text_of(farm, 80, later=600))


def test_one_frame_by_the_program(farm, capsys):
    assert main(["watch", str(farm), "--once"]) == 0
    assert "farm/members/half" in capsys.readouterr().out
    assert main(["watch", str(farm / "members" / "a" / "prompt"), "--once"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_folder_that_does_not_come_is_said(farm, capsys, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.3)
    there = farm.parent / "later"
    assert main(["watch", str(there), "--seconds=0.1"]) == 2
    out, err = capsys.readouterr()
    out = "".join(out.split())  # lines are wrapped
    assert f"{there}:nosuchfolder" in out and "(waitingforit)" in out
    assert err.splitlines()[-1].endswith(
        f"{there}: no such folder; give the --model_dir of one, or a folder of runs"
    )


def test_runs_of_any_names_in_one_folder_are_found(farm):
    write_run(farm.parent / "alone")
    names = [run.name.removeprefix(farm.parent.name) for run in find_runs(str(farm.parent))]
    assert names == ["/alone", "/farm/members/a", "/farm/members/b", "/farm/members/half"]
