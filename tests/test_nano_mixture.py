"""The mixture `nano_multitask`: its windows, its sizes, and that it holds no test texts."""

import csv
import io
import json
import lzma
import re
from pathlib import Path

import overlap
import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import (
    mnano_mixture,
    nano_choose,
    nano_forms,
    nano_kinds,
    nano_mixture,
    nano_text,
    official,
    quickstart,
    text,
)
from prompt_jax.textfiles import LEFT_OUT, left_out, paragraph_digest


@pytest.fixture
def real(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(shared / "data"))
    return shared / "data"


def test_windows_hold_what_they_must():
    context = " ".join(f"word{i}" for i in range(200)) + " in Paris , France ."
    start = context.index("Paris")
    for most in (1, 5, 30):
        window = nano_forms.window_with(context, start, start + 5, most)
        assert window is not None and "Paris" in window.split()
        assert len(window.split()) == most and window in context
    assert nano_forms.window_with(context, start, start + 14, 2) is None
    passage = "Rain falls. " * 30 + "The miller sold flour. " + "Rain falls. " * 30
    assert "The miller sold flour." in nano_forms.best_window(passage, "Who sold flour?", 8)
    assert nano_forms.best_window("two words", "none", 8) == "two words"


@pytest.mark.slow
def test_the_members_of_the_mixture(real):
    rates = text.mixture_rates("nano_multitask")
    assert set(rates) == {f"nano_{name}" for name in nano_mixture.MEMBERS}
    for name, member in mnano_mixture.ENGLISH.items():
        if name in nano_mixture.MEMBERS and name != "text":
            assert rates[f"nano_{name}"] == min(member.rows, nano_mixture.MAX_RATE)
        if name != "multirc":  # its windows take ten seconds
            rows = nano_mixture.member_rows(member, "train")
            assert len(rows) == member.rows, name
            longest = max(len(row["inputs"].removeprefix("choose").split()) for row in rows)
            listed = 1 + len(member.labels[0]) + 1 if member.labels else 0  # "options: a, b text:"
            assert longest <= member.words + listed
    assert rates["nano_text"] / sum(rates.values()) == pytest.approx(nano_mixture.TEXT_SHARE)


RUN = 8


def words_of(line: str) -> tuple[str, ...]:
    return tuple("".join(c if c.isalnum() else " " for c in line.lower()).split())


def downstream(real: Path) -> set[str]:
    """Texts of what nano is tested on."""
    found = set()
    for name in ("glue_sst2", "sst5", "mr", "trec", "ag_news", "glue_cola", "e2e_nlg"):
        for split in text.get_task(f"taskless_{name}").source.present():  # type: ignore
            for row in text.load_examples(f"taskless_{name}", split)[f"taskless_{name}"]:
                found |= {row["inputs"].split(": ", 1)[1], *row.get("answers", ())}
    for data in ("RTE", "CB", "WiC"):
        for path in (real / "superglue" / data).iterdir():
            for line in path.read_text().splitlines():
                found |= {v for v in json.loads(line).values() if isinstance(v, str)}
    for split in ("dev", "test"):
        content = official.read_bytes(official.epath.Path(real / f"xtreme/xnli/{split}-en.tsv.gz"))
        for row in csv.reader(
            io.StringIO(content.decode()), delimiter="\t", quoting=csv.QUOTE_NONE
        ):
            found |= set(row[:2])
    return found


@pytest.mark.slow
def test_the_mixture_shares_no_texts_with_what_nano_is_tested_on(real):
    runs = set()
    for line in downstream(real):
        words = words_of(line)
        for start in range(len(words) - RUN + 1):
            runs.add(words[start : start + RUN])
    assert len(runs) > 500_000
    for name, member in mnano_mixture.ENGLISH.items():
        for row in nano_mixture.member_rows(member, "train"):
            words = words_of(row["inputs"])
            shared = [w for w in zip(*(words[i:] for i in range(RUN)), strict=False) if w in runs]
            assert not shared, (name, row["inputs"])


