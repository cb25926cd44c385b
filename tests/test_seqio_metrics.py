"""SeqIO's kinds of metrics on a tiny backbone, and what a user's module of tasks may do wrong."""

import json
import math
import sys

import numpy as np
import pytest

from prompt_jax.answer.answerer import Answer
from prompt_jax.cli.options import import_tasks
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts
from prompt_jax.evaluate.task_metrics import task_metrics, wants_scores
from prompt_jax.recipe.user_code import import_tasks_module
from prompt_jax.tasks import text

MODULE = """
import clu.metrics
import flax
import numpy as np
import seqio
import tensorflow as tf
from prompt_jax.tasks.text import TEXT_FEATURES

def read(split, shuffle_files=False, seed=None):
    rows = {"inputs": ["one", "two"] * 3, "targets": ["yes", "no"] * 3}
    return tf.data.Dataset.from_tensor_slices(rows)

def add(name, **more):
    source = seqio.FunctionDataSource(read, splits=["train", "validation"])
    more = {"preprocessors": [], "output_features": TEXT_FEATURES, "metric_fns": [], **more}
    seqio.TaskRegistry.add(name, source=source, **more)

def acc(targets, predictions):
    return {"accuracy": 100.0 * np.mean([t == p for t, p in zip(targets, predictions)])}
def boxed(targets, predictions):
    return {"boxed": seqio.metrics.Scalar(2.0), "told": seqio.metrics.Text("t")}
def mean(targets, scores): return {"mean_score": np.mean(scores), "rows": len(targets)}
def aux(targets, predictions, aux_values): return {"mean_of_outputs": np.mean(aux_values["scores"])}
def broken(targets, predictions): return {"x": 1 / 0}
legacy = seqio.metrics.PassthroughLegacyMetric.from_metric_fn
Kind = seqio.metrics.ModelOutputType

@flax.struct.dataclass
class Length(seqio.metrics.Metric):
    model_output_type: Kind = Kind.SCORE
    total: float = 0.0

    @classmethod
    def from_model_output(cls, inputs, model_output, features):
        return cls(total=float(sum(len(e["inputs"]) for e in inputs)))

    def compute(self): return self.total

@flax.struct.dataclass
class Between(Length):
    model_output_type: Kind = Kind.SCORE_WITH_INTERMEDIATES

add("every_kind", metric_fns=[acc, mean, aux, boxed])
add("objects", metric_objs=[legacy(acc), legacy(mean).empty(), legacy(aux), Length(), Length])
add("post_objects", metric_objs=[legacy(acc, lambda text, example, is_target: text[:1])])
add("numbers", preprocessors=[lambda ds: ds.map(lambda e: {**e, "targets": tf.constant(3)})])
add("broken", metric_fns=[broken])
add("between", metric_objs=[Between()])
add("fails", preprocessors=[lambda ds: ds.map(lambda e: {**e, "targets": e["label"]})])
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    path = tmp_path_factory.mktemp("seqio") / "kinds.py"
    path.write_text(MODULE)
    import_tasks_module(str(path))


def test_every_kind_of_metric_is_computed(tasks, tiny):
    reports = {}
    for task in ("every_kind", "objects"):
        reports[task], _ = evaluate_prompts(
            opening(
                f"files:{tiny}/backbone", [], input_length=16, target_length=8, dtype="float32"
            ),
            task,
            "validation",
            batch_size=8,
        )
    functions, objects = reports["every_kind"], reports["objects"]
    assert (functions["rows"], functions["boxed"]) == (6.0, 2.0)
    assert functions["mean_score"] < 0 and math.isfinite(functions["mean_of_outputs"])
    assert "told" not in functions
    for name in ("accuracy", "mean_score", "mean_of_outputs"):
        assert objects[name] == pytest.approx(functions[name], rel=1e-5)
    assert objects["Length"] == 18.0


def test_scores_are_the_log_likelihoods_of_the_targets(tasks, tiny):
    from prompt_jax.answer.arrays import logits
    from prompt_jax.backbone.load import load_backbone

    report, _ = evaluate_prompts(
        opening(f"files:{tiny}/backbone", [], input_length=16, target_length=8, dtype="float32"),
        "every_kind",
        "validation",
        batch_size=8,
    )
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    encode = backbone.vocabulary.encode
    total = []
    for asked, target in (("one", "yes"), ("two", "no")):
        ids, wanted = ([*encode(t), 1] for t in (asked, target))
        batch = {"encoder_input_tokens": [ids], "decoder_target_tokens": [wanted]}
        batch["decoder_input_tokens"] = [[0, *wanted[:-1]]]
        row = np.asarray(logits(backbone, batch))[0]
        row = row - np.log(np.exp(row).sum(-1, keepdims=True))
        total.append(sum(row[i, token] for i, token in enumerate(wanted)))
    assert report["mean_score"] == pytest.approx(np.mean(total), rel=1e-4)


def answers(*texts, score=None):
    return [Answer(text, 0.5, target_score=score) for text in texts]


def test_postprocessing_of_objects_and_metrics_without_scores(tasks):
    task = text.get_task("post_objects")
    rows = [{"inputs": "one", "targets": "yes"}, {"inputs": "two", "targets": "no"}]
    assert task_metrics(task, rows, answers("yellow", "maybe")) == {"accuracy": 50.0}
    every = text.get_task("every_kind")
    assert wants_scores(every) and not wants_scores(task)
    found = task_metrics(every, rows, answers("yes", "no"))
    assert "mean_score" not in found and found["accuracy"] == 100.0
    assert task_metrics(every, rows, answers("a", "b", score=-2.0))["mean_score"] == -2.0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("broken", r"metric 'broken' of task 'broken': .*division by zero; mend it in the module"),
        ("between", r"metric 'Between' of task 'between': wants SCORE_WITH_INTERMEDIATES; take"),
    ],
)
def test_metrics_that_fail_are_named(tasks, task, message):
    with pytest.raises(UserError, match=message):
        task_metrics(text.get_task(task), [{"inputs": "a", "targets": "b"}], answers("c"))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "numbers",
            r"task 'numbers', split 'train': .*incorrect type for feature 'targets'.*strings",
        ),
        ("fails", r"(?s)task 'fails', split 'train': .*'label'.*; mend its source"),
    ],
)
def test_tasks_that_give_no_text_are_named(tasks, task, message):
    with pytest.raises(UserError, match=message):
        text.load_examples(task, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "import seqio\nseqio.MixtureRegistry.add('xtreme_xnli', [('trec', 1.0)])",
            r"the name 'xtreme_xnli' is taken; choose another name",
        ),
        (
            "from prompt_jax.tasks.text import jsonl_task\n"
            "jsonl_task('super_glue_cb', {'train': 'x'})",
            r"task 'super_glue_cb': this name is taken; give the task another name",
        ),
        ("import sys; sys.exit(0)", r"the module exits with 0"),
        ("raise RuntimeError('no GPU')", r"RuntimeError: no GPU; mend the module"),
        ("import not_there_at_all", r"ModuleNotFoundError.*; give the dotted name"),
        ("def f(:\n", r"SyntaxError: .*; mend the module"),
    ],
)
def test_a_module_that_fails_is_named(tmp_path, content, message):
    (tmp_path / "m.py").write_text(content)
    with pytest.raises(UserError, match=rf"--tasks_module=\S+/m\.py.*{message}"):
        import_tasks([str(tmp_path / "m.py")])


def test_a_module_imports_the_files_beside_it_first(tmp_path):
    (tmp_path / "colorsys.py").write_text("MINE = True")
    (tmp_path / "late_helper.py").write_text("X = 4")
    (tmp_path / "m.py").write_text(
        "import colorsys\nassert colorsys.MINE\ndef f():\n    import late_helper\n"
        "    return late_helper.X\n"
    )
    sys.modules.pop("colorsys", None)
    before = list(sys.path)
    try:
        assert import_tasks_module(str(tmp_path / "m.py")).f() == 4
        assert sys.path == [*before, str(tmp_path)]
    finally:
        sys.path[:] = before
        sys.modules.pop("colorsys", None)


TRAIL = [{"inputs": f"row {n}", "targets": "billing " if n % 2 else "fault"} for n in range(8)]


@pytest.mark.parametrize("labels", [True, False])
def test_targets_that_no_output_equals_are_named(tmp_path, shared, labels):
    from prompt_jax.backbone.load import load_backbone
    from prompt_jax.cli.task_check import check_jsonl

    rows = (
        TRAIL
        if labels
        else [{**row, "targets": f"{row['targets']}{n} "} for n, row in enumerate(TRAIL)]
    )
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check_jsonl(str(path), load_backbone("nano"))
    said = report["errors" if labels else "named"]
    assert ("comes back as 'billing': no output equals it" in said[0]) == labels
    assert report["never_equal"] == (1 if labels else 8)
