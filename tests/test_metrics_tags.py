"""Spans against numbers of seqeval 1.2.2, run once on the same random sequences."""

import random
from itertools import chain

import pytest
from sklearn.metrics import accuracy_score

from prompt_jax.metrics.tags import grouped, named_f1, span_f1, spans, tag_accuracy, tag_f1

IOB = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
UPOS = ["NOUN", "SCONJ", "SYM", "INTJ", "VERB"]


def sequences(seed: int, tags: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    rng = random.Random(seed)
    wanted = [[rng.choice(tags) for _ in range(8)] for _ in range(5)]
    said = [[t if rng.random() < 0.7 else rng.choice(tags) for t in row] for row in wanted]
    return wanted, said


@pytest.mark.parametrize(
    ("seed", "scores"),
    [
        (0, (70.0, 72.41379310344827, 71.1864406779661)),
        (1, (69.23076923076923, 78.26086956521739, 73.46938775510203)),
        (2, (63.33333333333333, 63.33333333333333, 63.33333333333333)),
        (3, (73.33333333333333, 78.57142857142857, 75.86206896551724)),
    ],
)
def test_span_f1_is_seqevals(seed, scores):
    told = span_f1(*sequences(seed, IOB))
    assert tuple(told.values()) == pytest.approx(scores, abs=1e-9)
    assert list(told) == ["span_precision", "span_recall", "span_f1"]


@pytest.mark.parametrize(
    ("seed", "f1"), [(0, 63.01369863013699), (1, 61.9718309859155), (2, 47.22222222222223)]
)
def test_tag_f1_is_seqevals_of_bare_tags(seed, f1):
    assert tag_f1(*sequences(seed, UPOS)) == {"tag_f1": pytest.approx(f1, abs=1e-9)}


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("I-PER I-PER O", [("PER", 0, 1)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("B-LOC E-LOC I-LOC", [("LOC", 0, 1), ("LOC", 2, 2)]),
        ("S-PER S-PER O", [("PER", 0, 0), ("PER", 1, 1)]),
        ("B I O I", [("_", 0, 1), ("_", 3, 3)]),
        ("O foo foo", [("oo", 1, 2)]),
        ("O O", []),
    ],
)
def test_spans_begin_and_end_as_in_conlleval(tags, found):
    assert spans(tags.split()) == found


def test_tag_accuracy_is_over_tokens():
    wanted, said = sequences(0, UPOS)
    flat = [[*chain.from_iterable(side)] for side in (wanted, said)]
    expected = 100 * accuracy_score(*flat)
    assert tag_accuracy(wanted, said) == {"tag_accuracy": pytest.approx(expected, abs=1e-9)}


def test_predictions_of_another_length_are_filled_and_cut():
    assert tag_accuracy(["NOUN VERB"], ["NOUN"]) == {"tag_accuracy": 50.0}
    assert tag_accuracy(["NOUN VERB"], ["NOUN VERB NOUN"]) == {"tag_accuracy": 100.0}
    assert span_f1(["O B-PER"], ["O"]) == {"span_precision": 0, "span_recall": 0, "span_f1": 0}
    assert tag_accuracy([["O", "X"]], [["", "X"]]) == {"tag_accuracy": 100.0}


def test_a_sentence_does_not_run_into_the_next():
    assert span_f1(["B-PER", "I-PER"], ["B-PER", "I-PER"])["span_f1"] == 100.0
    assert span_f1(["B-PER", "I-PER"], ["B-PER I-PER", "O"])["span_recall"] == 50.0


def test_tokens_of_one_sentence_are_put_together():
    targets = [{"group": g, "value": t} for g, t in [(0, "B-PER"), (1, "O"), (0, "I-PER")]]
    said = [{"value": t} for t in ("B-PER", "O", "O")]
    assert grouped(span_f1)(targets, said)["span_f1"] == 0.0
    assert grouped(span_f1)(targets, [{"value": t["value"]} for t in targets])["span_f1"] == 100.0


def test_named_entities_are_sets():
    wanted = [{("PER", "Ann"), ("LOC", "Rome")}, set()]
    said = [[("PER", "Ann"), ("PER", "Ann"), ("ORG", "Rome")], [("LOC", "Rome")]]
    told = named_f1(wanted, said)
    assert tuple(told.values()) == pytest.approx((100 / 3, 50.0, 40.0))
