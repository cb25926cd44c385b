"""What is computed from a frozen model's answers: GDA's head, TFUP's cache, ZPE's weights."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from prompt_jax.cli.main import main
from prompt_jax.evaluate import zpe
from prompt_jax.evaluate.evidence import Evidence, best_alpha
from prompt_jax.evaluate.gda import GDA
from prompt_jax.evaluate.tfup import TFUP
from prompt_jax.evaluate.tfup_t import TFUPT, of_scores

LABELS = ("a", "b")


def evidence(features, scores, labels) -> Evidence:
    states, said = (np.asarray(x, np.float32)[None] for x in (features, scores))
    return Evidence(states, said, np.asarray(labels))


def test_gdas_head_is_that_of_the_formula():
    """Means (1, 0) and (-1, 0), and 1/2 around them in the first place. By hand, with four rows:
    S = diag(1/3, 0), its trace 1/3, precision 2 diag(1 / (1 + 1/3), 1 / (1/3)) = diag(3/2, 6)."""
    rows = evidence([[1.5, 0], [0.5, 0], [-1.5, 0], [-0.5, 0]], np.zeros((4, 2)), [0, 0, 1, 1])
    head = GDA.fit(rows, LABELS)
    np.testing.assert_allclose(head.arrays["weights"], [[1.5, -1.5], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(head.arrays["bias"], np.log(0.5) - 0.75, rtol=1e-6)
    asked = evidence([[0.5, 0.3]], np.zeros((1, 2)), [0])
    np.testing.assert_allclose(np.diff(head.added(asked)), [[-1.5]], rtol=1e-6)


def test_alpha_is_the_smallest_that_is_best():
    scores, labels = np.asarray([[1.0, 0], [0, 1.0], [0, 3.0]]), np.asarray([1, 1, 1])
    added = np.asarray([[0, 2.0], [0, 0], [0, 0]])
    assert best_alpha((0.1, 1.0, 10.0), scores, added, labels) == 1.0


def test_tfups_cache_is_of_sure_rows_near_their_prototype():
    """Three rows are given to each label; their mean is 0. The scores' own label gains."""
    features = [[1, 0.1], [1, 0], [1, -0.1], [-1, 0.1], [-1, 0], [-1, -0.1]]
    scores = [[2, 0], [2, 0], [2, 0], [0, 2], [0, 2], [0, 2]]
    cache = TFUP.fit(evidence(features, scores, [-1] * 6), LABELS)
    assert sorted(cache.arrays["labels"]) == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(cache.arrays["mean"], [0, 0], atol=1e-7)
    # A row like the first label's in state and prediction: cosines 0.995, 1 and 0.995, KL 0; to
    # the second label's -0.995, -1 and -0.995 times exp(-KL), KL = 2 (p - q) = 1.5231883.
    added = cache.added(evidence([[2, 0]], [[2, 0]], [-1]))
    near = (2 * 0.9950372 + 1) / 3
    np.testing.assert_allclose(added, [[near, -near * np.exp(-1.5231883)]], rtol=1e-4)


def test_tfup_ts_loss_is_that_of_the_formula():
    """By hand: p is (3/4, 1/4) and (1/4, 3/4), each row's label the likelier, their mean 1/2."""
    scores, given = jnp.log(jnp.asarray([[3.0, 1], [1, 3]])), jnp.asarray([0, 1])
    np.testing.assert_allclose(of_scores(scores, given, 0.0), np.log(4 / 3), rtol=1e-6)
    np.testing.assert_allclose(of_scores(scores, given, 2.0), np.log(4 / 3) - 2 * np.log(2))


