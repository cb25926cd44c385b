import gzip
import json
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from prompt_jax.errors import UserError
from prompt_jax.tasks import official, text
from prompt_jax.tasks.superglue import CB, CB_LABELS


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test names is read."""
    monkeypatch.delenv("PROMPT_JAX_DATA_DIR", raising=False)
    monkeypatch.delenv("PROMPT_JAX_ALLOW_DOWNLOAD", raising=False)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


CB_ROWS = [
    {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "idx": 5},
    {"premise": "It rains.", "hypothesis": "It is dry.", "label": "contradiction", "idx": 6},
    {"premise": "It rains.", "hypothesis": "It is Monday.", "label": "neutral", "idx": 7},
]


def cb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    return tmp_path / "superglue" / "CB"


def test_t5s_form_with_and_without_the_task_name(tmp_path, monkeypatch):
    write_jsonl(cb_folder(tmp_path, monkeypatch) / "train.jsonl", CB_ROWS)
    assert text.load_examples("super_glue_cb", "train")["super_glue_cb"][0] == {
        "inputs": "cb hypothesis: It is wet. premise: It rains.",
        "targets": "entailment",
        "label": 0,
        "idx": 5,
    }
    rows = text.load_examples("taskless_super_glue_cb", "train")["taskless_super_glue_cb"]
    assert rows[1]["inputs"] == "hypothesis: It is dry. premise: It rains."
    assert [row["targets"] for row in rows] == ["entailment", "contradiction", "neutral"]
    assert text.CHOICES["super_glue_cb"] == text.CHOICES["taskless_super_glue_cb"] == CB_LABELS


def test_a_test_split_without_labels_has_unknown_targets(tmp_path, monkeypatch):
    row = {"premise": "It rains.", "hypothesis": "It is wet.", "idx": 0}
    write_jsonl(cb_folder(tmp_path, monkeypatch) / "test.jsonl", [row])
    ((example,),) = text.load_examples("super_glue_cb", "test").values()
    assert (example["targets"], example["label"]) == ("<unk>", -1)


def test_gzip_tsv_is_read_with_row_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    content = 'sentence\tlabel\nso " good \t1\nso bad \t0\n'
    (folder / "train.tsv.gz").write_bytes(gzip.compress(content.encode()))
    ((first, second),) = text.load_examples("glue_sst2", "train").values()
    assert first == {
        "inputs": 'sst2 sentence: so " good ',
        "targets": "positive",
        "label": 1,
        "idx": 0,
    }
    assert (second["targets"], second["idx"]) == ("negative", 1)
    (folder / "dev.tsv").write_text("sentence\tlabel\na\tb\t1\n")
    with pytest.raises(UserError, match=r"dev\.tsv:2: 3 cells under the 2 of the header"):
        text.load_examples("glue_sst2", "validation")


def test_a_bad_official_row_is_named(tmp_path, monkeypatch):
    folder = cb_folder(tmp_path, monkeypatch)
    write_jsonl(folder / "train.jsonl", [CB_ROWS[0], {**CB_ROWS[1], "label": "maybe"}])
    with pytest.raises(
        UserError, match=r'CB/train\.jsonl:2: label "maybe" is none of "entailment"'
    ):
        text.load_examples("super_glue_cb", "train")
    write_jsonl(folder / "val.jsonl", [{"premise": "It rains.", "label": "neutral"}])
    with pytest.raises(UserError, match=r"CB/val\.jsonl:1: no key 'hypothesis'"):
        text.load_examples("super_glue_cb", "validation")
    (folder / "test.jsonl").write_text("")
    with pytest.raises(UserError, match=r"CB/test\.jsonl: no rows"):
        text.load_examples("super_glue_cb", "test")


def test_missing_data_name_the_file_and_where_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"PROMPT_JAX_DATA_DIR: is not set, so there is no superglue/CB/train"
    ):
        text.load_examples("super_glue_cb", "train")
    cb_folder(tmp_path, monkeypatch)
    message = (
        r"has no superglue/CB/val\.jsonl and no TFDS super_glue/cb:1\.0\.2; get .*https://super"
    )
    with pytest.raises(UserError, match=message):
        text.load_examples("super_glue_cb", "validation")


class PreparedBuilder:
    """What the reader needs of a TFDS builder."""

    def __init__(self):
        self.prepared = False
        self.info = type("Info", (), {"splits": {"train": None}})

    def download_and_prepare(self):
        self.prepared = True

    def as_dataset(self, split: str, shuffle_files: bool) -> tf.data.Dataset:
        assert self.prepared and not shuffle_files
        columns = {"premise": ["P"], "hypothesis": ["H"], "label": [2], "idx": [9]}
        return tf.data.Dataset.from_tensor_slices(columns)


def test_tfds_downloads_only_when_told(tmp_path, monkeypatch):
    cb_folder(tmp_path, monkeypatch)
    monkeypatch.setenv("PROMPT_JAX_ALLOW_DOWNLOAD", "1")
    asked = []

    def builder(name: str, data_dir: str) -> PreparedBuilder:
        asked.append((name, data_dir))
        return PreparedBuilder()

    monkeypatch.setattr(tfds, "builder", builder)
    (row,) = official.read_split(CB, "train")
    assert row == {"premise": "P", "hypothesis": "H", "label": 2, "idx": 9}
    assert asked == [("super_glue/cb:1.0.2", f"{tmp_path}/tfds")]
    with pytest.raises(UserError, match="has no split 'test'; it has train"):
        official.read_split(CB, "test")


OFFICIAL = {
    "super_glue_cb": (250, 56, ("entailment", "contradiction", "neutral")),
    "super_glue_copa": (400, 100, ("choice1", "choice2")),
    "super_glue_rte": (2490, 277, ("entailment", "not_entailment")),
    "super_glue_wic": (5428, 638, ("False", "True")),
    "super_glue_boolq": (221, 3270, ("False", "True")),
    "glue_sst2": (67349, 872, ("negative", "positive")),
}
FIRST_OF_VALIDATION = {
    "super_glue_copa": "copa choice1: The toilet filled with water. choice2: Water flowed from the "
    "spout. premise: The man turned on the faucet. question: effect",
    "super_glue_wic": "wic sentence1: An emerging professional class. sentence2: Apologizing for "
    "losing your temper, even though you were badly provoked, showed real class. word: class",
    "glue_sst2": "sst2 sentence: it 's a charming and often affecting journey . ",
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files(name, shared, monkeypatch):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    train_size, validation_size, choices = OFFICIAL[name]
    train = text.load_examples(name, "train")[name]
    validation = text.load_examples(name, "validation")[name]
    assert (len(train), len(validation)) == (train_size, validation_size)
    assert text.CHOICES[name] == choices
    for row in train + validation:
        assert row["targets"] == choices[row["label"]]
    if name in FIRST_OF_VALIDATION:
        assert validation[0]["inputs"] == FIRST_OF_VALIDATION[name]


@pytest.mark.parametrize("name", ["super_glue_cb", "super_glue_copa"])
@pytest.mark.parametrize("below", ["", "tfds"])
def test_prepared_tfds_gives_the_same_rows(name, below, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    official_rows = text.load_examples(name, "validation")[name]
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    (folder / "super_glue").symlink_to((shared / "data" / "tfds" / "super_glue").resolve())
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    rows = text.load_examples(name, "validation")[name]
    assert sorted(rows, key=lambda row: row["idx"]) == official_rows
