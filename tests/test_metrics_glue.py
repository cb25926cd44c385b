import math

import pytest
from scipy import stats
from sklearn import metrics as sk

from prompt_jax.errors import UserError
from prompt_jax.metrics import glue

YES = ["yes", "no", "yes", "no", "yes"]
SAID = ["yes", "yes", "maybe", "no", "no"]


def test_matthews_is_sklearns():
    metric = glue.matthews_corrcoef(("no", "yes"))
    said = ["yes", "yes", "no", "no", "yes"]
    ids = [[text == "yes" for text in texts] for texts in (YES, said)]
    assert metric(YES, said)["matthews_corrcoef"] == pytest.approx(
        100 * sk.matthews_corrcoef(*ids), abs=1e-9
    )
    # A text that is no label is a third class.
    expected = sk.matthews_corrcoef(YES, SAID)
    assert metric(YES, SAID)["matthews_corrcoef"] == pytest.approx(100 * expected)


def test_f1_takes_what_is_no_label_as_wrong():
    said = ["yes", "yes", "no", "no", "no"]  # "maybe" where "yes" was right
    expected = 100 * sk.f1_score(YES, said, pos_label="yes")
    assert glue.f1_of("yes", "no")(YES, SAID) == {"f1": pytest.approx(expected)}
    assert glue.f1_of("yes", "no")(["no"], ["no"]) == {"f1": 0.0}


def test_correlations_are_scipys():
    targets, said = ["0.0", "1.2", "5.0", "3.4", "3.4"], ["0.2", "no", "4.8", "2.0", "nan"]
    numbers = [0.2, -1.0, 4.8, 2.0, -1.0]
    wanted = [float(text) for text in targets]
    pearson = 100 * stats.pearsonr(wanted, numbers)[0]  # type: ignore
    spearman = 100 * stats.spearmanr(wanted, numbers)[0]  # type: ignore
    assert glue.pearson_corrcoef(targets, said)["pearson_corrcoef"] == pytest.approx(pearson)
    assert glue.spearman_corrcoef(targets, said)["spearman_corrcoef"] == pytest.approx(spearman)
    constant = glue.pearson_corrcoef(targets, ["1.0"] * 5)["pearson_corrcoef"]
    assert constant == 0.0 and not math.isnan(constant)


def test_multirc_counts_answers_and_questions():
    answers = [("True", 1), ("False", 1), ("True", 2), ("False", 2)]
    targets = [glue.multirc_answer(t, {"idx/question": q}, is_target=True) for t, q in answers]
    said = [glue.multirc_answer(t) for t in ("True", "False", "False", "perhaps")]
    # One hit of two; the text that is no label counts as True, which is wrong.
    assert glue.multirc_f1(targets, said) == {"f1": pytest.approx(50.0)}
    assert glue.multirc_exact_match(targets, said) == {"exact_match": 50.0}


def test_rows_without_labels_are_refused():
    for metric in (glue.pearson_corrcoef, glue.matthews_corrcoef(("a", "b")), glue.f1_of("a", "b")):
        with pytest.raises(UserError, match="1 of 2 rows have no label"):
            metric(["<unk>", "a"], ["a", "a"])
