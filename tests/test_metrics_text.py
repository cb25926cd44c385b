import pytest
from sklearn.metrics import accuracy_score, f1_score

from prompt_jax.errors import UserError
from prompt_jax.metrics.text import UNLABELLED, accuracy, label_stats, mean_class_f1

LABELS = ("entailment", "contradiction", "neutral")
TARGETS = ["entailment"] * 4 + ["contradiction"] * 3 + ["neutral"] * 2
PREDICTIONS = ["entailment", "entailment", "neutral", "", "contradiction", "entailment", "maybe"]
PREDICTIONS += ["neutral", "contradiction"]


def test_accuracy_is_scikit_learns_in_percent():
    expected = 100 * accuracy_score(TARGETS, PREDICTIONS)
    assert accuracy(TARGETS, PREDICTIONS) == {"accuracy": pytest.approx(expected, abs=1e-9)}
    assert accuracy(TARGETS, TARGETS) == {"accuracy": 100.0}


@pytest.mark.parametrize("said", [PREDICTIONS, TARGETS, ["entailment"] * 9, ["nonsense"] * 9])
def test_mean_class_f1_is_scikit_learns_macro_f1(said):
    expected = 100 * f1_score(TARGETS, said, labels=LABELS, average="macro", zero_division=0)
    score = mean_class_f1(LABELS)(TARGETS, said)
    assert score == {"mean_3class_f1": pytest.approx(expected, abs=1e-9)}


def test_mean_class_f1_counts_a_label_that_never_occurs_as_zero():
    targets = ["entailment", "contradiction"]
    score = mean_class_f1(LABELS)(targets, targets)
    assert score["mean_3class_f1"] == pytest.approx(200 / 3)


def test_comparison_is_exact():
    assert accuracy(["True"], ["true"]) == {"accuracy": 0.0}
    assert accuracy(["True"], ["True "]) == {"accuracy": 0.0}


def test_label_stats_counts_what_is_no_label():
    stats = label_stats(LABELS)(TARGETS, PREDICTIONS)
    assert stats == {
        "not_a_label": pytest.approx(100 * 2 / 9),
        "count/entailment": 3.0,
        "count/contradiction": 2.0,
        "count/neutral": 2.0,
    }


def test_a_split_without_labels_is_not_scored():
    with pytest.raises(UserError, match=r"2 of 3 rows have no label .* labelled split"):
        accuracy([UNLABELLED, "no", UNLABELLED], ["yes", "no", "no"])
    assert label_stats(("yes",))([UNLABELLED], ["yes"])["count/yes"] == 1.0


@pytest.mark.parametrize("metric", [accuracy, mean_class_f1(LABELS), label_stats(LABELS)])
def test_no_rows_and_unequal_lengths_are_refused(metric):
    with pytest.raises(UserError, match="no rows"):
        metric([], [])
    with pytest.raises(ValueError, match="1 targets but 2 predictions"):
        metric(["neutral"], ["neutral", "neutral"])
