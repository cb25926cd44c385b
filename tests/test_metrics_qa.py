"""Answers against numbers of MLQA's official script, run once on the same random rows."""

import random

import pytest

from prompt_jax.errors import UserError
from prompt_jax.metrics.qa import (
    answers,
    mlqa,
    normalise_mlqa,
    record,
    record_answer,
    same_referent,
    squad,
    wsc_match,
)

WORDS = {
    "en": "the a cat An theory U.S.A. it's co-op “x” 1,000 THE",
    "es": "el la Los gato ¿qué? unos lavar día 3º",
    "de": "Der die DAS Haus dem Einem straße „Zitat“ derart",
    "vi": "của là cái con mèo những chiếc Hà Nội, lành",
    "ar": "القط الكتاب كتاب في ال مال، طالب؟",
    "hi": "बिल्ली घर। एक the है, १२",
    "zh": "北京 中国北京 2008年，奥运会 the NBA球员 《红楼梦》 龦 ２",  # noqa: RUF001
}
OFFICIAL = {  # mlqa_evaluation_v1.py on `rows`
    "en": (32.5, 40.33333333333333),
    "es": (52.5, 45.16666666666667),
    "de": (52.5, 41.666666666666664),
    "vi": (37.5, 27.499999999999993),
    "ar": (40.0, 53.30952380952382),
    "hi": (27.5, 48.08333333333333),
    "zh": (45.0, 59.86098988730568),
}


def rows(language: str) -> tuple[list[list[str]], list[str]]:
    rng, words = random.Random(7), WORDS[language].split()

    def text() -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, 3)))

    targets = [[text() for _ in range(rng.randint(1, 3))] for _ in range(40)]
    return targets, [rng.choice(t) if rng.random() < 0.3 else text() for t in targets]


@pytest.mark.parametrize("language", OFFICIAL)
def test_mlqa_equals_the_official_script(language):
    scores = mlqa(language)(*rows(language))
    assert (scores["em"], scores["f1"]) == pytest.approx(OFFICIAL[language], abs=1e-9)


def test_squad_equals_the_official_rules_on_english():
    scores = squad(*rows("en"))
    assert (scores["em"], scores["f1"]) == pytest.approx(OFFICIAL["en"], abs=1e-9)


def test_squad_knows_ascii_punctuation_alone():
    assert squad(["x"], ["“x”"])["em"] == 0.0
    assert mlqa("en")(["x"], ["“x”"])["em"] == 100.0


def test_nothing_equals_nothing():
    """An answer of articles alone: exact, but no words are shared (as in the official script)."""
    assert squad([["the"]], ["a"]) == {"em": 100.0, "f1": 0.0}


def test_chinese_characters_are_words():
    assert normalise_mlqa("在北京 NBA。", "zh") == "在 北 京 nba"
    assert mlqa("zh")(["北京"], ["北京市"])["f1"] == pytest.approx(80.0)


def test_a_language_without_rules_is_refused():
    with pytest.raises(UserError, match="MLQA in 'ja': has no rules; it has en"):
        mlqa("ja")


def test_unanswered_questions_are_not_scored():
    with pytest.raises(UserError, match="1 of 2 rows have no answers"):
        squad([["x"], []], ["x", "y"])
    assert answers("x", {"answers": ["y", "z"]}, is_target=True) == ["y", "z"]
    assert answers("x", {"answers": ["y"]}) == "x"


def test_record_counts_a_query_once():
    examples = [
        {"answers": ["Ann Lee", "Ann"], "idx/query": 0},
        {"answers": ["Ann Lee", "Ann"], "idx/query": 0},
        {"answers": ["Bob"], "idx/query": 1},
    ]
    targets = [record_answer("", e, is_target=True) for e in examples]
    said = [record_answer(text, e) for text, e in zip(["Ann", "Ann", "Tom"], examples, strict=True)]
    assert record(targets, said) == {"em": 50.0, "f1": 50.0}
    said[0] = record_answer("Ann B", examples[0])
    assert record(targets, said)["f1"] == pytest.approx(100 * (2 / 3) / 2)


@pytest.mark.parametrize(
    ("said", "referent", "same"),
    [
        ("the bunny", "Fuzzy bunny", True),
        ("Bob", "Bob's hat", False),
        ("Bob's", "Bob's hat", True),
        ("the cat sat", "cat mat", False),
        ("", "cat", False),
        ("Their  dog", "dog", True),
        ("my dog", "His dog", True),
    ],
)
def test_referents_match_as_t5_matches_them(said, referent, same):
    assert same_referent(said, referent) is same


def test_wsc_compares_a_match_with_the_label():
    post = wsc_match("span1_text")
    example = {"label": 0, "span1_text": "the man"}
    assert post("man", example) == "True"
    assert post("the man", example, is_target=True) == "False"
    assert post("x", {"label": -1, "span1_text": "y"}, is_target=True) == "<unk>"
