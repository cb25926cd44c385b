"""`--dry_run`: what would be done is said, and nothing is written."""

import json
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
    plans = report(*train, "--seeds=3,5")["plans"]
    assert [plan["model_dir"] for plan in plans] == ["D/seed_3", "D/seed_5"]


def test_a_program_of_stages(report) -> None:
    first, second = report("train", "--gin_file=runs/promot_nano.gin", "--model_dir=D")["plans"]
    assert (first["method"], second["method"]) == ("SoftPrompt", "FrozenPrompts")
    assert second["model_dir"] == "D/stage_2" and second["trained"] == "the whole model"


def test_spot_and_eval(report, tiny: Path, library: Path) -> None:  # noqa: F811
    flags = (f"--gin_file={tiny}/run.gin", "--model_dir=D", "--gin.SoftPrompt.decoder_length=2")
    (plan,) = report("spot", "embed", *flags, "--library=L", "--name=third")["plans"]
    assert plan["entry"] == "L/third/"
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
