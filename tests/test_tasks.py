import hashlib
import json
from pathlib import Path

import pytest
import seqio
import tensorflow as tf

from prompt_jax.errors import UserError
from prompt_jax.metrics.text import accuracy
from prompt_jax.tasks import text


@pytest.fixture
def registry():
    """Takes the tasks and mixtures that a test registers out of SeqIO's registry again."""
    text.import_bundled()
    tasks, mixtures = set(seqio.TaskRegistry.names()), set(seqio.MixtureRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - tasks:
        seqio.TaskRegistry.remove(name)
        text.CHOICES.pop(name, None)
    for name in set(seqio.MixtureRegistry.names()) - mixtures:
        seqio.MixtureRegistry.remove(name)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def some_rows(n: int) -> list[dict]:
    return [{"inputs": f"word {i}", "targets": "odd" if i % 2 else "even"} for i in range(n)]


# ---- tasks from JSONL ----


def test_a_users_task_is_a_seqio_task_of_strings(tmp_path, registry):
    rows = [
        {"inputs": "gut", "targets": "good", "id": 2**40, "score": 1, "tags": ["a"], "seen": True},
        {"inputs": "schön", "targets": "good", "id": 7, "score": 0.5, "tags": [], "seen": False},
        {"inputs": "schlecht", "targets": "bad", "id": 8, "score": 2, "tags": [], "seen": False},
    ]
    files = {"train": write_jsonl(tmp_path / "a.jsonl", rows)}
    text.jsonl_task("reviews", files, metrics=[accuracy], choices=("good", "bad"))

    dataset = text.get_task("reviews").get_dataset(None, split="train", shuffle=False)
    assert dataset.element_spec["inputs"] == tf.TensorSpec((), tf.string)
    kept = [{k: v for k, v in row.items() if k != "tags"} for row in rows]
    assert text.load_examples("reviews", "train") == {"reviews": kept}
    assert text.CHOICES["reviews"] == ("good", "bad")
    assert text.mixture_rates("reviews") == {"reviews": 1.0}


def test_seqio_shuffles_and_shards_it(tmp_path, registry):
    task = text.jsonl_task("numbers", {"train": write_jsonl(tmp_path / "n.jsonl", some_rows(20))})

    def inputs(**options) -> list[bytes]:
        dataset = task.get_dataset(None, split="train", **options)
        return [example["inputs"] for example in dataset.as_numpy_iterator()]

    in_order = [row["inputs"].encode() for row in some_rows(20)]
    shuffled = inputs(shuffle=True, seed=3)
    assert shuffled != in_order and sorted(shuffled) == sorted(in_order)
    assert shuffled == inputs(shuffle=True, seed=3)
    assert inputs(shuffle=False, shard_info=seqio.ShardInfo(1, 4)) == in_order[1::4]
    assert task.num_input_examples("train") == 20


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"inputs": "a", "targets": }', r"x\.jsonl:3: not JSON \(Expecting value at column 28\)"),
        (b'["a", "b"]', r"x\.jsonl:3: a JSON list, not an object with inputs and targets"),
        (b'{"inputs": "a", "label": 1}', r"x\.jsonl:3: no key 'targets'; .*'inputs', 'label'"),
        (b'{"inputs": "a", "targets": 1}', r"x\.jsonl:3: 'targets' is 1, not a string; .*quotes"),
        (b'{"inputs": "\xe4", "targets": "b"}', r"x\.jsonl:3: not UTF-8"),
        (b'{"inputs": "\\ud800", "targets": "b"}', r"x\.jsonl:3: 'inputs' holds half"),
    ],
)
def test_a_bad_line_is_named(tmp_path, registry, line, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"inputs": "a", "targets": "b"}\n\n' + line + b"\n")
    text.jsonl_task("broken", {"train": str(path)})
    with pytest.raises(UserError, match=message) as caught:
        text.load_examples("broken", "train")
    assert "\n" not in str(caught.value)


def test_a_line_end_in_a_quoted_text_ends_no_message(tmp_path, registry):
    row = json.dumps({"inputs": "x", "targets": "go\nod"})
    (tmp_path / "x.jsonl").write_text(row + "\n")
    text.jsonl_task("x", {"train": str(tmp_path / "x.jsonl")}, choices=("good", "bad"))
    with pytest.raises(UserError, match=r"x\.jsonl:1: the target 'go\\nod' is none of") as caught:
        text.load_examples("x", "train")
    assert "\n" not in str(caught.value)


def test_empty_and_missing_files_and_unknown_labels_are_refused(tmp_path, registry):
    (tmp_path / "empty.jsonl").write_text("\n")
    files = {
        "train": str(tmp_path / "empty.jsonl"),
        "validation": str(tmp_path / "none.jsonl"),
        "test": write_jsonl(tmp_path / "t.jsonl", some_rows(3)),
    }
    text.jsonl_task("poor", files, choices=("even", "uneven"))
    with pytest.raises(UserError, match=r"empty\.jsonl: no rows"):
        text.load_examples("poor", "train")
    with pytest.raises(UserError, match=r"none\.jsonl: no such file of rows"):
        text.load_examples("poor", "validation")
    with pytest.raises(UserError, match=r"t\.jsonl:2: the target 'odd' .*even, uneven; correct"):
        text.load_examples("poor", "test")


@pytest.mark.parametrize(
    "choices", ["good bad", ("good",), ("good", "good"), ("good", " "), (0, 1)]
)
def test_choices_that_cannot_be_are_refused(registry, choices):
    with pytest.raises(UserError, match=r"task 'reviews': choices=.*; give "):
        text.jsonl_task("reviews", {"train": "t.jsonl"}, choices=choices)


