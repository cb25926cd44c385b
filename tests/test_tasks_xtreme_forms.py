"""XTREME's forms, scores and errors, on rows written here; `test_tasks_xtreme` reads real files."""

import gzip
import json
from pathlib import Path

import pytest
import seqio

from prompt_jax.errors import UserError
from prompt_jax.tasks import rows as rows_module
from prompt_jax.tasks import text, xtreme_forms


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """XTREME's folder, empty."""
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("PROMPT_JAX_ALLOW_DOWNLOAD", raising=False)
    return tmp_path / "xtreme"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def squad_json(*articles: list[dict]) -> str:
    paragraphs = [[{"context": "Im Jahr 1920 (ca.)", "qas": qas}] for qas in articles]
    return json.dumps({"data": [{"paragraphs": paragraph} for paragraph in paragraphs]})


def question(name: str, *answers: str) -> dict:
    found = [{"text": text, "answer_start": 0} for text in answers]
    return {"id": name, "question": "Wann?", "answers": found}


def rows_of(task: str, split: str) -> list[dict]:
    return text.load_examples(task, split)[task]


def score(task: str, split: str, *said: str) -> dict:
    """The task's metrics of texts; without any, of the targets themselves."""
    examples = rows_of(task, split)
    seqio_task = seqio.TaskRegistry.get(task)
    post = seqio_task.postprocess_fn
    answers = said or [example["targets"] for example in examples]
    pairs = zip(answers, examples, strict=True)
    predictions = [post(answer, example=e, is_target=False) for answer, e in pairs]
    targets = [post(e["targets"], example=e, is_target=True) for e in examples]
    metrics = [metric(targets, predictions) for metric in seqio_task.predict_metric_fns]
    return {name: value for values in metrics for name, value in values.items()}


@pytest.fixture
def from_tfds(monkeypatch):
    """TFDS sets of these examples in place of downloads; the list of what was asked for."""
    asked: list[tuple[str, str]] = []
    examples: list[dict] = []

    def read_tfds(data, split, folder):
        asked.append((data.tfds, split))
        yield from examples

    monkeypatch.setattr(rows_module, "read_tfds", read_tfds)
    monkeypatch.setenv("PROMPT_JAX_ALLOW_DOWNLOAD", "1")
    return asked, examples


def test_xnli_of_tfds_in_one_language(from_tfds):
    asked, examples = from_tfds
    said = {"language": [b"de", b"sw"], "translation": [b"Es ist nass.", b"Kuna maji."]}
    premise = {"de": b"Es regnet.", "sw": b"Mvua."}
    examples.append({"premise": premise, "hypothesis": said, "label": 0})
    for task, split in (("xnli_sw", "test"), ("xnli_translate_train_sw", "train")):
        (row,) = rows_of(f"xtreme_{task}", split)
        assert row["inputs"] == "xnli: premise: Mvua. hypothesis: Kuna maji."
        assert (row["targets"], row["label"]) == ("entailment", 0)
    assert list(dict.fromkeys(asked)) == [("xnli:1.1.0", "test"), ("xtreme_xnli:1.1.0", "train")]


def test_tydiqa_of_tfds_is_taken_by_language_and_split(from_tfds):
    asked, examples = from_tfds
    for name in ("english-1", "finnish-2"):
        found = {"text": [b"1920"], "answer_start": [0]}
        row = {"id": name.encode(), "question": b"When?", "context": b"In 1920.", "answers": found}
        examples.append(row)
    assert [row["id"] for row in rows_of("xtreme_tydiqa_en", "train")] == ["english-1"]
    assert [row["id"] for row in rows_of("xtreme_tydiqa_in_language_fi", "train")] == ["finnish-2"]
    rows_of("xtreme_tydiqa_fi", "validation")
    rows_of("xtreme_tydiqa_translate_train_fi", "train")
    goldp = "tydi_qa/goldp:3.0.0"
    splits = ["train", "validation-fi", "translate-train-fi"]
    assert list(dict.fromkeys(asked)) == [(goldp, split) for split in splits]


def test_tfdss_exchanged_names_of_tamil_and_tagalog(from_tfds):
    asked, examples = from_tfds
    examples.append({"tokens": [b"a", b"b"], "upos": [7, 17]})
    (row,) = rows_of("xtreme_udpos_ta", "test")
    assert (row["inputs"], row["targets"]) == ("udpos: 1 a 2 b", "1 NOUN 2 X")
    assert set(asked) == {("xtreme_pos/xtreme_pos_tl:1.0.0", "test")}


# ---- zero-shot training, and what is missing or wrong ----


