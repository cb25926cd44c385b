"""`spot transfer`: what it refuses before it trains, its strategies, and its report."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from spot_library import SHORT

from prompt_jax.cli.main import main
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.library import Entry, Library
from prompt_jax.run.state import Checkpoints
from prompt_jax.transfer import similarity as spot
from prompt_jax.transfer.embed import keeps
from prompt_jax.transfer.targets import with_earlier


def fails(capsys, *argv: str) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.fixture
def transfer(tiny, library, tmp_path, capsys):
    """Runs `spot transfer` of the tiny task with some flags; (the report, its folder)."""

    def run(*flags: str) -> tuple[dict, Path]:
        argv = [
            "spot",
            "transfer",
            f"--gin_file={tiny}/run.gin",
            f"--library={library}",
            f"--model_dir={tmp_path}/t",
            *(f"--gin.{b}" for b in SHORT),
        ]
        assert main([*argv, *flags, "--json"]) == 0
        return json.loads(capsys.readouterr().out), tmp_path / "t"

    return run


@pytest.mark.slow
def test_transfer_from_the_nearest_source(transfer, library, tmp_path) -> None:
    told, folder = transfer("--k=1", f"--picture={tmp_path}/gains.png")
    control, nearest = told["runs"]
    assert (control["strategy"], control["gain"], nearest["strategy"]) == ("control", 0.0, "best")
    assert nearest["init"] == told["ranking"][0]["source"]
    assert nearest["gain"] == nearest["accuracy"] - control["accuracy"]
    manifest = load_prompt(f"{nearest['model_dir']}/prompt/best").manifest
    assert manifest["settings"]["init"]["path"] == f"{library}/{nearest['init']}/prompt"
    assert sum(row["best"] for row in told["runs"]) == 1
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "transfer.json").read_text()) == told

    # A better run of an earlier call stays: here a copy of the control with another score.
    mixed = folder / "mixture_of_both"
    shutil.copytree(folder / "control", mixed)
    records = [json.loads(line) for line in (mixed / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps({**r, "accuracy": 101.0}) for r in records if r["kind"] == "eval"]
    (mixed / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    row = {**nearest, "init": "both", "strategy": "mixture", "model_dir": f"elsewhere/{mixed.name}"}
    earlier = {**told, "runs": [*told["runs"], row]}
    (folder / "transfer.json").write_text(json.dumps(earlier))
    again, _ = transfer("--k=1")
    assert again["runs"][0] == {**control, "best": False}
    assert [row["init"] for row in again["runs"]] == [control["init"], nearest["init"], "both"]
    assert [row["best"] for row in again["runs"]] == [False, False, True]
    assert again["runs"][2]["gain"] == 101.0 - control["accuracy"]
    assert again["runs"][2]["model_dir"] == str(mixed)


@pytest.mark.slow
def test_transfer_runs_every_strategy_and_then_nothing(transfer, library) -> None:
    flags = ("--k=2", "--strategy=best,average,mixture")
    transfer("--k=2", "--strategy=best,average")
    told, folder = transfer("--k=2", "--strategy=mixture")
    kinds = ["control", "best", "best", "average", "mixture"]
    assert [row["strategy"] for row in told["runs"]] == kinds
    assert [row["source"] for row in told["ranking"]] == [row["init"] for row in told["runs"][1:3]]
    (made,) = folder.glob("average_*_prompt")
    parts = load_prompt(made).manifest["average_of"]
    values = [Library(str(library)).read(part["source"]).value() for part in parts]
    alphas = [part["weight"] for part in parts]
    np.testing.assert_allclose(load_prompt(made).array, spot.average(values, alphas)["encoder"])
    (together,) = folder.glob("mixture_*_together/prompt/best/manifest.json")
    assert json.loads(together.read_text())["task"].count("+") == 2
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("prompt.safetensors")}
    assert transfer(*flags)[0] == told
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/prompt/**/prompt.safetensors")}
    assert kept.items() <= written.items()


def test_transfer_is_refused_before_it_trains(tiny, library, tmp_path, capsys) -> None:
    asked = [
        "spot",
        "transfer",
        f"--gin_file={tiny}/run.gin",
        f"--library={library}",
        f"--model_dir={tmp_path}/t",
    ]
    assert "BEST_METRIC = None: the best of several runs is chosen; name a metric" in fails(
        capsys, *asked, "--gin.BEST_METRIC=None"
    )
    assert "is FullTuning, whose rows do not begin with a saved prompt's" in fails(
        capsys, *asked, "--gin.Train.method=@FullTuning()"
    )
    assert not (tmp_path / "t").exists()


# How the entries differ from the control of a task, or a flag of the control, and what is said.
UNFIT = [
    (lambda e, task: None, "--gin.PROMPT_LENGTH=5", "has rows encoder 4 decoder 2, not encoder 5"),
    (lambda e, task: e["backbone"].update(digest="f" * 64), None, "'one': tuned for"),
    (lambda e, task: e.update(tokenizer="f" * 64), None, "'one': tuned with another tokenizer"),
    (lambda e, task: e.update(task=task), None, "'one': of the target itself; embed sources of"),
    (lambda e, task: None, "--early_step=3", "--early_step=3: the control will not keep that"),
    (lambda e, task: None, "--early_step=4", "(TRAIN_STEPS = 4, CHECKPOINT_PERIOD = 2, Checkp"),
    (lambda e, task: e.update(early_step=3), None, "--early_step=3, that of the embeddings in"),
]


@pytest.mark.parametrize(("change", "flag", "message"), UNFIT)
def test_a_library_that_does_not_fit_is_refused_before_the_control_is_trained(
    tiny, library, tmp_path, capsys, change, flag, message
) -> None:
    shutil.copytree(library, tmp_path / "library")
    for path in tmp_path.glob("library/*/entry.json"):
        facts = json.loads(path.read_text())
        change(facts, f"{tiny}/toy.train.jsonl")
        path.write_text(json.dumps(facts))
    argv = [
        "spot",
        "transfer",
        f"--gin_file={tiny}/run.gin",
        f"--library={tmp_path}/library",
        f"--model_dir={tmp_path}/t",
        *(f"--gin.{b}" for b in SHORT),
    ]
    assert message in fails(capsys, *argv, *filter(None, [flag]))
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("keep_period", "patience", "kept"),
    [(None, None, [8]), (4, None, [4, 8]), (3, None, [6, 8]), (None, 1, [2, 4, 6, 8])],
)
def test_which_early_checkpoints_a_run_keeps(keep_period, patience, kept) -> None:
    checkpoints = Checkpoints(period=2, keep=2, keep_period=keep_period)
    run = SimpleNamespace(checkpoints=checkpoints, steps=9, patience=patience)
    assert [step for step in range(1, 11) if keeps(run, step)] == kept


ENTRIES = [
    Entry("", {"name": name, "sha256": {"prompt": digest}})
    for name, digest in (("one", "aaa"), ("two", "bbb"))
]
RANKING = [{"source": "one", "pairs": 0.5}, {"source": "two", "pairs": 0.25}]
REPORT = {"target": "t", "control": "ccc", "similarity": "pairs", "ranking": RANKING}


def row(folder: str, strategy: str = "control", **sources: str) -> dict:
    init = next(iter(sources), "own")
    return {"init": init, "strategy": strategy, "model_dir": folder, "sources": sources}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, ["control", "from_two", "from_one", "mixture"]),
        ({"target": "u"}, ["control", "from_one"]),
        ({"control": "ddd"}, ["control", "from_one"]),
    ],
)
def test_which_runs_of_an_earlier_report_stay(tmp_path, change, kept) -> None:
    """Not a run of another control, of a prompt that the library has no more, or that is gone."""
    names = ("control", "from_two", "from_one", "mixture", "replaced", "gone")
    for name in names[:-1]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0, "kind": "eval"}\n')
    rows = [
        row("D/control"),
        row("D/from_two", "best", two="bbb"),
        row("D/from_one", "best", one="aaa"),
        row("D/mixture", "mixture", one="aaa", two="bbb"),
        row("D/replaced", "best", one="eee"),
        row("D/gone", "best", two="bbb"),
    ]
    now = [row(f"{tmp_path}/control"), row(f"{tmp_path}/from_one", "best", one="aaa")]
    found = with_earlier(now, {**REPORT, **change, "runs": rows}, REPORT, ENTRIES)
    assert [run["model_dir"] for run in found] == [f"{tmp_path}/{name}" for name in kept]
    near = {"control": None, "from_two": 0.25, "from_one": 0.5, "mixture": None}
    assert [run["similarity"] for run in found] == [near[name] for name in kept]


def test_a_damaged_report_is_refused_before_the_control_is_trained(
    tiny, library, tmp_path, capsys
) -> None:
    (tmp_path / "transfer.json").write_text("{")
    argv = [
        "spot",
        "transfer",
        f"--gin_file={tiny}/run.gin",
        f"--library={library}",
        f"--model_dir={tmp_path}",
        *(f"--gin.{b}" for b in SHORT),
    ]
    line = fails(capsys, *argv)
    assert "transfer.json" in line and "what is trained stays" in line
    assert not (tmp_path / "control").exists()