@pytest.mark.slow
def test_the_corpus_shares_no_texts_with_what_backbones_are_tested_on(real):
    texts = overlap.tested_texts(downstream(real))
    assert len(texts) > 1_000_000
    shared = overlap.shared_paragraphs(real / "corpus", texts)
    found = {paragraph_digest(line): (name, line) for name, line in shared}
    assert len(found) > 1000
    missing = {digest: found[digest] for digest in set(found) - left_out()}
    assert not missing, f"add to {LEFT_OUT}: {missing}"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with three documents of two paragraphs, and lines in two languages."""
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    documents = [[" ".join(f"{d}{p}w{n}" for n in range(30)) for p in "ab"] for d in "xyz"]
    (tmp_path / "corpus").mkdir()
    text = "\n\n".join("\n".join(paragraphs) for paragraphs in documents)
    (tmp_path / "corpus" / "some.txt").write_text(text + "\ntoo short\n")
    for language, line in (("en", "Good day.\n\nA line."), ("sw", "Habari.\nx\nMstari.")):
        folder = tmp_path / "corpus" / "multi" / language
        folder.mkdir(parents=True)
        with lzma.open(folder / "ntrex.txt.xz", "wt") as file:
            file.write(line)
    nano_text.passages.cache_clear()
    nano_choose.keywords.cache_clear()
    return tmp_path


def test_rows_made_of_text(corpus):
    whole = [line.split() for line in (corpus / "corpus" / "some.txt").read_text().splitlines()]
    for row in nano_text.text_rows("some.txt", 20):
        words = f"{row['inputs']} {row['targets']}".split()
        assert words in whole and len(row["inputs"].split()) == 15
    for number, row in enumerate(nano_text.order_rows("some.txt", 20)):
        words = row["inputs"].removeprefix("order text: ").split()
        natural = any(words == line[: nano_text.HALF] for line in whole)
        assert row["targets"] == ("natural", "changed")[number % 2]
        assert natural == (row["targets"] == "natural")
    labels = set()
    for row in nano_text.same_rows("some.txt", 40):
        one, other = row["inputs"].removeprefix("same text1: ").split(" text2: ")
        assert row["targets"] == ("same" if one[0] == other[0] else "different")
        labels.add(row["targets"])
    assert labels == {"same", "different"}
    assert list(nano_text.text_rows("some.txt", 5)) == list(nano_text.text_rows("some.txt", 9))[:5]


def test_rows_of_translations(corpus):
    rows = list(nano_text.translate_rows("en", "sw", 160))
    assert rows == [
        {"inputs": "translate en to sw: Good day.", "targets": "Habari."},
        {"inputs": "translate en to sw: A line.", "targets": "Mstari."},
    ]
    assert next(iter(nano_text.translate_rows("sw", "en", 8)))["targets"] == "A line."


def test_paragraphs_that_are_left_out(corpus, monkeypatch):
    line = (corpus / "corpus" / "some.txt").read_text().splitlines()[0]
    monkeypatch.setattr(nano_text, "left_out", lambda: {paragraph_digest(line)})
    assert len(nano_text.passages("some.txt")) == 5


def test_the_multilingual_mixture(real):
    rates = text.mixture_rates("mnano_multitask")
    others = {name: rate for name, rate in rates.items() if name.startswith("mnano_")}
    assert len(others) == 36 and sum(others.values()) == pytest.approx(sum(rates.values()) / 2)
    english = sum(rates.values()) / 2
    assert rates["nano_text"] == pytest.approx(mnano_mixture.TEXT_SHARE * english)
    meanings = sum(rate for name, rate in others.items() if "meaning" in name)
    assert meanings == pytest.approx(sum(rates.values()) / 4)
    rows = text.load_examples("mnano_en_sw", "train")["mnano_en_sw"]
    assert len(rows) > 1000 and rows[0]["inputs"].startswith("translate en to sw: ")


def options_of(row: dict[str, str]) -> tuple[list[str], str]:
    """The options of a row's input, and its text."""
    options, text = row["inputs"].removeprefix("choose options: ").split(" text: ", 1)
    return options.split(", "), text


def test_listed_labels_stand_for_those_of_the_set():
    rows = [{"inputs": f"{n}", "targets": ("natural", "changed")[n % 3 > 0]} for n in range(400)]
    listed = list(nano_choose.with_options(rows, nano_choose.NATURAL))
    assert listed[::2] == rows[::2]
    seen = set()
    for plain, row in zip(rows[1::2], listed[1::2], strict=True):
        options, text = options_of(row)
        words = next(w for w in nano_choose.NATURAL if {*w} == {*options})
        assert text == plain["inputs"]
        assert row["targets"] == words[("natural", "changed").index(plain["targets"])]
        seen.add((*options, row["targets"]))
    assert len(seen) == 4 * 2 * 2  # words, their order, the answer


def test_rows_that_choose(corpus):
    for row in nano_choose.cloze_rows("some.txt", 20):
        options, text = options_of(row)
        assert row["targets"] in options and len({*options}) == len(options) <= 6
        assert text.replace("_", row["targets"]) in whole_text(corpus)
    for row in nano_choose.after_rows("some.txt", 20):
        text, word = row["inputs"].removesuffix(" is:").split(" The word after ")
        assert f"{word} {row['targets']}" in text
    questions = [{"inputs": f"who {n}?", "targets": f"name {n}"} for n in range(9)]
    for number, row in enumerate(nano_choose.answer_rows(questions)):
        options, text = options_of(row)
        assert (text, row["targets"]) == (f"who {number}?", f"name {number}")
        assert row["targets"] in options and 2 <= len(options) <= 4


