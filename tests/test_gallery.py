"""`gallery`: shipped prompts are whole and score as their cards say; folders of others too."""

import json
import re
from pathlib import Path

import pytest

from prompt_jax.cli.main import main
from prompt_jax.prompt import gallery


def listed(capsys, *flags: str) -> list[dict]:
    assert main(["gallery", "list", "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_shipped_prompts_have_cards(capsys) -> None:
    rows = {row["name"]: row for row in listed(capsys)}
    assert "nano_empath_topic" in rows and len(rows) >= 2
    for name, row in rows.items():
        card = (gallery.shelf() / name / gallery.CARD).read_text()
        assert f"`{row['backbone']}`" in card and f"`{row['task']}`" in card
        assert row["score"] and row["score"] in card
        assert (row["rows"], row["width"]) == ("decoder 10, encoder 20", 128)


@pytest.mark.slow
def test_a_prompt_that_was_fetched_scores_what_its_card_says(tmp_path: Path, capsys) -> None:
    output = str(tmp_path / "topic")
    assert main(["gallery", "get", "nano_empath_topic", f"--output={output}"]) == 0
    capsys.readouterr()
    evaluation = ["eval", f"--prompt={output}", "--backbone=nano", "--task=empath_topic"]
    assert main([*evaluation, "--split=validation", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["accuracy"]
    (said,) = re.findall(r"accuracy ([\d.]+) on", (Path(output) / gallery.CARD).read_text())
    assert f"{score:.1f}" == said


def test_published_prompts_of_others(shared: Path, tmp_path: Path, capsys) -> None:
    """The three of T5 1.1 LM-adapted base that google-research/prompt-tuning has released."""
    folder = shared / "data" / "prompts" / "t5_1_1_lm100k_base"
    rows = listed(capsys, f"--from={folder}")
    assert [(r["name"], r["rows"], r["width"]) for r in rows] == [
        (name, "encoder 100", 768) for name in ("mrpc", "rte", "sst2")
    ]
    output = tmp_path / "sst2.npy"
    assert main(["gallery", "get", "sst2", f"--from={folder}", f"--output={output}"]) == 0
    assert output.read_bytes() == (folder / "sst2.npy").read_bytes()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["get", "nano_empath_topics", "--output=x"], "did you mean nano_empath_topic?"),
        (["get", "nano_empath_topic", "--output=."], "exists already"),
        (["list", "--from=nowhere"], "no such folder"),
        (["list", "--from=."], "holds neither an artefact nor a .npy"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch, capsys, flags: list[str], part: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gallery", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