def test_tfup_t_trains_keys_alone_and_answers_as_a_cache():
    """Six rows of two labels, with states that differ little: trained, the cache is surer of the
    labels that it gave, and its mean prediction is nearer to that of a fair coin."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(6, 4)) + np.repeat([[0.5, 0, 0, 0], [-0.5, 0, 0, 0]], 3, axis=0)
    scores = np.repeat([[0.25, 0.0], [0.05, 0.2]], 3, axis=0)
    rows = evidence(states, scores, [-1] * 6)
    before, after = TFUP.fit(rows, LABELS), TFUPT.fit(rows, LABELS)
    still = TFUPT.fit(rows, LABELS, steps=0)
    np.testing.assert_allclose(still.arrays["keys"], before.arrays["keys"], atol=1e-6)
    assert before.arrays.keys() == after.arrays.keys()
    for name in ("predictions", "labels", "mean"):
        np.testing.assert_array_equal(after.arrays[name], before.arrays[name])
    given = jnp.argmax(jnp.asarray(scores + before.added(rows)), axis=1)
    losses = [of_scores(jnp.asarray(scores + x.added(rows)), given, 1.0) for x in (before, after)]
    assert losses[1] < losses[0] - 0.01


def test_zpes_weights_take_out_what_a_member_says_anyway():
    """The first member always says a, loudly; the second tells the rows apart."""
    rows = np.asarray([[[9.0, 0], [9, 0]], [[2, 0], [0, 2]]], np.float32)
    # Without the bias: 0 for the first; (2 - 1) = 1 for the second.
    np.testing.assert_allclose(zpe.scores_of(rows), [0, 1])
    weights = zpe.weights_of(zpe.scores_of(rows))
    np.testing.assert_allclose(weights, [1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-6)
    assert list(zpe.weights_of(zpe.scores_of(rows), best=True)) == [0, 1]
    texts = np.asarray([[[7.0, 0]], [[1, 1]]], np.float32)  # half of the bias
    np.testing.assert_allclose(zpe.scores_of(rows, texts), [1, 1])
    np.testing.assert_allclose(zpe.combined(rows, np.asarray([0.5, 0.5]))[1], [4.5, 1])


@pytest.fixture(scope="module")
def flags(tiny: Path) -> list[str]:
    task = f"{tiny}/toy.train.jsonl"
    named = [f"--backbone=files:{tiny}/backbone", f"--task={task}", "--split=validation"]
    return ["untrained", *named, "--input_length=40", "--target_length=4", "--dtype=float32"]


def report(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_head_is_fitted_saved_and_taken_again(flags, tmp_path, capsys):
    gda = [*flags, "--method=gda", "--dev_split=train", "--per_class=8"]
    said = report(capsys, *gda, f"--output={tmp_path}/head", f"--predictions={tmp_path}/p.jsonl")
    arrays = safetensors.numpy.load_file(tmp_path / "head")
    assert {n: x.shape for n, x in arrays.items()} == {"weights": (16, 2), "bias": (2,)}
    assert said["numbers"] == 16 * 2 + 2 and said["examples"] == 60
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    right = sum(row["prediction"] == row["targets"] for row in rows)
    assert said["accuracy"] == pytest.approx(100 * right / 60)
    again = report(capsys, *flags, "--method=gda", f"--head={tmp_path}/head")
    assert again == said
    assert main([*flags, "--method=tfup", f"--head={tmp_path}/head"]) == 2
    assert "has the method 'gda', not 'tfup'; fit it again" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused_before_anything_is_read(flags, capsys):
    for flag in ("--head=/nope", "--texts=/nope"):
        assert main([*flags, "--method=gda", "--backbone=hf:/none", flag]) == 2
        assert capsys.readouterr().err.count("no such file") == 1


@pytest.mark.slow
def test_templates_are_weighed(flags, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("some text\nanother\n")
    templates = ["--template={inputs}", "--template=what is {inputs}?"]
    said = report(capsys, *flags, "--method=zpe", *templates, f"--texts={tmp_path}/texts.txt")
    weights = [value for name, value in said.items() if name.startswith("weight of ")]
    assert len(weights) == 2 and sum(weights) == pytest.approx(1)
    assert "accuracy" in report(capsys, *flags, "--method=tfup")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method=gda"], "--dev_split=validation: has the labels of the rows that are scored"),
        (["--method=lda"], "--method=lda: unknown; give gda, tfup, tfup_t or zpe"),
        (["--method=zpe", "--output=x"], "--output=x: zpe has no head; leave it out"),
        (["--method=zpe", "--template=text"], "--template=text: has no {inputs}"),
        (["--method=tfup", "--template={inputs}", "--template=a {inputs}"], "2 templates and 1"),
    ],
)
def test_what_cannot_be_is_one_line(flags, more, message, capsys):
    assert main([*flags, *more]) == 2
    assert message in capsys.readouterr().err
