"""Rows above tasks, by hand."""

import math

import pytest

from prompt_jax.metrics.aggregate import SUPER_GLUE, XTREME, aggregates, cross_lingual_gap


def super_glue_scores() -> dict[str, dict[str, float]]:
    scores = {f"super_glue_{name}": {"accuracy": 80.0} for name in SUPER_GLUE}
    scores["super_glue_cb"] = {"mean_3class_f1": 70.0, "accuracy": 90.0, "count/neutral": 3.0}
    scores["super_glue_multirc"] = {"f1": 60.0, "exact_match": 20.0}
    scores["super_glue_record"] = {"f1": 50.0, "em": 40.0}
    return scores


def test_super_glue_is_the_mean_of_eight_tasks():
    scores = super_glue_scores()
    expected = (5 * 80 + 80 + 40 + 45) / 8
    assert aggregates(scores) == {"super_glue": pytest.approx(expected, abs=1e-9)}
    taskless = {f"taskless_{name}": value for name, value in scores.items()}
    assert aggregates(taskless) == aggregates(scores)
    del scores["super_glue_wsc"]
    assert aggregates(scores) == {}


def test_a_metric_that_a_task_does_not_give_is_not_made_up():
    scores = super_glue_scores() | {"super_glue_record": {"f1": 50.0}}
    assert math.isnan(aggregates(scores)["super_glue"])


def test_xtreme_is_the_mean_of_means_over_languages():
    scores = {}
    for number, (task, names) in enumerate(XTREME.items()):
        for language, value in (("en", 90.0), ("de", 80.0), ("sw", 40.0 + number)):
            scores[f"xtreme_{task}_zero_shot_{language}"] = dict.fromkeys(names, value)
    rows = aggregates(scores)
    means = [(90 + 80 + 40 + n) / 3 for n in range(9)]
    assert rows["xtreme"] == pytest.approx(sum(means) / 9, abs=1e-9)
    assert rows["xnli/mean"] == pytest.approx(means[0], abs=1e-9)
    assert rows["pawsx/gap"] == pytest.approx(90 - (80 + 41) / 2, abs=1e-9)
    assert len(rows) == 19


def test_question_answering_counts_f1_and_em():
    rows = aggregates({"mlqa_en": {"f1": 60.0, "em": 40.0}, "mlqa_hi": {"f1": 50.0, "em": 30.0}})
    assert rows == {"mlqa/mean": 45.0, "mlqa/gap": 10.0}


def test_the_gap_needs_the_source_language():
    assert aggregates({"xnli_de": {"accuracy": 1.0}, "xnli_fr": {"accuracy": 3.0}}) == {
        "xnli/mean": 2.0
    }
    assert cross_lingual_gap({"de": 9.0, "en": 1.0, "fr": 3.0}, source="de") == 7.0
