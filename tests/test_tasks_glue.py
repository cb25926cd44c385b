"""GLUE, SuperGLUE and the sets beside them: T5's forms on the real files, sizes, labels, errors."""

import json
import re
from pathlib import Path

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import official, superglue_spans, text


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPT_JAX_DATA_DIR", raising=False)
    monkeypatch.delenv("PROMPT_JAX_ALLOW_DOWNLOAD", raising=False)


@pytest.fixture
def real(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    return shared / "data"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    return tmp_path


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


# task: (sizes of the splits at hand, (split, start of its first inputs, their end, its target))
REAL = {
    "glue_cola": (
        {"train": 8551, "validation": 1043, "test": 1063},
        ("train", "cola sentence: Our friends won't buy this analysis,", "propose.", "acceptable"),
    ),
    "glue_mrpc": (
        {"train": 3668, "validation": 408, "test": 1725},
        (
            "validation",
            "mrpc sentence1: He said the foodservice pie business doesn't fit the company's "
            'long-term growth strategy. sentence2: "The foodservice',
            "our long-term growth strategy.",
            "equivalent",
        ),
    ),
    "glue_qqp": (
        {"train": 160},
        (
            "train",
            "qqp question1: Can I develope mobile apps with c++? question2: How can I",
            "C++?",
            "duplicate",
        ),
    ),
    "glue_stsb": (
        {"train": 5749, "validation": 1500},
        (
            "validation",
            "stsb sentence1: A man with a hard hat is dancing. sentence2: A man wearing a",
            "hard hat is dancing.",
            "5.0",
        ),
    ),
    "glue_mnli": (
        {"validation_matched": 9815},
        (
            "validation_matched",
            "mnli hypothesis: Everyone really likes the newest benefits premise: The new rights",
            "are nice enough",
            "neutral",
        ),
    ),
    "glue_qnli": (
        {"validation": 5463},
        (
            "validation",
            "qnli question: What came into force after the new constitution was herald? sentence: "
            "As of that day,",
            "Second Republic came into force.",
            "entailment",
        ),
    ),
    "glue_rte": (
        {"train": 2490, "validation": 277, "test": 3000},
        (
            "train",
            "rte sentence1: No Weapons of Mass Destruction Found in Iraq Yet. sentence2: Weapons",
            "Found in Iraq.",
            "not_entailment",
        ),
    ),
    "glue_wnli": (
        {"train": 634, "validation": 71, "test": 146},
        (
            "validation",
            "wnli sentence1: The drain is clogged with hair. It has to be cleaned. sentence2: The",
            "hair has to be cleaned.",
            "not_entailment",
        ),
    ),
    "super_glue_multirc": (
        {"validation": 4848},
        (
            "validation",
            "multirc question: Would the mass of a baseball affect how much force you have to use "
            "to pick it up? answer: No paragraph: What causes a change in motion?",
            "This requires only a very small force. ",
            "False",
        ),
    ),
    "super_glue_record": (
        {"train": 44, "validation": 46},
        (
            "validation",
            "record query: They will sew our lips, but we will chant, 'Long live @placeholder.' "
            "entities: Asif Ali Zardari, Asif Zardari, Benazir Bhutto, Bhutto,",
            "fifth anniversary of her death",
            "Benazir Bhutto",
        ),
    ),
    "super_glue_wsc": (
        {"train": 259, "validation": 104, "test": 146},
        (
            "validation",
            "wsc: Bernard , who had not told the government official that he was less than 21",
            "could take his claim away from *him* .",
            "anyone",
        ),
    ),
    "super_glue_axb": (
        {"test": 1104},
        (
            "test",
            "rte hypothesis: The cat did not sit on the mat. premise: The cat sat",
            "on the mat.",
            "not_entailment",
        ),
    ),
    "super_glue_axg": (
        {"test": 356},
        (
            "test",
            "rte hypothesis: The accountant sought help filing taxes. premise: The taxpayer met",
            "get help filing his taxes.",
            "not_entailment",
        ),
    ),
    "trec": (
        {"train": 5452, "test": 500},
        ("train", "trec question: How did serfdom develop", "then leave Russia ?", "description"),
    ),
    "sst5": (
        {"train": 8544, "validation": 1101, "test": 2210},
        ("train", "sst5 sentence: a stirring , funny", "1930s horror films", "very positive"),
    ),
    "mr": (
        {"train": 8513, "validation": 1118, "test": 1031},
        ("train", "mr sentence: simplistic , silly", "and tedious . ", "negative"),
    ),
    "ag_news": (
        {"train": 6126, "validation": 736, "test": 738},
        (
            "test",
            "ag_news title: Fears for T N pension after talks description: Unions representing",
            "parent firm Federal Mogul.",
            "Business",
        ),
    ),
    "e2e_nlg": (
        {"validation": 547, "test": 630},
        (
            "test",
            "e2e meaning: name[Blue Spice], eatType[coffee shop],",
            "area[city centre]",
            "A coffee shop in the city centre area called Blue Spice.",
        ),
    ),
    "web_nlg": (
        {"validation": 870},
        (
            "validation",
            "webnlg triples: Aarhus : leaderName",
            ": Jacob_Bundsgaard",
            "The leader of Aarhus is Jacob Bundsgaard.",
        ),
    ),
    "dart": (
        {"validation": 2721},
        (
            "validation",
            "dart triples: Mars Hill College : JOINED : 1973 | Mars Hill College : LOCATION :",
            "Mars Hill, North Carolina",
            "A school from Mars Hill, North Carolina, joined in 1973.",
        ),
    ),
    "dialogsum": (
        {"validation": 500, "test": 500},
        (
            "validation",
            "summarize: #Person1#: Hello, how are you doing today?\n#Person2#: I ' Ve been",
            "Thank you for your help, doctor.",
            "#Person2# has trouble breathing. The doctor asks #Person2# about it and will send "
            "#Person2# to a pulmonary specialist.",
        ),
    ),
}


LARGE = ("dart", "mr", "sst5", "glue_mnli", "glue_qqp", "ag_news", "glue_qnli", "glue_cola")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in REAL]
)
def test_the_real_files_in_t5s_form(name, real):
    sizes, (split, start, end, target) = REAL[name]
    rows = {s: text.load_examples(name, s)[name] for s in sizes}
    assert {s: len(found) for s, found in rows.items()} == sizes
    first = rows[split][0]
    assert first["inputs"].startswith(start) and first["inputs"].endswith(end)
    assert first["targets"] == target
    bare = text.load_examples(f"taskless_{name}", split)[f"taskless_{name}"][0]["inputs"]
    assert first["inputs"].removesuffix(bare).strip() == start.split()[0]
    for s, found in rows.items():
        if name in text.CHOICES and (s != "test" or found[0]["targets"] != "<unk>"):
            assert {row["targets"] for row in found} == set(text.CHOICES[name])


