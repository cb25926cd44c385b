"""The scoreboard's rows that no network answers: words counted, and a linear model of them.

A newcomer asks of every board of texts what counting words gives. TF-IDF weights of words and pairs
of words, seen in two rows or more, then logistic regression, whose penalty is chosen among three by
three folds of the training rows, or the nearest of the labels' mean vectors.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline

from prompt_jax.evaluate.scorer import Answer, TaskScorer

MOST = 20_000  # training rows, the first ones
PENALTIES = (1, 10, 100)  # one over the strength


def classifier(kind: str) -> Any:
    """An unfitted model from texts to labels."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    if kind == "centroid":
        return make_pipeline(words, NearestCentroid())
    return make_pipeline(
        words, LogisticRegressionCV(Cs=PENALTIES, cv=3, max_iter=2000, scoring="accuracy")
    )


def counted(run: Any, scorer: TaskScorer, kind: str) -> dict[str, float]:
    """The metrics of answers by the words of a run's own training rows."""
    data, evaluation = run.data, run.evaluation
    known = dataclasses.replace(evaluation, task=None, split=data.split, max_examples=MOST)
    rows = [example for of in known.read(data).examples.values() for example in of]
    model = classifier(kind)
    model.fit([row["inputs"] for row in rows], [row["targets"] for row in rows])
    return scorer.score([_answers(model, task.examples) for task in scorer.tasks])[0]


def _answers(model: Any, examples: Sequence[Any]) -> list[Answer]:
    labels = model.predict([example["inputs"] for example in examples])
    return [Answer(str(label), 0.0) for label in labels]