def test_the_zero_shot_mixture_trains_on_english_alone(data):
    write(data / "xnli" / "train-en.tsv", "It rains.\tIt is wet.\tentailment")
    write(data / "xnli" / "train-de.tsv", "Es regnet.\tEs ist nass.\tentailment")
    found = text.load_examples("xtreme_xnli", "train")
    assert list(found) == ["xtreme_xnli_en"]
    assert found["xtreme_xnli_en"][0]["inputs"].startswith("xnli: premise: It rains.")


def test_missing_data_are_named_in_one_line(data):
    for task, split, message in (
        (
            "xnli_sw",
            "test",
            r"has no xtreme/xnli/test-sw\.tsv and no TFDS xnli:1\.1\.0; get the file",
        ),
        ("xnli_translate_train_sw", "train", r"no TFDS xtreme_xnli:1\.1\.0; prepare it there"),
        ("mlqa_translate_train_de", "validation", r"MLQA_V1/dev/dev-context-de-question-de\.json"),
        ("xquad_translate_train_de", "validation", r"no TFDS xquad/de:3\.0\.0; prepare it there"),
        ("bucc_de", "test", r"no xtreme/bucc2018/de-en\.test\.de; get the file from https://"),
        (
            "xquad_en",
            "train",
            r"xtreme/squad/train-v1\.1\.json or squad/train-v1\.1\.json and no TFDS",
        ),
        (
            "xnli_en",
            "train",
            r"xtreme/xnli/train-en\.tsv or glue/MNLI/train\.tsv and no TFDS multi_nl",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            rows_of(f"xtreme_{task}", split)
        assert "\n" not in str(caught.value)
    data.mkdir()
    write(data / "tatoeba" / "tatoeba.swh-eng.swh", "Mvua.")
    with pytest.raises(
        UserError, match=r"tatoeba\.swh-eng\.eng: no such file beside .*swh; get it from"
    ):
        rows_of("xtreme_tatoeba_sw", "test")


BAD = {
    "xnli_sw": (
        "test",
        "xnli/test-sw.tsv",
        "a\tb\tneutral\na\tb\tmaybe",
        r"test-sw\.tsv:2: label 'maybe' is none of entailment, neutral, contradiction",
    ),
    "xnli_de": ("test", "xnli/test-de.tsv", "a\tb", r"test-de\.tsv:1: 2 cells under the 3"),
    "pawsx_ko": ("validation", "pawsx/dev-ko.tsv", "a\tb\t2", r"dev-ko\.tsv:1: label '2' is none"),
    "udpos_mr": (
        "test",
        "udpos/test-mr.tsv",
        "a\tNOUN\n\nb\tVERB\nc\tNOUNS",
        r"test-mr\.tsv:3: tag 'NOUNS' is none of ADJ, ",
    ),
    "udpos_token_mr": ("test", "udpos/test-mr.tsv", "a\tNOUN\nb", r"test-mr\.tsv:1: 1 cells"),
    "panx_sw": (
        "validation",
        "panx/dev-sw.tsv",
        "a\tB-LOC\nb\tB-MISC",
        r"dev-sw\.tsv:1: tag 'B-MISC'",
    ),
    "xquad_de": (
        "test",
        "xquad/xquad.de.json",
        squad_json([question("q", "1920")], [question("r")]),
        r"xquad\.de\.json:2: question 'r' has no answers",
    ),
    "tydiqa_sw": (
        "validation",
        "tydiqa/dev/tydiqa.goldp.sw.dev.json",
        '{"data": [{}]}',
        r"sw\.dev\.json:1: no key 'paragraphs'",
    ),
    "bucc_zh": (
        "validation",
        "bucc2018/zh-en.dev.gold",
        "zh-1\ten-1\nzh-2\ten-9",
        r"dev\.gold:2: 'en-9' is not a sentence of .*zh-en\.dev\.en",
    ),
    "tatoeba_sw": (
        "test",
        "tatoeba/tatoeba.swh-eng.swh",
        "Mvua.\nMaji.\nMoto.",
        r"swh-eng\.swh:3: no such line in .*swh-eng\.eng",
    ),
    "xcopa_qu": (
        "test",
        "xcopa/qu/test.qu.jsonl",
        '{"label": 2}',
        r"test\.qu\.jsonl:1: label 2 is none of",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_refused_with_file_and_line(name, data):
    split, file, content, message = BAD[name]
    write(data / "bucc2018" / "zh-en.dev.zh", "zh-1\t一", "zh-2\t二")
    write(data / "bucc2018" / "zh-en.dev.en", "en-1\tone", "en-2\ttwo")
    write(data / "tatoeba" / "tatoeba.swh-eng.eng", "Rain.", "Water.")
    write(data / file, content)
    with pytest.raises(UserError, match=message):
        rows_of(f"xtreme_{name}", split)


# ---- forms and scores ----


def test_mt5s_blanks_around_punctuation():
    pad = xtreme_forms.pad_punctuation
    assert pad("François' snake_case, 3€?") == "François ' snake_case , 3 € ? "
    assert pad("क्या है।") == "क्या है । "  # combining marks stay with their letters


def test_questions_keep_every_answer(data):
    asked = question("q", "1920", "(ca.)")
    write(data / "mlqa/MLQA_V1/dev/dev-context-de-question-de.json", squad_json([asked]))
    (row,) = rows_of("xtreme_mlqa_de", "validation")
    assert row["inputs"] == "question: Wann ? context: Im Jahr 1920 ( ca . ) "
    assert row["answers"] == ["1920", "(ca.)"]
    assert score("xtreme_mlqa_de", "validation", "der 1920") == {"em": 100.0, "f1": 100.0}


def test_a_missing_number_costs_one_word(data):
    write(data / "udpos/test-de.tsv", "Es\tPRON", "regnet\tVERB", ".\tPUNCT", "", "Ja\tINTJ")
    assert score("xtreme_udpos_de", "test") == {"tag_accuracy": 100.0, "tag_f1": 100.0}
    said = score("xtreme_udpos_de", "test", "1 PRON 3 PUNCT 3 VERB 7 NOUN", "INTJ")
    assert said["tag_accuracy"] == 50.0  # not `regnet`, and `Ja` has no number


def test_names_are_counted_as_often_as_they_occur(data):
    lines = ("Rom\tB-LOC", "liebt\tO", "Rom\tB-LOC", "Eva\tB-PER", "Rot\tI-PER")
    write(data / "panx/test-de.tsv", *lines, "", "nichts\tO")
    rows = rows_of("xtreme_panx_de", "test")
    assert [row["targets"] for row in rows] == ["LOC: Rom $$ LOC: Rom $$ PER: Eva Rot", ""]
    assert score("xtreme_panx_de", "test")["span_f1"] == 100.0
    said = score("xtreme_panx_de", "test", "LOC: Rom $$ PER: Eva  Rot", "")
    assert (said["span_precision"], round(said["span_recall"], 1)) == (100.0, 66.7)
    said = score("xtreme_panx_de", "test", "LOC: Rom $$ LOC: Rom $$ PER: Eva Rot", "Quatsch")
    assert (said["span_precision"], said["span_recall"]) == (75.0, 100.0)


def test_topros_rows_are_scored_by_sentence(data):
    write(data / "panx/test-de.tsv", "Eva\tB-PER", "Rot\tI-PER", "", "Rom\tB-LOC")
    rows = rows_of("xtreme_panx_token_de", "test")
    assert [row["sentence"] for row in rows] == [0, 0, 1]
    assert [row["targets"] for row in rows] == ["person", "name", "location"]
    assert text.CHOICES["xtreme_panx_token_de"][-1] == "other"
    assert score("xtreme_panx_token_de", "test")["span_f1"] == 100.0
    said = score("xtreme_panx_token_de", "test", "person", "other", "location")
    assert said["span_f1"] == 50.0


def test_bucc_and_tatoeba_are_scored_by_what_was_found(data):
    write(data / "bucc2018/zh-en.dev.zh", "zh-1\t一", "zh-2\t二")
    write(data / "bucc2018/zh-en.dev.en", "en-1\tone", "en-2\tthree")
    write(data / "bucc2018/zh-en.dev.gold", "zh-1\ten-1")
    rows = rows_of("xtreme_bucc_zh", "validation")
    pairs = [(row["inputs"], row["targets"]) for row in rows]
    assert pairs == [("一", "one"), ("二", ""), ("", "three")]
    assert score("xtreme_bucc_zh", "validation", "one", "", "")["mining_f1"] == 100.0
    assert score("xtreme_bucc_zh", "validation", "one", "three", "")["mining_precision"] == 50.0
    folder = data / "tatoeba"
    write(folder / "tatoeba.deu-eng.deu", "Regen.", "Wasser.")
    (folder / "tatoeba.deu-eng.eng.gz").write_bytes(gzip.compress(b"Rain.\nWater.\n"))
    assert score("xtreme_tatoeba_de", "test", "Rain.", "Rain.") == {"accuracy": 50.0}