def test_what_is_at_hand_is_what_is_listed(real):
    for name, (sizes, _) in REAL.items():
        source = text.get_task(name).source
        assert isinstance(source, text.RowsSource) and source.licence and source.rows
        assert set(sizes) <= set(source.present()), name
        short = {"glue_qqp", "glue_wnli", "super_glue_record"}  # fewer rows than were published
        if name not in short:
            assert sizes == {split: source.rows[split] for split in sizes}, name


def test_references_are_gathered_by_input(real):
    row = text.load_examples("dialogsum", "test")["dialogsum"][0]
    assert len(row["answers"]) == 3 and row["targets"] == row["answers"][0]
    rows = text.load_examples("e2e_nlg", "validation")["e2e_nlg"]
    assert sum(len(row["answers"]) for row in rows) > 4500
    assert len({row["inputs"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", ["super_glue_wsc", "super_glue_record"])
def test_prepared_tfds_gives_the_same_rows(name, real, tmp_path, monkeypatch):
    files = {split: text.load_examples(name, split)[name] for split in ("train", "validation")}
    (tmp_path / "super_glue").symlink_to((real / "tfds" / "super_glue").resolve())
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    for split, rows in files.items():
        keys = ("inputs", "targets", *(("answers",) if name == "super_glue_record" else ("label",)))
        prepared = text.load_examples(name, split)[name]
        both = [[tuple(map(str, (row[k] for k in keys))) for row in r] for r in (rows, prepared)]
        assert sorted(both[0]) == sorted(both[1])


def scores(name: str, split: str, said) -> dict:
    """The task's metrics where `said(example)` was generated, as SeqIO computes them."""
    task, examples = text.get_task(name), text.load_examples(name, split)[name]
    targets = [task.postprocess_fn(e["targets"], example=e, is_target=True) for e in examples]
    outputs = [task.postprocess_fn(said(e), example=e, is_target=False) for e in examples]
    metrics = [metric(targets, outputs) for metric in task.predict_metric_fns]
    return {name: value for scores in metrics for name, value in scores.items()}


def test_tasks_are_scored_as_t5_scores_them(real):
    assert scores("super_glue_multirc", "validation", lambda e: e["targets"]) == {
        "f1": 100.0,
        "exact_match": 100.0,
    }
    assert scores("super_glue_wsc", "validation", lambda e: e["targets"])["accuracy"] == (
        pytest.approx(100 * 38 / 104)  # every span is named; 38 are right
    )
    assert scores("super_glue_wsc", "validation", lambda e: "nobody at all")["accuracy"] == (
        pytest.approx(100 * 66 / 104)
    )
    assert scores("super_glue_record", "validation", lambda e: e["answers"][-1])["em"] == 100.0
    assert scores("glue_stsb", "validation", lambda e: e["targets"])["pearson_corrcoef"] == 100.0
    with pytest.raises(UserError, match="have no label"):
        scores("super_glue_wsc", "test", lambda e: "x")


def test_stsb_is_rounded_to_fifths():
    texts = [official.score_text(score) for score in (0.0, 3.75, 4.75, 2.5, 3.3, 1.533, -1.0)]
    assert texts == ["0.0", "3.8", "4.8", "2.4", "3.2", "1.6", "<unk>"]


# ---- WSC's pronoun ----


def test_the_pronoun_is_found_beside_its_place():
    mark = superglue_spans.mark_pronoun
    assert mark('"Good for him," he said. ', "him", 2) == '"Good for *him* ," he said.'
    assert mark("might want to use it , but", "it", 3) == "might want to use *it* , but"
    with pytest.raises(ValueError, match="word 0 of the text is not 'she'"):
        mark("He slept all day.", "she", 0)


# ---- what is wrong with a file is named ----

BAD = [
    (
        "trec",
        "train",
        "classification/TREC.train",
        "LOC:x Where ?\nODD:y What ?\n",
        r'TREC\.train:2: label "ODD" is none of "ABBR"',
    ),
    ("trec", "train", "classification/TREC.train", "Where ?\n", r"TREC\.train:1: the line is not"),
    ("sst5", "test", "classification/stsa.fine.test", "7 fine\n", r'test:1: label "7" is none'),
    ("sst5", "test", "classification/stsa.fine.test", b"1 caf\xe9\n", r"test:1: not UTF-8"),
    (
        "glue_stsb",
        "train",
        "glue/STS-B/train.tsv",
        "sentence1\tsentence2\tscore\na\tb\thigh\n",
        r"train\.tsv:2: 'score' is \"high\", not a number",
    ),
    (
        "glue_qnli",
        "train",
        "glue/QNLI/train.tsv",
        "index\tquestion\tsentence\n0\ta\tb\n",
        r"train\.tsv:2: no field 'label'; the row has",
    ),
    (
        "glue_cola",
        "train",
        "glue/CoLA/train.tsv",
        "gj04\t1\n",
        r"train\.tsv:1: 2 cells under the 4",
    ),
    (
        "glue_mnli",
        "validation_matched",
        "glue/MNLI_dev_matched.metaicl.jsonl",
        '{"input": "premise: a hypothesis: b", "output": "neutral"}\n',
        r"jsonl:1: 'input' has no",
    ),
    (
        "super_glue_multirc",
        "train",
        "superglue/MultiRC/train.jsonl",
        '{"idx": 0}\n',
        r"train\.jsonl:1: no key 'passage'",
    ),
    (
        "super_glue_wsc",
        "train",
        "superglue/WSC/train.jsonl",
        json.dumps(
            {
                "text": "He slept.",
                "idx": 0,
                "label": True,
                "target": {
                    "span1_text": "He",
                    "span2_text": "she",
                    "span1_index": 0,
                    "span2_index": 0,
                },
            }
        ),
        r"train\.jsonl:1: word 0 of the text is not 'she'",
    ),
    (
        "super_glue_wsc",
        "train",
        "superglue/WSC/train.jsonl",
        json.dumps(
            {
                "text": "He slept.",
                "idx": 0,
                "label": False,
                "target": {
                    "span1_text": "He",
                    "span2_text": "He",
                    "span1_index": 0,
                    "span2_index": 0,
                },
            }
        ),
        r"superglue/WSC, split 'train': has no rows",
    ),
    (
        "e2e_nlg",
        "train",
        "text2text/e2e/trainset.csv",
        "mr,ref\nname[A]\n",
        r"csv:2: 1 cells, not 2",
    ),
    ("e2e_nlg", "train", "text2text/e2e/trainset.csv", "mr,text\nname[A],b\n", r":2: no key 'ref'"),
    ("web_nlg", "train", "text2text/webnlg_challenge_2017/train.json", "{", r"json: not JSON"),
    (
        "dialogsum",
        "train",
        "text2text/dialogsum/dialogsum.train.jsonl",
        '{"dialogue": "a"}\n',
        r"train\.jsonl:1: no field 'summary'",
    ),
    (
        "squad",
        "train",
        "squad/train-v1.1.json",
        '{"data": [{"paragraphs": [{"context": "c"}]}]}',
        r"json:1: no key 'qas'",
    ),
]


@pytest.mark.parametrize(("name", "split", "path", "content", "message"), BAD)
def test_a_bad_row_is_named(name, split, path, content, message, empty):
    write(empty / path, content)
    with pytest.raises(UserError, match=message) as caught:
        text.load_examples(name, split)
    assert "\n" not in str(caught.value)


PAIR = {"premise": "p", "hypothesis": "h", "label": "neutral", "idx": 0}
TARGET = {"span1_text": "Mark", "span2_index": 5, "span2_text": "He"}
QUERY = {"query": "@placeholder wins", "answers": [{"text": "Evian"}], "idx": 0}
PASSAGE = {"text": "Evian wins", "entities": [{"start": 0, "end": 4}]}
ANSWER = {"text": "a", "idx": 0, "label": 1}
FIELDS = [
    ("super_glue_cb", "superglue/CB/val.jsonl", PAIR),
    (
        "super_glue_wsc",
        "superglue/WSC/val.jsonl",
        {"text": "Mark told Pete many lies. He ran", "target": TARGET, "idx": 0, "label": True},
    ),
    (
        "super_glue_record",
        "superglue/ReCoRD/val.jsonl",
        {"passage": PASSAGE, "qas": [QUERY], "idx": 0},
    ),
    (
        "super_glue_multirc",
        "superglue/MultiRC/val.jsonl",
        {
            "passage": {
                "text": "p",
                "questions": [{"question": "q", "idx": 0, "answers": [ANSWER]}],
            },
            "idx": 0,
        },
    ),
    (
        "super_glue_copa",
        "superglue/COPA/val.jsonl",
        {
            "premise": "p",
            "choice1": "a",
            "choice2": "b",
            "question": "cause",
            "label": 0,
            "idx": 0,
        },
    ),
    (
        "hellaswag",
        "hellaswag/hellaswag_val.jsonl",
        {"ctx": "He runs.", "endings": ["a", "b", "c", "d"], "label": 3},
    ),
    (
        "winogrande",
        "winogrande_1.1/dev.jsonl",
        {"sentence": "_ won.", "option1": "Al", "option2": "Bo", "answer": "1"},
    ),
    (
        "dialogsum",
        "text2text/dialogsum/dialogsum.dev.jsonl",
        {"dialogue": "a", "summary": "b"},
    ),
]


def within(value, path=()):
    """The keys that lead to each value within one of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*path, key)
        if isinstance(one, dict | list):
            yield from within(one, (*path, key))


def with_other(value, path, other):
    """A copy that has `other` at a place."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = other
    return copy


@pytest.mark.parametrize(("name", "path", "record"), FIELDS)
def test_a_field_of_another_type_is_named(name, path, record, empty):
    source = text.get_task(name).source
    write(empty / path, json.dumps(record))
    assert source.get_dataset("validation")
    refused, known = 0, {key for keys in within(record) for key in map(str, keys)}
    for keys in within(record):
        for other in (None, {}, {"a": 1}, [], [None], "x", 1.5):
            write(empty / path, json.dumps(with_other(record, keys, other)))
            try:
                source.get_dataset("validation")
            except UserError as error:
                refused += 1
                said = set(re.findall(r"\w+", error.problem))
                assert path.split("/")[-2] in str(error) and "Error" not in error.problem
                assert other is not None or said & known, error.problem
            else:
                assert other is not None, f"null for {keys}"
    assert refused > 10


def test_missing_files_are_named(empty):
    messages = {
        "glue_mnli": r"has no glue/MNLI/train\.tsv and no TFDS glue/mnli:2\.0\.0; get .*gluebench",
        "glue_qqp": r"glue/QQP/train\.tsv or glue/QQP_train_sample\.metaicl\.jsonl and no TFDS",
        "trec": r"has no classification/TREC\.train; get the file from https://github",
        "xsum": r"has no TFDS xsum:1\.1\.0; prepare it there \(https://www\.tensorflow",
        "nano_panx": r"has no xtreme/panx/train-en\.tsv; get",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            text.load_examples(name, "train")
    write(empty / "classification" / "rt-polarity.neg", "so dull\n" * 3 + "poor\nweak\nflat\nbad\n")
    with pytest.raises(
        UserError, match=r"rt-polarity\.pos: no such file beside .*rt-polarity\.neg"
    ):
        text.load_examples("mr", "train")
    columns = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n"
    write(empty / "glue/MRPC/msr_paraphrase_train.txt", columns)
    with pytest.raises(UserError, match=r"dev_ids\.tsv: no such file, and it splits MRPC"):
        text.load_examples("glue_mrpc", "train")


def test_squads_form(empty):
    answers = [{"text": "U.S.", "answer_start": 3}, {"text": "the U.S.", "answer_start": 0}]
    entry = {"id": "a", "question": "Where's  it?", "answers": answers}
    paragraph = {"context": "In the U.S.", "qas": [entry]}
    write(empty / "squad/dev-v1.1.json", json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    ((row,),) = text.load_examples("squad", "validation").values()
    assert row["inputs"] == "question: Where ' s it ? context: In the U . S . "
    assert row["answers"] == ["U.S.", "the U.S."] and row["targets"] == "U . S . "
    for written in ("the u.s.", "U . S ."):
        assert scores("squad", "validation", lambda e, text=written: text)["em"] == 100.0


def test_qqp_leaves_out_broken_lines(empty):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(empty / "glue/QQP/dev.tsv", header + "1\t2\t3\ta?\n4\t5\t6\tb?\tc?\t1\n")
    ((row,),) = text.load_examples("glue_qqp", "validation").values()
    assert (row["inputs"], row["targets"]) == ("qqp question1: b? question2: c?", "duplicate")