def test_a_jsonl_path_is_a_task_with_a_tenth_held_out(tmp_path, registry):
    rows = some_rows(40) + [{"inputs": f"word {i}", "targets": "again"} for i in range(40)]
    path = write_jsonl(tmp_path / "my data.jsonl", rows)
    task = text.get_task(path)
    train = text.load_examples(path, "train")[task.name]
    held = text.load_examples(path, "validation")[task.name]

    order = sorted(
        {row["inputs"] for row in rows}, key=lambda t: hashlib.sha256(t.encode()).digest()
    )
    assert {row["inputs"] for row in held} == set(order[:4])
    assert [row for row in rows if row["inputs"] in order[:4]] == held
    assert [row for row in rows if row["inputs"] in order[4:]] == train
    assert text.get_task(f"jsonl:{path}") is task
    assert text.task_from_jsonl(path) is task


@pytest.mark.parametrize("name", ["news.jsonl", "news.train.jsonl"])
def test_files_beside_a_jsonl_file_are_its_splits(tmp_path, registry, name):
    path = write_jsonl(tmp_path / name, some_rows(10))
    write_jsonl(tmp_path / "news.validation.jsonl", some_rows(2))
    write_jsonl(tmp_path / "news.test.jsonl", some_rows(3))
    sizes = {}
    for split in text.get_task(path).splits:
        ((_, examples),) = text.load_examples(path, split).items()
        sizes[split] = len(examples)
    assert sizes == {"train": 10, "validation": 2, "test": 3}


def test_a_test_file_does_not_stop_the_hold_out(tmp_path, registry):
    path = write_jsonl(tmp_path / "news.jsonl", some_rows(10))
    write_jsonl(tmp_path / "news.test.jsonl", some_rows(3))
    assert text.get_task(path).splits == ("train", "validation", "test")
    assert [len(*text.load_examples(path, s).values()) for s in ("train", "validation")] == [9, 1]


def test_an_explicit_validation_file_wins(tmp_path, registry):
    path = write_jsonl(tmp_path / "news.jsonl", some_rows(10))
    write_jsonl(tmp_path / "news.validation.jsonl", some_rows(2))
    other = write_jsonl(tmp_path / "other.jsonl", some_rows(5))
    task = text.task_from_jsonl(path, other)
    assert len(text.load_examples(task.name, "validation")[task.name]) == 5
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file of rows"):
        text.task_from_jsonl(path, str(tmp_path / "gone.jsonl"))


def test_a_jsonl_file_that_cannot_be_split_is_refused(tmp_path, registry):
    path = write_jsonl(tmp_path / "one.jsonl", some_rows(1) * 3)
    with pytest.raises(UserError, match=r"one\.jsonl: one distinct input"):
        text.load_examples(path, "train")


# ---- finding and reading ----


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(
        UserError,
        match=r"task 'super_glue_bc': no such task; did you mean super_glue_cb",
    ):
        text.get_task("super_glue_bc")
    with pytest.raises(UserError, match=r"task 'qqqqqq': no such task; `prompt-jax tasks list`"):
        text.get_task("qqqqqq")


def test_a_split_that_is_not_there_names_those_that_are():
    message = "task 'super_glue_cb': has no split 'dev'; it has train, validation, test"
    with pytest.raises(UserError, match=message):
        text.load_examples("super_glue_cb", "dev")


def test_a_mixture_is_read_task_by_task(tmp_path, registry):
    a = {s: write_jsonl(tmp_path / f"a.{s}", some_rows(4)) for s in ("train", "validation")}
    b = {"train": write_jsonl(tmp_path / "b", some_rows(6))}
    text.jsonl_task("part_a", a)
    text.jsonl_task("part_b", b)
    seqio.MixtureRegistry.add("both", [("part_a", 1.0), ("part_b", seqio.mixing_rate_num_examples)])
    assert text.load_examples("both", "train") == {"part_a": some_rows(4), "part_b": some_rows(6)}
    assert text.load_examples("both", "validation") == {"part_a": some_rows(4)}
    assert text.mixture_rates("both") == {"part_a": 1.0, "part_b": 6.0}
    with pytest.raises(UserError, match="task 'both': has no split 'test'"):
        text.load_examples("both", "test")


def seqio_task(name: str, examples: list[dict], features: dict) -> None:
    def dataset(split, shuffle_files):
        signature = {
            "inputs": tf.TensorSpec((), tf.string),
            "targets": tf.TensorSpec((), tf.string),
            "answers": tf.TensorSpec((None,), tf.string),
        }
        return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)

    source = seqio.FunctionDataSource(dataset, splits=["train"])
    seqio.TaskRegistry.add(name, source=source, preprocessors=[], output_features=features)


def test_any_seqio_task_of_text_is_read(registry):
    example = {"inputs": "wer?", "targets": "wir", "answers": ["wir", "ihr"]}
    seqio_task("foreign", [example], text.TEXT_FEATURES)
    assert text.load_examples("foreign", "train") == {"foreign": [example]}


def test_an_empty_split_is_refused(registry):
    seqio_task("void", [], text.TEXT_FEATURES)
    with pytest.raises(UserError, match="task 'void': its split 'train' is empty"):
        text.load_examples("void", "train")


def test_a_task_of_token_ids_is_refused(registry):
    feature = seqio.Feature(seqio.ByteVocabulary())
    seqio_task("ids", [], {"inputs": feature, "targets": feature})
    with pytest.raises(
        UserError, match=r"task 'ids': does not give 'inputs' as text; .*TEXT_FEATURES"
    ):
        text.load_examples("ids", "train")
