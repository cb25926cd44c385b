"""PANDA, MPT, MVLPT, PTfer and PVP: formulas by numbers, and what stages pass to each other."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from spot_library import SHORT

from prompt_jax.backbone.load import load_backbone
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.methods.parts.inits import FileInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.objective.distillation import Distillation
from prompt_jax.objective.forwards import OWN, Forward, Passes
from prompt_jax.objective.hidden import HiddenDistillation
from prompt_jax.objective.panda import Panda
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.layout import PromptLayout
from prompt_jax.recipe import config
from prompt_jax.run.job import Run
from prompt_jax.run.stages import resolved
from prompt_jax.transfer import relative, study
from prompt_jax.transfer.groups import report_of

LAYOUT = PromptLayout(encoder=2)
BATCH = {"decoder_target_tokens": jnp.array([[0, 1, 2]])}  # a prompt column, then two targets


class Given(dict):
    """Passes by their forward, over a batch."""

    batch = BATCH


def given(**own: Any) -> Any:
    """The run's pass and a teacher's, of {name: (run's value, teacher's)}."""
    return Given(
        {
            forward: SimpleNamespace(**{name: value[side] for name, value in own.items()})
            for side, forward in enumerate((OWN, Forward(artefact="T")))
        }
    )


def test_panda_weighs_the_divergence_by_how_alike_the_responses_are():
    probabilities = np.log(np.array([[[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]]))
    wanted = np.log(np.array([[[0.5, 0.5], [0.8, 0.2], [0.6, 0.4]]]))
    decoded = np.array([[[9.0, 9.0], [1.0, 0.0], [5.0, 5.0]]])  # the second is the first target
    passes = given(
        logits=(jnp.asarray(probabilities), jnp.asarray(wanted)),
        decoded=(jnp.asarray(decoded), jnp.asarray([[[0.0, 0], [3.0, 4.0], [0, 0]]])),
    )
    kl = [0.8 * np.log(1.6) + 0.2 * np.log(0.4), 0.6 * np.log(2 / 3) + 0.4 * np.log(4)]
    measure = Panda(teacher="T").open(None, LAYOUT)
    assert float(measure(passes, BATCH)) == pytest.approx(0.6 * np.mean(kl), rel=1e-5)


@pytest.mark.parametrize(("by", "alike"), [("means", 0.5**0.5), ("pairs", 0.5)])
def test_panda_weighs_it_by_how_alike_the_rows_are(by, alike):
    rows = (jnp.array([[[3.0, 0.0]]]), jnp.array([[[0.0, 1.0], [1.0, 0.0]]]))
    bundles = tuple(SimpleNamespace(encoder=some) for some in rows)
    logits = (jnp.zeros((1, 3, 2)), jnp.log(jnp.full((1, 3, 2), jnp.array([0.75, 0.25]))))
    kl = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    measure = Panda(teacher="T", by=by).open(None, LAYOUT)
    found = measure(given(logits=logits, bundle=bundles), BATCH)
    assert float(found) == pytest.approx(alike * kl, rel=1e-5)


def test_hidden_states_are_compared_over_text_and_over_targets():
    encoded = jnp.array([[[1.0, 3.0], [0.0, 2.0], [8.0, 8.0]]])
    text = jnp.array([[True, True, False]])
    decoded = jnp.array([[[7.0, 7.0], [1.0, 1.0], [2.0, 0.0]]])
    passes = given(
        encoded=(encoded, jnp.zeros_like(encoded)),
        decoded=(decoded, jnp.zeros_like(decoded)),
        text=(text, text),
    )
    measure = HiddenDistillation(teacher="T").open(None, LAYOUT)
    assert float(measure(passes, BATCH)) == pytest.approx((5 + 2) / 2 + (1 + 2) / 2)


def test_each_task_has_its_own_teacher(tiny, tmp_path):
    """A table of rows, one prompt a task: an example sees the prompt of its own task."""
    bindings = [
        f"BACKBONE='files:{tiny}/backbone'",
        f"TASK='{tiny}/toy.train.jsonl'",
        "INPUT_LENGTH=28",
        "TARGET_LENGTH=4",
        "BATCH_SIZE=4",
        "PROMPT_LENGTH=3",
        "MultitaskPrompt.tasks=('other', 'toy')",
        "MultitaskPrompt.init=@UniformInit()",
        "Evaluation.mode='generate'",
        "shared/Data.few_tasks=False",
    ]
    program = config.load("Stages", ["runs/mpt_nano.gin"], bindings).root
    first, second = resolved(program, epath.Path(tmp_path))
    assert first.terms == () and first.method.combine == "separate"
    teacher = str(tmp_path / "stage_1" / "prompt" / "best")
    assert {term.teacher for term in second.terms} == {teacher}
    assert [type(term) for term in second.terms] == [Distillation, HiddenDistillation]
    job = Run(first, epath.Path(tmp_path / "stage_1"), jax.devices()[:1])
    job.save_prompt(job.first_state(), "best", None)
    student = Run(second, epath.Path(tmp_path / "stage_2"), jax.devices()[:1])
    batch, _ = student.batch(0)
    rows = jnp.asarray(load_prompt(teacher).arrays["encoder"])
    assert rows.shape == (6, 16)

    @jax.jit
    def seen(trainable, frozen, batch):
        model = nnx.merge(student.graphdef, trainable, frozen)
        return Passes(model, batch, None, second.method.layout)[Forward(artefact=teacher)].logits

    found = seen(student.trainable, student.frozen, batch)
    own = load_prompt(f"{teacher}?task=toy")
    np.testing.assert_array_equal(own.array, rows[3:])
    slots = batch["encoder_prompt_slots"]
    plain = {**batch, "encoder_prompt_slots": jnp.where(slots > 0, slots - 3, 0)}
    alone = jax.jit(lambda t5, b: t5(b, own.bundle()))(student.backbone.model, plain)
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)


def test_a_term_without_a_teacher_is_named(tiny, tmp_path):
    bindings = [f"BACKBONE='files:{tiny}/backbone'", f"TASK='{tiny}/toy.train.jsonl'", "TEACHER=''"]
    run = config.load("Train", ["runs/distil_nano.gin"], bindings).root
    with pytest.raises(UserError, match="a term has no teacher; name a saved prompt, or give"):
        Run(run, epath.Path(tmp_path), jax.devices()[:1])


@pytest.mark.parametrize("name", ["pvp_nano", "mvlpt_nano"])
def test_the_second_stage_begins_with_the_prompt_of_the_first(name, tmp_path):
    program = config.load("Stages", [f"runs/{name}.gin"], []).root
    first, second = resolved(program, epath.Path(tmp_path))
    assert second.method.init == FileInit(path=str(tmp_path / "stage_1" / "prompt" / "last"))
    assert first.data.task != second.data.task
    assert not {*first.data.task.split("+")} & {*second.data.task.split("+")}
    assert second.data.examples_per_class == (4 if name == "pvp_nano" else None)
    with pytest.raises(UserError, match="trains MultitaskPrompt, which does not begin"):
        bindings = ["Train.method=@MultitaskPrompt()", "MultitaskPrompt.tasks=('a',)"]
        config.load("Stages", [f"runs/{name}.gin"], bindings)


def test_a_prefix_begins_with_saved_keys_and_values(tiny, kinds):
    start = Start(load_backbone(f"files:{tiny}/backbone", "float32"))
    method = PrefixTuning(length=3, hidden=None).begun_from(kinds["prefix"])
    assert method is not None
    arrays = load_prompt(kinds["prefix"]).arrays
    found = method.fold(method.create(jax.random.key(0), start))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(UserError, match=r"the run needs \[\d+, 2, \d+\]; give the settings of"):
        method.with_keys(2).create(jax.random.key(0), start)
    assert PrefixTuning(length=3).begun_from(kinds["prefix"]) is None


def transfers(folder: Path, gains: dict[str, dict[str, float]]) -> str:
    """Reports of `spot transfer`: {target: {source: points}}."""
    for target, of in gains.items():
        (folder / target).mkdir()
        report = {
            "target": target,
            "ranking": [{"source": f"{source}_entry", "task": source} for source in of],
            "runs": [
                {"strategy": "control", "init": "", "gain": 0.0},
                *({"strategy": "best", "init": f"{s}_entry", "gain": g} for s, g in of.items()),
            ],
        }
        (folder / target / "transfer.json").write_text(json.dumps(report))
    return ",".join(str(folder / target) for target in gains)


def test_tasks_that_gain_from_each_other_are_a_group(tmp_path, capsys):
    """a and b help each other; c helps a, but harms b."""
    gains = {"a": {"b": 3.0, "c": 2.0}, "b": {"a": 1.0, "c": -2.5}, "c": {"a": -1.0, "d": 9.0}}
    folders = transfers(tmp_path, gains)
    report = report_of(folders.split(","))
    assert report["tasks"] == ["a", "b", "c"]
    assert report["gains"] == [[None, 1.0, -1.0], [3.0, None, None], [2.0, -2.5, None]]
    assert [(row["TASK"], row["mean_gain"]) for row in report["groups"]] == [
        ("a+b", 2.0),
        ("c", None),
    ]
    # c is 0.5 from a and -2.5 from b, in the mean -1.0.
    assert len(report_of(folders.split(","), -1.0)["groups"]) == 2
    assert [r["TASK"] for r in report_of(folders.split(","), -1.01)["groups"]] == ["a+b+c"]
    assert main(["spot", "groups", f"--transfers={folders}"]) == 0
    assert "a+b" in capsys.readouterr().out
    assert main(["spot", "groups", f"--transfers={tmp_path}/none"]) == 2
    assert "is not there; run `spot transfer` there first" in capsys.readouterr().err


def test_a_study_trains_each_task_and_then_every_two(tmp_path, monkeypatch):
    """Nothing is trained here: runs are counted, and leave the gains that they are given."""
    done: list[str] = []

    def trained(root, folder, **_):
        done.append(f"{Path(folder).parent.name} alone: {root}")

    def transferred(self):
        (target,) = self.load(["X=1"]).root
        done.append(f"{target}, {self.k} sources")
        sources = {task: ord(task) - ord(target[-2]) for task in "abc" if task != target[-2]}
        transfers(Path(self.model_dir).parent, {Path(self.model_dir).name: sources})

    def load(bindings):
        return SimpleNamespace(root=tuple(bindings[:1]), operative="")

    monkeypatch.setattr(study, "train", trained)
    monkeypatch.setattr(study, "take", lambda library, folder, name, step: done.append(name))
    monkeypatch.setattr(study.Transfer, "__call__", transferred)
    (tmp_path / "D").mkdir()
    said = study.study(load, ["a", "b", "c"], str(tmp_path / "D"))
    assert done[:2] == ["a alone: (\"TASK='a'\",)", "a"]
    assert done[6:] == [f"TASK='{task}', 2 sources" for task in "abc"]
    assert said["tasks"] == ["a", "b", "c"]
    assert said["gains"] == [[None, -1.0, -2.0], [1.0, None, -1.0], [2.0, 1.0, None]]
    with pytest.raises(UserError, match="--tasks=a,a: name two tasks or more, each once"):
        study.study(load, ["a", "a"], str(tmp_path / "D"))


@pytest.mark.slow
def test_a_study_of_two_tasks_is_one_command(tiny, tmp_path, capsys):
    rows = [f"{tiny}/toy.train.jsonl", str(tmp_path / "other.train.jsonl")]
    for split in ("train", "validation"):
        text = (tiny / f"toy.{split}.jsonl").read_text()
        (tmp_path / f"other.{split}.jsonl").write_text(text)
    flags = [f"--gin_file={tiny}/run.gin", f"--tasks={','.join(rows)}", "--json"]
    flags += [f"--gin.{binding}" for binding in SHORT]
    assert main(["spot", "study", *flags, f"--model_dir={tmp_path}/D"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["tasks"]) == 2 and all(said["gains"][n][1 - n] is not None for n in (0, 1))


RNG = np.random.default_rng(0)


def test_a_row_is_found_by_its_cosines_with_anchors():
    """The target's embeddings are the source's, turned: so is the row that is found."""
    S = RNG.normal(size=(40, 6)).astype(np.float32)
    turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0].astype(np.float32)
    P = RNG.normal(size=(2, 6)).astype(np.float32) * 5
    search = relative.Search(steps=1500, every=500, norm="ratio")
    made = relative.candidates(search, [(P, S)], S @ turn)
    assert len(made) == 3 and made[0][1] < made[2][1] > 0.97
    rows = made[2][0]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.linalg.norm(P, axis=1), rtol=1e-4)
    cosines = np.sum(rows * (P @ turn), axis=1) / np.sum(P * P, axis=1)
    assert (cosines > 0.95).all()
    table = relative.candidates(relative.Search(steps=2, every=2), [(P, S)], S @ turn)[0][0]
    assert table.mean() == pytest.approx(float((S @ turn).mean()), abs=1e-4)
    assert table.std() == pytest.approx(float((S @ turn).std()), rel=1e-4)


def test_a_row_is_found_by_its_mean_cosines_in_two_sources():
    """Both are the target's embeddings, turned and stretched. The row's length is the mean ratio:
    3 and 5 times the mean embedding of their sources."""
    rng = np.random.default_rng(1)
    T = rng.normal(size=(40, 6)).astype(np.float32)
    rows = rng.normal(size=(4, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    sources = []
    for times, stretch in ((3.0, 1.0), (5.0, 2.0)):
        turn = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
        S = stretch * T @ turn
        sources.append((times * np.linalg.norm(S, axis=1).mean() * rows @ turn, S))
    search = relative.Search(steps=1500, every=1500, norm="ratio")
    [(found, alike)] = relative.candidates(search, sources, T)
    lengths = np.linalg.norm(found, axis=1)
    assert alike > 0.97 and (np.sum(found * rows, axis=1) / lengths > 0.95).all()
    np.testing.assert_allclose(lengths, 4 * np.linalg.norm(T, axis=1).mean(), rtol=1e-4)


@pytest.mark.slow
def test_recycle_seeks_rows_and_says_how_alike_they_are(tiny, tmp_path, capsys):
    np.save(tmp_path / "p.npy", RNG.normal(size=(4, 16)).astype(np.float32))
    words = [f"--prompt={tmp_path}/p.npy", "--how=relative", "--steps=20", "--skip=0"]
    words += [f"--from=files:{tiny}/backbone", f"--backbone=files:{tiny}/backbone"]
    assert main(["recycle", *words, f"--output={tmp_path}/out", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["step"] in range(2, 21, 2) and 0 < record["cosine"] <= 1
    saved = load_prompt(tmp_path / "out")
    assert saved.array.shape == (4, 16) and saved.manifest["recycled"]["how"] == "relative"
    task = f"--task={tiny}/toy.validation.jsonl"
    assert main(["recycle", *words, f"--output={tmp_path}/other", task]) == 2
    assert "does not say by which metric; leave it out" in capsys.readouterr().err
    again = [f"--prompt={tmp_path}/p.npy", f"--from=files:{tiny}/backbone"]
    assert main(["recycle", *words, *again, f"--output={tmp_path}/two", "--json"]) == 0
    assert "backbone, files:" in json.loads(capsys.readouterr().out)["from"]
    assert main(["recycle", *words, f"--output={tmp_path}/other", "--norm=2"]) == 2
    assert "--norm=2: give table or ratio" in capsys.readouterr().err
