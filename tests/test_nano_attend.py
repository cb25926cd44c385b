"""Rows whose front says how to answer: the answer is that of the class nearest to the text."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.run.pretrain import BackboneVocabulary
from prompt_jax.tasks import nano_attend, nano_teacher

TOPICS = (
    "ship harbour sailor anchor captain voyage",
    "flower garden petal blossom meadow orchid",
    "guitar melody chorus rhythm violin concert",
    "goal striker penalty referee stadium keeper",
)
SIGNS = {-1: "dreadful horrible awful", 1: "wonderful lovely charming"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder whose teacher has four topics and two signs, 40 texts each."""
    rng, lines, vectors = np.random.default_rng(0), [], []
    kinds = [(0, topic.split()) for topic in TOPICS]
    kinds += [(sign, words.split()) for sign, words in SIGNS.items()]
    for kind, (sign, words) in enumerate(kinds):
        for _ in range(40):
            lines.append(f"{sign}\t{' '.join(rng.choice(words, 4))}\n")
            vectors.append(10 * np.eye(8)[kind] + rng.normal(size=8))
    root = tmp_path_factory.mktemp("data")
    (root / "teacher").mkdir()
    (root / "teacher" / "texts.tsv").write_text("".join(lines))
    unit = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(root / "teacher" / "vectors.npy", unit.astype(np.float16))
    return root


@pytest.fixture
def teacher(folder, monkeypatch):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(folder))
    monkeypatch.setattr(nano_attend, "CLUSTERS", 12)
    monkeypatch.setattr(nano_attend, "MOST_OFTEN", 1.0)
    caches = (nano_attend.centred, nano_attend.clusters, nano_attend.signs)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def topics_in(text: str) -> set[int]:
    return {n for n, words in enumerate(TOPICS) if set(words.split()) & set(text.split())}


def test_the_label_is_that_of_the_class_of_the_text(teacher):
    rows = list(nano_attend.classes_rows(300))
    assert len(rows) > 100
    named = 0
    for row in rows:
        assert row["targets"] in row["inputs"].rsplit(" ", 4)[0]
        of_label, of_text = topics_in(row["targets"]), topics_in(row["inputs"].split()[-1])
        named += bool(of_label)
        assert of_label <= of_text or not of_text
    assert named > 30  # the others are symbols
    assert rows == list(nano_attend.classes_rows(300))


def test_a_text_stands_for_its_class(teacher):
    rows = list(nano_attend.texts_rows(200))
    assert len(rows) > 50
    assert all(row["targets"] in row["inputs"] for row in rows)


def test_phrases_have_the_sign_of_their_words(teacher):
    negative = {label for labels in nano_attend.FEELINGS for label in labels[:1]}
    positive = {label for labels in nano_attend.FEELINGS for label in labels[1:]}
    for row in nano_attend.polar_rows(200):
        sign = {word: sign for sign, words in SIGNS.items() for word in words.split()}
        last = sign.get(row["inputs"].split()[-1])
        if last and row["targets"] in negative | positive:
            assert (row["targets"] in positive) == (last > 0), row


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("how long is the wall?", "21 km", "number"),
        ("when did he sail?", "3 August 1492", "date"),
        ("who drew it?", "Da Vinci", "person"),
        ("which city is it in?", "Paris", "place"),
        ("what is it made of?", "red clay", "thing"),
        ("why?", "Because it was there and nobody had tried before", None),
    ],
)
def test_what_is_asked_for(question, answer, kind):
    rows = list(nano_attend.asked_rows([(question, answer)] * 2, [], {"Paris": "LOC"}))
    assert (not rows) == (kind is None)
    at = None if kind is None else nano_attend.ANSWERS[0].index(kind)
    assert all(row["targets"] in {words[at] for words in nano_attend.ANSWERS} for row in rows)
    assert all(row["targets"] in row["inputs"] for row in rows[1:])


def test_without_a_teacher_the_remedy_is_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="nano_teacher --data_dir=DATA"):
        nano_teacher.read_teacher()


def test_phrases_are_made_of_rated_words():
    made = nano_teacher.phrases()
    assert {sign for sign, _ in made} == {-1, 1}
    assert len(made) > nano_teacher.EACH
    assert made == nano_teacher.phrases()


def test_pretraining_goes_on_with_the_vocabulary_of_a_backbone(tmp_path):
    BackboneVocabulary(backbone="nano").make(tmp_path / "a" / "spiece.model")
    assert (tmp_path / "a" / "spiece.model").stat().st_size > 100_000
    with pytest.raises(UserError, match="has no SentencePiece model"):
        BackboneVocabulary(backbone="random:nano?vocabulary=bytes").make(
            tmp_path / "b" / "spiece.model"
        )