def whole_text(corpus: Path) -> str:
    return (corpus / "corpus" / "some.txt").read_text()


@pytest.mark.slow
def test_topics_are_words_of_other_parts_of_a_document(real):
    rows = list(nano_choose.topic_rows(nano_mixture.TEXT, 300))
    assert rows == list(nano_choose.topic_rows(nano_mixture.TEXT, 400))[: len(rows)]
    documents: dict[str, set[int]] = {}
    for number, words in enumerate(nano_choose.keywords(nano_mixture.TEXT)):
        for word in words:
            documents.setdefault(word, set()).add(number)
    whole: dict[int, list[str]] = {}
    for number, words in nano_text.passages(nano_mixture.TEXT):
        whole.setdefault(number, []).append(" ".join(words))
    for row in rows[:50]:
        options, text = options_of(row)
        assert row["targets"] in options and row["targets"] not in text.lower().split()
        home = [n for n in documents[row["targets"]] if any(text in line for line in whole[n])]
        assert home, row
    assert len({row["targets"] for row in rows}) > 150


@pytest.mark.slow
def test_feelings_are_those_of_the_lexicon(real):
    rows = list(nano_choose.feeling_rows((nano_mixture.TEXT,), 60))
    ratings = {word: label for _, word, label in quickstart.vader_entries(1.0)}
    for row in rows:
        options, text = options_of(row)
        words = next(w for w in nano_choose.FEELINGS if {*w} == {*options})
        found = {ratings[w] for w in re.findall("[a-z]+", text.lower()) if w in ratings}
        assert found == {("negative", "positive")[words.index(row["targets"])]}


def test_meanings_are_words_of_the_translation(real):
    english = (real / "corpus" / "multi/en/ntrex.txt.xz").read_bytes()
    swahili = lzma.decompress((real / "corpus" / "multi/sw/ntrex.txt.xz").read_bytes()).decode()
    pairs = zip(swahili.splitlines(), lzma.decompress(english).decode().splitlines(), strict=True)
    of_line = dict(pairs)
    rows = list(nano_choose.meaning_rows("sw", 160))
    assert len(rows) > 500
    for row in rows[:100]:
        options, text = options_of(row)
        line = of_line[text].split()
        plain = [word.strip(".,;:!?()\"'") for word in line]
        assert row["targets"] in plain and not {*plain} & ({*options} - {row["targets"]})


def test_text_without_a_data_folder(monkeypatch):
    monkeypatch.delenv("PROMPT_JAX_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=r"corpus/x\.txt: is read from a data folder; give"):
        nano_text.read_corpus("x.txt")


def test_rows_about_one_word(corpus):
    members, class_of = nano_kinds.classes("some.txt")
    assert sorted(word for words in members for word in words) == sorted(class_of)
    for number, row in enumerate(nano_kinds.kind_rows("some.txt", 20)):
        options, listed, inputs = row["inputs"].rpartition(" text: ")
        asked = next(form for form in nano_kinds.ASKED if inputs.endswith(form.split("{}")[-1]))
        word = inputs.removesuffix(asked.split("{}")[-1]).split()[-1]
        assert bool(listed) == bool(number % 2)
        assert row["targets"] in members[class_of[word]]
        if listed:
            words = options.removeprefix("choose options: ").split(", ")
            others = [w for w in words if w != row["targets"]]
            assert others and all(class_of[w] != class_of[word] for w in others)
        else:
            assert row["targets"] == members[class_of[word]][0]
    record = {"words": ["Marie", "Curie", "in", "Paris"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]}
    right = {"Marie": "person", "Curie": "person", "in": "none", "Paris": "location"}
    seen = set()
    for row in nano_kinds.entity_rows([record] * 20):
        last = row["inputs"].removeprefix("Marie Curie in Paris ")
        word = next(w for w in right if w in last.split())
        assert row["targets"] == right[word]
        seen.add(row["targets"])
    assert seen == {"person", "location", "none"}


@pytest.mark.slow
def test_related_keywords_and_classes_of_words(real):
    keywords = nano_choose.keywords(nano_mixture.TEXT)
    of_word = {}
    for number, words in enumerate(keywords):
        for word in words:
            of_word.setdefault(word, set()).add(number)
    rows = list(nano_kinds.related_rows(nano_mixture.TEXT, 200))
    assert rows == list(nano_kinds.related_rows(nano_mixture.TEXT, 300))[: len(rows)]
    for row in rows:
        shown = row["inputs"].split(" text: ")[1].split()
        assert set.intersection(*(of_word[word] for word in (*shown, row["targets"])))
    class_of = nano_kinds.classes(nano_mixture.TEXT)[1]
    for alike, other in (
        (("he", "she"), "city"),
        (("germany", "france"), "used"),
        (("1914", "2010"), "it"),
    ):
        assert class_of[alike[0]] == class_of[alike[1]] != class_of[other], alike
