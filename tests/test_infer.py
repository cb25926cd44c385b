"""`infer`: order, resumption, shards, and outputs that are not its own."""

import json
from pathlib import Path

import pytest

from prompt_jax.answer.answerer import Answer, Answerer, Answering
from prompt_jax.errors import Preempted, UserError
from prompt_jax.evaluate import infer as module
from prompt_jax.evaluate.infer import infer, shard_of, windows
from prompt_jax.evaluate.opening import opening
from prompt_jax.hosts.stop import Stopped


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 1)


@pytest.fixture
def rows(tmp_path) -> Path:
    """Twenty rows of unequal lengths, with a key of their own."""
    lines = [{"inputs": f"say {'a' * (i * 7 % 20)} {i}", "id": f"r{i}"} for i in range(20)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run(tiny, rows: Path, output: Path, **options):
    return infer(
        opening(f"files:{tiny}/backbone", [], input_length=28, target_length=3, dtype="float32"),
        str(rows),
        str(output),
        batch_size=8,
        **options,
    )


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_keep_their_order_and_a_run_goes_on(tiny, rows, tmp_path, capsys, monkeypatch):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    report = run(tiny, rows, whole, show=True)
    assert (report["rows"], report["answered"], report["skipped"]) == (20, 20, 0)
    assert "rows 20/20" in capsys.readouterr().err
    told = read(whole)
    assert [row["row"] for row in told] == list(range(20))
    assert [row["id"] for row in told] == [f"r{i}" for i in range(20)]
    assert {"prediction", "score"} < set(told[0])

    lines = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:8]) + lines[8][:10])  # killed while the ninth was written
    settings = whole.with_name("whole.jsonl.settings.json").read_text()
    cut.with_name("cut.jsonl.settings.json").write_text(settings)
    report = run(tiny, rows, cut)
    assert (report["answered"], report["skipped"]) == (12, 8)
    assert [row["prediction"] for row in read(cut)] == [row["prediction"] for row in told]

    def nothing_to_do(*args):
        raise AssertionError("answered again")

    monkeypatch.setattr(Answerer, "batch", nothing_to_do)
    assert run(tiny, rows, cut)["skipped"] == 20

    with pytest.raises(UserError, match=r"was made with how = .*another --output"):
        run(tiny, rows, cut, answering=Answering(beams=2))
    cut.write_bytes(b"".join([lines[1], *lines[1:8]]))
    with pytest.raises(UserError, match=r"cut.jsonl:1: not row 0 of the input"):
        run(tiny, rows, cut)


def test_shards_put_together_are_the_whole(tiny, rows, tmp_path):
    for shard in ("0/3", "1/3", "2/3"):
        run(
            tiny,
            rows,
            tmp_path / "out.jsonl",
            shard=shard,
            answering=Answering(mode="rank"),
            choices=("a", "b"),
        )
    files = sorted(tmp_path.glob("out-*.jsonl"))
    assert [f.name for f in files] == [f"out-0000{i}-of-00003.jsonl" for i in range(3)]
    told = [row for file in files for row in read(file)]
    assert [row["row"] for row in told] == list(range(20))
    assert all(set(row["scores"]) == {"a", "b"} for row in told)
    assert all(row["prediction"] == max(row["scores"], key=row["scores"].get) for row in told)


def test_a_stopped_run_keeps_finished_windows(tiny, rows, tmp_path, monkeypatch):
    asked = iter([False, False, True])

    def check(self):
        if next(asked):
            raise Stopped

    monkeypatch.setattr("prompt_jax.hosts.stop.Stop.check", check)
    output = tmp_path / "out.jsonl"
    with pytest.raises(Preempted, match=r"preempted: 8 of 20 rows are in .*out.jsonl"):
        run(tiny, rows, output)
    assert len(read(output)) == 8


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ('{"input": "x"}', {}, r"rows.jsonl:2: no key 'inputs'"),
        ('{"inputs": "x", "score": 3}', {}, r"rows.jsonl:2: has 'score', a field that"),
        ('{"inputs": "x", "choices": []}', {"mode": "rank"}, r"rows.jsonl:2: no choices"),
        ('{"inputs": "x", "choices": [1]}', {"mode": "rank"}, r"rows.jsonl:2: 'choices' is 1"),
    ],
)
def test_a_bad_row_is_named(tiny, tmp_path, line, options, message):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"inputs": "fine", "choices": ["a"]}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        run(tiny, file, tmp_path / "out.jsonl", answering=Answering(**options))


def test_a_file_of_something_else_is_left_alone(tiny, rows, tmp_path):
    with pytest.raises(UserError, match="exists, but the settings that belong beside it do not"):
        run(tiny, rows, rows)
    assert len(read(rows)) == 20


@pytest.mark.parametrize("shard", ["2/2", "1", "a/2", "-1/2"])
def test_a_shard_is_one_of_n(shard):
    with pytest.raises(UserError, match="give I/N"):
        shard_of(shard, 10, "out.jsonl")


def test_shards_cover_every_row_once():
    parts = [shard_of(f"{i}/7", 23, "out")[:2] for i in range(7)]
    assert [row for first, last in parts for row in range(first, last)] == list(range(23))
    assert shard_of("3/7", 23, "out")[2] == "out-00003-of-00007"


def test_windows_are_whole_and_in_order():
    answers = [Answer(str(i), 0.0) for i in range(10)]
    batches = [([3, 0], 4), ([1, 2], 4), ([5, 4], 4), ([7, 6], 4), ([9, 8], 4)]
    stream = ((rows, [answers[i] for i in rows]) for rows, _ in batches)
    found = [(start, [a.text for a in said]) for start, said in windows(stream, 4)]
    assert found == [(0, ["0", "1", "2", "3"]), (4, ["4", "5", "6", "7"]), (8, ["8", "9"])]
