"""Files of rows in the formats and under the names that people have them: tables, gzip, splits in
files beside each other and in folders, other columns, labels."""

import gzip
import json

import pyarrow
import pytest
import seqio
from pyarrow import parquet

from prompt_jax.cli.main import main
from prompt_jax.data import named
from prompt_jax.errors import UserError
from prompt_jax.jsonl import read_jsonl, stream_jsonl
from prompt_jax.splits import split_files
from prompt_jax.tasks import text

ROWS = [{"inputs": f"row {n}", "targets": "even" if n % 2 == 0 else "odd"} for n in range(8)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; tasks that are registered in it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    text.import_bundled()
    before = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    choices = dict(text.CHOICES)
    yield tmp_path
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        for name in set(registry.names()) - before:
            registry.remove(name)
    text.CHOICES.clear()
    text.CHOICES.update(choices)


def jsonl(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


def gzipped(content: bytes) -> bytes:
    """The same bytes in every process: no time stands in them, so tests have the same names."""
    return gzip.compress(content, mtime=0)


TABLE = 'inputs,targets,n\r\n"say ""no"", please",a,1\r\n"two\nlines",b,2\r\n\r\nplain,a,3\r\n'


def parted(mark: str) -> str:
    """The table with another mark between its cells."""
    return TABLE.replace(",", mark).replace(f'""{mark}', '"",')


READ = [
    {"inputs": 'say "no", please', "targets": "a", "n": "1"},
    {"inputs": "two\nlines", "targets": "b", "n": "2"},
    {"inputs": "plain", "targets": "a", "n": "3"},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", TABLE),
        ("t.csv.gz", gzipped(TABLE.encode())),
        ("t.csv", "\ufeff" + TABLE),
        ("t.csv", parted(";")),
        ("t.csv", parted("|")),
        ("t.csv", parted("\t")),
        ("t.csv", "sep=;\n" + parted(";")),
        (
            "t.tsv",
            TABLE.replace('""', '"')
            .replace('"say', "say")
            .replace('please"', "please")
            .replace(",", "\t")
            .replace('"\t please', '", please'),
        ),
        ("t.tsv.gz", gzipped(TABLE.replace(",", "\t").replace('""\t', '"",').encode())),
        ("t.json", json.dumps(READ, indent=2)),
        ("t.json", jsonl(READ)),
        ("t.jsonl.gz", gzipped(jsonl(READ).encode())),
        ("t.ndjson", jsonl(READ)),
        ("T.JSONL", jsonl(READ)),
        ("T.Csv.GZ", gzipped(TABLE.encode())),
        ("mac.jsonl", jsonl(READ).replace("\n", "\r")),
        ("mac.jsonl.gz", gzipped(jsonl(READ).replace("\n", "\r").encode())),
    ],
)
def test_every_format_gives_the_same_rows(folder, name, content):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    assert read_jsonl(name) == READ


def test_tables_are_read_row_by_row_and_only_line_ends_end_a_line(folder):
    (folder / "t.csv").write_bytes(b"inputs,targets\na,b\n\xff,c\n")
    (folder / "t.tsv").write_text('inputs\ttargets\n"a\u2028b\x0c\tc\n')
    (folder / "mac.csv").write_bytes(b"inputs,targets\ra,b\rc,d\r")
    assert next(stream_jsonl("t.csv")) == {"inputs": "a", "targets": "b"}
    assert read_jsonl("t.tsv") == [{"inputs": '"a\u2028b\x0c', "targets": "c"}]
    assert [row["targets"] for row in read_jsonl("mac.csv")] == ["b", "d"]


def test_quotes_of_a_tsv_that_is_not_quoted_are_text(folder):
    (folder / "t.tsv").write_text('inputs\ttargets\n"No" he said\ta\n"open\tb\n')
    assert [row["inputs"] for row in read_jsonl("t.tsv")] == ['"No" he said', '"open']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"inputs,targets\na,b\na,b,c\n", r"t\.csv:3: 3 cells under the 2 .*holds a ','"),
        ("t.csv", b'inputs,targets\n"a,b\nc,d\n', r"t\.csv:\d: not CSV \(unexpected end of data\)"),
        ("t.csv", b"inputs,inputs\na,b\n", r"t\.csv:1: two columns are called 'inputs'"),
        ("t.csv", b"inputs,targets\na,b\n\xff,b\n", r"t\.csv:3: not UTF-8"),
        ("t.csv", b"text,label\na,b\n", r"t\.csv:2: no key 'inputs'; .*FILE\?inputs=COLUMN"),
        ("t.csv", b"inputs,targets\n", r"t\.csv: no rows"),
        ("mac.jsonl", b'{"inputs": "a", "targets": "b"}\r{"inputs": 1}\r', r"mac\.jsonl:2: "),
        ("t.csv", b"", r"t\.csv: no rows"),
        ("t.tsv", b"inputs\ttargets\na\n", r"t\.tsv:2: 1 cells under the 2 .*holds a tab"),
        (
            "t.json",
            b'[{"inputs": "a", "targets": "b"}, 3]',
            r"t\.json:2: a JSON int, not an object",
        ),
        ("t.json", b"[", r"t\.json: "),
        ("t.csv.gz", gzipped(b"inputs,targets\na,b\n" * 90)[:-9], r"t\.csv\.gz: cut short"),
        ("t.csv", "inputs,targets\n".encode("utf-16"), r"t\.csv: UTF-16; save"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_jsonl(name)


def test_other_columns_are_read_as_inputs_and_targets(folder):
    (folder / "r.jsonl").write_text(
        jsonl([{"text": "a", "label": 0, "inputs": "not this", "n": 1}])
    )
    assert read_jsonl("r.jsonl?inputs=text&targets=label") == [
        {"inputs": "a", "targets": "0", "n": 1}
    ]
    (folder / "t.csv").write_text("My text,label\na,b\n")
    assert read_jsonl("t.csv?inputs=My%20text&targets=label")[0]["inputs"] == "a"
    for name, message in (
        ("t.csv?inputs=text&targets=label", r"t\.csv:2: no column 'text'; it has 'My text'"),
        ("t.csv?input=text", r"t\.csv\?input=text: 'input=text' is not a column; write \?inputs="),
        ("t.csv?inputs=", r"'inputs=' is not a column"),
        ("u.csv?inputs=text", r"u\.csv: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            read_jsonl(name)
    (folder / "b.jsonl").write_text('{"text": "a", "label": true}\n{"text": \n')
    with pytest.raises(UserError, match=r"b\.jsonl:1: 'label' is true, not a string"):
        read_jsonl("b.jsonl?inputs=text&targets=label")


def test_class_ids_of_datasets_are_the_names_of_the_classes(folder):
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    info = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(info), "h.parquet")
    rows = read_jsonl("h.parquet?inputs=text&targets=label")
    assert [row["targets"] for row in rows] == ["pos", "neg", "<unk>"]


@pytest.mark.parametrize(
    ("given", "files", "splits"),
    [
        ("train.jsonl", "train.jsonl validation.jsonl test.jsonl", "1 1 1"),
        ("train.csv", "train.csv dev.csv test_predictions.csv", "1 1 0"),
        (
            "tickets_train.tsv",
            "tickets_train.tsv tickets_validation.tsv.gz other_test.tsv",
            "1 1 0",
        ),
        ("t.train.jsonl", "t.train.jsonl t.dev.jsonl t.test.jsonl validation.jsonl", "1 1 1"),
        ("t.csv", "t.csv t.valid.csv u.test.csv", "1 1 0"),
        ("train.jsonl", "train.jsonl val.jsonl val.csv", "1 1 0"),
        (
            "train-00001-of-00002.parquet",
            "train-00000-of-00002.parquet train-00001-of-00002.parquet "
            "validation-00000-of-00001.parquet",
            "2 1 0",
        ),
        ("dev.jsonl", "train.jsonl dev.jsonl test.jsonl", "0 1 0"),
        ("t-test.jsonl", "t-train.jsonl t-test.jsonl", "0 0 1"),
        ("contest.jsonl", "contest.jsonl latest.jsonl", "1 0 0"),
        (".", "train.csv dev.csv readme.md", "1 1 0"),
        (
            ".",
            "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet "
            "data/test-00000-of-00001.parquet",
            "2 0 1",
        ),
        (".", "train/a.jsonl test/a.jsonl", "1 0 1"),
        (".", "train/b.csv train/a.csv Val/x.csv Val/train.csv notes.txt", "2 2 0"),
        ("Train.JSONL", "Train.JSONL Validation.JSONL TEST.JSONL", "1 1 1"),
        ("t.ndjson", "t.ndjson t.dev.ndjson", "1 1 0"),
        (".", "tickets.jsonl", "1 0 0"),
    ],
)
def test_splits_are_found_by_name(folder, given, files, splits):
    for name in files.split():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    found = split_files(f"{given}?inputs=a")
    sizes = [len(found.get(split, ())) for split in ("train", "validation", "test")]
    assert " ".join(map(str, sizes)) == splits
    assert all(file.endswith("?inputs=a") for some in found.values() for file in some)


def test_what_is_no_split_is_refused(folder):
    with pytest.raises(UserError, match=r"a folder without files of rows; it wants train\.jsonl"):
        split_files(".")
    for name in ("train.csv", "train.jsonl"):
        (folder / name).write_text("x")
    with pytest.raises(UserError, match=r"train\.csv, train\.jsonl could each be the split"):
        split_files(".")
    for name in ("train.csv", "train.jsonl"):
        (folder / name).unlink()
    (folder / "train").mkdir()
    for name in ("a.csv", "b.jsonl"):
        (folder / "train" / name).write_text("x")
    with pytest.raises(UserError, match=r"a\.csv, b\.jsonl could each .*one format into train"):
        split_files(".")
    with pytest.raises(UserError, match=r"gone\.csv: no such file of rows"):
        split_files("gone.csv")


def test_a_folder_is_a_task_with_its_labels(folder, capsys):
    (folder / "set").mkdir()
    (folder / "set/train.jsonl").write_text(jsonl())
    (folder / "set/validation.csv").write_text("inputs,targets\nx,even\ny,odd\n")
    task = text.get_task("set")
    assert task is text.get_task("set/") and task.splits == ("train", "validation")
    assert text.load_examples("set", "validation")[task.name] == [
        {"inputs": "x", "targets": "even"},
        {"inputs": "y", "targets": "odd"},
    ]
    assert text.choices_of("set") == ("even", "odd")
    assert text.files_of("set") == "rows of set/train.jsonl, set/validation.csv"
    assert text.files_of("trec") == ""
    assert main(["tasks", "check", "set"]) == 0
    assert "even: 4, odd: 4" in capsys.readouterr().out
    assert main(["tasks", "check", "set/validation.csv"]) == 0


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (ROWS, ("even", "odd")),
        ([*ROWS, {"inputs": "x", "targets": "<unk>"}], ("even", "odd")),
        (ROWS[:3], ()),
        (ROWS[::2], ()),
        ([*ROWS, {"inputs": "x", "targets": " "}], ()),
        ([{"inputs": "x", "targets": str(n)} for n in [*range(65)] * 3], ()),
    ],
)
def test_labels_are_known_without_a_module(folder, rows, labels):
    (folder / "l.jsonl").write_text(jsonl(rows))
    assert text.choices_of("l.jsonl") == labels


