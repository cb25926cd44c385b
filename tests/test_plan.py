"""`--dry_run`: what would be done is said, and nothing is written."""

import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
from spot_library import library, runs  # noqa: F401

from prompt_jax.cli.main import main


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs a command with --dry_run --json in an empty folder, which stays empty."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*argv: str) -> dict:
        assert main([*argv, "--dry_run", "--json"]) == 0, capsys.readouterr().err
        assert list(folder.iterdir()) == []
        return json.loads(capsys.readouterr().out)

    return run


def test_train(report, tiny: Path) -> None:
    train = ("train", f"--gin_file={tiny}/run.gin", "--model_dir=D")
    (plan,) = report(*train, "--gin.TRAIN_STEPS=9", "--gin.EVAL_PERIOD=4")["plans"]
    assert (plan["steps"], plan["evaluations"], plan["begins"]) == (9, 4, "at step 0")
    (shape,) = [shape for name, shape in plan["trained"].items() if name.startswith("encoder")]
    length, width = shape
    assert plan["trained_parameters"] == sum(a * b for a, b in plan["trained"].values())
    rows, columns = plan["batch"]["encoder_input_tokens"]
    assert columns > length and rows >= 1 and width > 1
    assert "per device" in plan["memory"] and "prompt/last/" in plan["files"]
    whole, *plans = report(*train, "--seeds=3,5")["plans"]
    assert [plan["model_dir"] for plan in plans] == ["D/seed_3", "D/seed_5"]
    assert whole["steps_in_all"] == 2 * plans[0]["steps"] and "2 members" in plans[0]["memory"]


def left_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_planned(files: set[str], planned: list[str]) -> None:
    """Every file is planned, and every entry of the plan is there."""
    patterns = {name.replace("STEP", "*") + "*" * name.endswith("/") for name in planned}
    matched = {p: {file for file in files if fnmatch(file, p)} for p in patterns}
    assert set().union(*matched.values()) == files
    assert [p for p, of_pattern in matched.items() if not of_pattern] == []


@pytest.mark.slow
def test_a_run_writes_what_was_planned(report, tiny: Path, tmp_path: Path) -> None:
    train = ["train", f"--gin_file={tiny}/run.gin", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2"]
    train += ["--gin.EXPORT_TO='npy'", "--batch_digests", "--profile", "--track=mlflow"]
    (plan,) = report(*train, "--model_dir=D")["plans"]
    assert "profile/" not in plan["files"] and "trackers.json" in plan["files"]
    assert main([*train[:-1], f"--model_dir={tmp_path}/D"]) == 0
    assert_planned(left_in(tmp_path / "D"), [n for n in plan["files"] if n != "trackers.json"])


@pytest.mark.slow
def test_a_farm_writes_what_was_planned(report, tiny: Path, tmp_path: Path, capsys) -> None:
    train = ["train", f"--gin_file={tiny}/run.gin", "--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2"]
    train += ["--gin.FARM={'SEED': [0, 1]}"]
    whole, *members = report(*train, "--model_dir=D")["plans"]
    assert (whole["members"], whole["at_once"], whole["steps_in_all"]) == (2, 2, 4)
    assert main([*train, f"--model_dir={tmp_path}/D"]) == 0
    planned = list(whole["files"])
    for member in members:
        place = member["model_dir"].removeprefix("D/")
        planned += [f"{place}/{name}" for name in member["files"]]
    assert_planned(left_in(tmp_path / "D"), planned)
    capsys.readouterr()
    assert main([*train, "--model_dir=D", "--dry_run"]) == 0
    assert "every member" in capsys.readouterr().out


def test_a_program_of_stages(report) -> None:
    first, second = report("train", "--gin_file=runs/promot_nano.gin", "--model_dir=D")["plans"]
    assert (first["method"], second["method"]) == ("SoftPrompt", "FrozenPrompts")
    assert second["model_dir"] == "D/stage_2" and second["trained"] == "the whole model"


def test_spot_and_eval(report, tiny: Path, runs: Path, library: Path) -> None:  # noqa: F811
    flags = (f"--gin_file={tiny}/run.gin", "--model_dir=D", "--gin.SoftPrompt.decoder_length=2")
    (plan,) = report("spot", "embed", *flags, "--library=L", "--name=third")["plans"]
    assert plan["entry"] == "L/third/"
    assert_planned(left_in(runs / "run_one"), plan["files"])
    transfer = ("spot", "transfer", *flags, f"--library={library}", "--strategy=best,mixture")
    control, rest = report(*transfer, "--k=9")["plans"]
    assert rest["runs"] == {"control": 1, "best": 2, "mixture": 2}
    assert rest["steps_in_all"] == 5 * control["steps"]
    prompt, task = f"{library}/one/prompt", f"{tiny}/toy.validation.jsonl"
    evaluation = ("eval", f"--backbone=files:{tiny}/backbone", f"--prompt={prompt}")
    evaluation += (f"--task={task}", "--split=validation", "--predictions=p.jsonl")
    (plan,) = report(*evaluation, "--batch_size=3")["plans"]
    (rows,) = plan["examples"].values()
    assert plan["batches"] == -(-rows // 3) and plan["files"] == ["p.jsonl"]
