"""What `tasks check` finds in files and in registered tasks."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
import seqio
from pyarrow import parquet

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.cli.task_check import check_jsonl, check_task
from prompt_jax.errors import UserError
from prompt_jax.tasks import text


@pytest.fixture
def backbone() -> SimpleNamespace:
    """A backbone as far as these functions look at it."""
    return SimpleNamespace(name="bytes-only", vocabulary=Vocabulary.bytes())


LINES = [
    '{"inputs": "good", "targets": "yes"}',
    '{"inputs": "good", "targets": "yes"}',
    "",
    '{"inputs": "good", "targets": "no"}',
    "not json",
    '{"inputs": "excellent", "targets": "yes"}',
    '{"inputs": " ", "targets": ""}',
    '{"inputs": "no target"}',
]


def test_check_counts_what_is_wrong(tmp_path, backbone):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(LINES))
    report = check_jsonl(str(path), backbone, input_length=5, target_length=4)
    assert report["errors"] == [
        f"{path}:5: not JSON (Expecting value at column 1); write one JSON object a line",
        f"{path}:8: no key 'targets'; the row has 'inputs'; "
        "name the right one: FILE?targets=COLUMN",
    ]
    assert report["rows"] == 5
    assert report["labels"] == {"yes": 3, "no": 1, "": 1}
    assert (report["duplicates"], report["conflicts"]) == (1, 1)
    assert report["empty"] == {"inputs": 1, "targets": 1}
    assert report["unit"] == "tokens"
    assert report["lengths"]["inputs"] == {"p50": 5, "p90": 10, "p95": 10, "p99": 10, "p100": 10}
    assert report["truncated"] == {"inputs": 20.0, "targets": 0.0}
    json.dumps(report)


def test_check_says_that_all_targets_are_one(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"inputs": "a", "targets": "same"}\n{"inputs": "b", "targets": "same"}\n')
    assert check_jsonl(str(path))["named"] == ["every target is 'same': there is nothing to learn"]


def test_check_without_a_backbone_counts_characters(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(LINES))
    report = check_jsonl(str(path))
    assert (report["unit"], report["lengths"]["inputs"]["p100"]) == ("characters", 9)
    assert report["truncated"] == {}
    with pytest.raises(UserError, match="is counted in tokens; give --backbone"):
        check_jsonl(str(path), input_length=5)


def test_check_of_many_targets_an_empty_and_a_missing_file(tmp_path):
    path = tmp_path / "free.jsonl"
    rows = [{"inputs": "a", "targets": f"text {i}"} for i in range(51)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check_jsonl(str(path))["labels"] is None
    path.write_text("")
    report = check_jsonl(str(path))
    assert report["errors"] == [f"{path}: no rows"]
    assert report["lengths"] == {"inputs": {}, "targets": {}}
    with pytest.raises(UserError, match="no such file of rows"):
        check_jsonl(str(tmp_path / "none.jsonl"))


def test_check_with_t5s_own_vocabulary(tmp_path, shared):
    vocabulary = Vocabulary.from_file(str(shared / "data" / "spm" / "t5.spiece.model"))
    path = tmp_path / "data.jsonl"
    path.write_text('{"inputs": "The house is wonderful.", "targets": "True"}\n')
    backbone = SimpleNamespace(name="t5", vocabulary=vocabulary)
    report = check_jsonl(str(path), backbone, input_length=5)
    assert report["lengths"]["inputs"]["p50"] == 6
    assert report["truncated"] == {"inputs": 100.0}


def test_rows_that_are_blank_or_too_long_are_named(tmp_path, backbone):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(LINES))
    report = check_jsonl(str(path), backbone, input_length=5, target_length=3)
    assert report["named"] == [
        f"{path}:7: 'inputs' is blank",
        f"{path}:7: 'targets' is blank",
        f"{path}:6: 'inputs' has 10 tokens, the limit is 5",
        f"{path}:1: 'targets' has 4 tokens, the limit is 3",
        f"{path}:2: 'targets' has 4 tokens, the limit is 3",
        f"{path}:6: 'targets' has 4 tokens, the limit is 3",
    ]


def test_inputs_that_stand_in_another_split_are_counted(tmp_path):
    for split, words in {"train": "abcc", "validation": "bcd", "test": "xy"}.items():
        rows = [json.dumps({"inputs": word, "targets": "t"}) for word in words]
        (tmp_path / f"w.{split}.jsonl").write_text("\n".join(rows))
    report = check_jsonl(str(tmp_path / "w.train.jsonl"))
    assert report["shared_inputs"] == {
        str(tmp_path / "w.validation.jsonl"): 2,
        str(tmp_path / "w.test.jsonl"): 0,
    }


CB = {
    "train": [
        ("It rains.", "It is wet.", "entailment"),
        ("", "", "contradiction"),
        ("It rains.", "It is wet.", "entailment"),
    ],
    "val": [("It rains.", "It is wet.", "neutral"), ("Sun.", "Moon.", "neutral")],
    "test": [("Sun.", "Moon.", None)],
}


@pytest.fixture
def cb(tmp_path: Path, monkeypatch) -> Path:
    """CB's official files, in small."""
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    folder = tmp_path / "superglue" / "CB"
    folder.mkdir(parents=True)
    for name, rows in CB.items():
        records = [{"premise": p, "hypothesis": h, "label": y} for p, h, y in rows]
        records = [
            r if r["label"] else {k: r[k] for k in ("premise", "hypothesis")} for r in records
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_a_task_of_official_files(cb, backbone):
    report = check_task("super_glue_cb", backbone, input_length=45, target_length=11)
    assert report["errors"] == report["absent"] == []
    train, _, test = report["splits"]
    assert (train["split"], train["rows"], train["source"]) == ("train", 3, f"{cb}/train.jsonl")
    assert (train["duplicates"], train["conflicts"]) == (1, 0)
    assert train["labels"] == {"entailment": 2, "contradiction": 1}
    assert (train["absent_labels"], train["unlabelled"]) == (["neutral"], 0)
    assert train["truncated"] == {"inputs": 0.0, "targets": pytest.approx(100 / 3)}
    place = f"super_glue_cb train row 2 of {cb}/train.jsonl"
    assert train["named"] == [
        f"{place}: 'targets' has 14 tokens, the limit is 11",
        "super_glue_cb train: 3 of 250 published rows",
    ]
    assert (test["unlabelled"], test["unknown_labels"]) == (1, {})
    assert test["named"] == ["super_glue_cb test: 1 of 250 published rows"]
    assert test["lengths"]["targets"]["p100"] == 0
    assert [(pair["splits"], pair["shared_inputs"]) for pair in report["between"]] == [
        ("train, validation", 1),
        ("validation, test", 1),
    ]
    assert report["between"][1]["first"] == (
        f"super_glue_cb validation row 2 of {cb}/val.jsonl = "
        f"super_glue_cb test row 1 of {cb}/test.jsonl"
    )
    json.dumps(report)


def test_what_is_wrong_with_a_task_is_named(cb):
    (cb / "train.jsonl").write_text('{"premise": "a", "hypothesis": "b", "label": "perhaps"}\n')
    (cb / "val.jsonl").write_text("")
    (cb / "test.jsonl").write_text('{"premise": "a"\n')
    report = check_task("super_glue_cb")
    assert [error.split(";")[0] for error in report["errors"]] == [
        f'super_glue_cb train: {cb}/train.jsonl:1: label "perhaps" is none of "entailment", '
        '"contradiction", "neutral"',
        f"super_glue_cb validation: {cb}/val.jsonl: no rows",
        f"super_glue_cb test: {cb}/test.jsonl:1: not JSON (Expecting ',' delimiter at column 16)",
    ]
    (cb / "train.jsonl").unlink()
    assert check_task("super_glue_cb")["absent"] == ["super_glue_cb train"]
    for name in ("val", "test"):
        (cb / f"{name}.jsonl").unlink()
    with pytest.raises(
        UserError, match=r"has no superglue/CB/train\.jsonl and no TFDS super_glue/cb"
    ):
        check_task("super_glue_cb")


def test_a_target_that_is_no_label_is_named(tmp_path):
    """A task of one's own may declare labels that its rows do not keep to."""

    def read(split: str) -> list[dict]:
        return [{"inputs": "a", "targets": "good"}, {"inputs": "b", "targets": "odd"}]

    source = text.RowsSource(read, ("train",), "made here")
    text.add_task("odd_labels", source, [], [], ("good", "bad"))
    try:
        report = check_task("odd_labels")
    finally:
        seqio.TaskRegistry.remove("odd_labels")
        text.CHOICES.pop("odd_labels")
    assert report["errors"] == [
        "odd_labels train row 2 of made here: target 'odd' is none of good, bad"
    ]
    assert report["splits"][0]["unknown_labels"] == {"odd": 1}


def test_a_source_is_read_once_a_load():
    """SeqIO asks for the rows and then, twice, for how many there are."""
    reads = []

    def read(split: str) -> list[dict]:
        reads.append(split)
        return [{"inputs": "a", "targets": "b"}]

    text.add_task("read_once", text.RowsSource(read, ("train",), "made here"), [], [], None)
    try:
        assert len(text.load_examples("read_once", "train")["read_once"]) == 1
        text.load_examples("read_once", "train")
    finally:
        seqio.TaskRegistry.remove("read_once")
    assert reads == ["train", "train"]


def test_parquet_in_place_of_jsonl(tmp_path):
    """The same splits, the same checks; a row that is wrong is named by its number."""
    rows = {"inputs": ["a", "b", "c"], "targets": ["x", "y", "x"], "n": [1, 2, 3]}
    paths = [str(tmp_path / f"w.{split}.parquet") for split in ("train", "validation")]
    for path in paths:
        parquet.write_table(pyarrow.table(rows), path)
    ((name, examples),) = text.load_examples(paths[0], "validation").items()
    assert name.startswith("jsonl:w:")
    assert examples[1] == {"inputs": "b", "targets": "y", "n": 2}
    report = check_jsonl(paths[0])
    assert (report["rows"], report["shared_inputs"]) == (3, {paths[1]: 3})
    parquet.write_table(pyarrow.table(rows | {"targets": ["x", None, "x"]}), paths[0])
    with pytest.raises(UserError, match=r"w\.train\.parquet:2: 'targets' is null, not a string"):
        text.load_examples(paths[0], "train")
    (tmp_path / "w.train.parquet").write_text("no")
    with pytest.raises(UserError, match=r"w\.train\.parquet: not Parquet"):
        text.load_examples(paths[0], "train")