def test_a_mixture_takes_files_with_their_columns(folder):
    (folder / "a.csv").write_text("t,l\n" + "".join(f"a {n},x\n" for n in range(9)))
    (folder / "b.jsonl").write_text(jsonl())
    mixture = text.get_task("a.csv?inputs=t&targets=l+b.jsonl?cap=5")
    assert len(mixture.tasks) == 2
    assert {len(e) for e in text.load_examples(mixture.name, "train").values()} == {8, 7}


@pytest.mark.parametrize("name", ["train-00000-of-00002.jsonl", "."])
def test_a_part_that_is_missing_is_named(folder, name):
    (folder / "train-00000-of-00002.jsonl").write_text(jsonl())
    with pytest.raises(UserError, match=r"train-00001-of-00002\.jsonl: this part is not beside"):
        split_files(name)


def test_errors_call_a_file_by_what_the_user_typed(folder):
    (folder / "rows.train.jsonl").write_text(jsonl())
    with pytest.raises(UserError, match=r"task '\./rows\.train\.jsonl': has no split 'test'"):
        named.stream_examples("./rows.train.jsonl", "test")
    (folder / "other.train.jsonl").write_text(jsonl())
    for task in text.get_task("rows.train.jsonl+other.train.jsonl").tasks:
        with pytest.raises(UserError, match=r"task '(rows|other)\.train\.jsonl': has no choices"):
            raise named.no_choices(task.name)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "'label' is null, not a string; write its text, or leave the row out"),
        (True, "'label' is true, not a string; put it in quotes"),
        (["a"], "'label' is .*, not a string; write one text a row"),
    ],
)
def test_a_value_that_is_no_text_goes_by_the_name_of_its_column(folder, label, message):
    (folder / "t.jsonl").write_text(json.dumps({"text": "x", "label": label}) + "\n")
    with pytest.raises(UserError, match=r"^t\.jsonl:1: " + message):
        read_jsonl("t.jsonl?inputs=text&targets=label")


def test_rows_within_an_object_are_named(folder):
    (folder / "t.json").write_text(json.dumps({"data": ROWS}))
    with pytest.raises(UserError, match="its rows are within it: write that list alone"):
        read_jsonl("t.json")
