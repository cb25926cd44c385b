"""A whole run, and the golden trajectory of T5X through the very step that runs use."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

import prompt_jax as pj
from prompt_jax.backbone.load import load_backbone
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.evaluate.opening import opening
from prompt_jax.evaluate.prompts import evaluate_prompts
from prompt_jax.methods.base import PromptedT5, PromptParam
from prompt_jax.methods.soft import SoftPromptModule
from prompt_jax.objective.loss import Loss
from prompt_jax.objective.optim import Adafactor, Schedule
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.prompt.layout import PromptLayout, lay_out
from prompt_jax.run.step import TrainState, accumulated, make_grad, make_train_step, split

FEATURES = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


@pytest.mark.parametrize("start", [0, 1000])
def test_the_trajectory_is_that_of_t5x(shared, start):
    """Ten steps: losses within 1e-5 relative, prompts within 1e-4."""
    golden = shared / "golden"
    backbone = load_backbone(f"hf:{golden}/hf/t5_v11", dtype="float32")
    with np.load(golden / "adafactor" / "train_trajectory_v11.npz", allow_pickle=False) as file:
        init, losses = file["prompt_init"], file[f"start{start}/loss_zloss_acc"]
        prompts = file[f"start{start}/prompts"]
        batch = {name: file[f"batch/{name}"] for name in FEATURES}
    batch = lay_out(batch, PromptLayout(encoder=len(init)))
    tx = Adafactor(schedule=Schedule(learning_rate=0.3), optimizer_start_step=start).build()
    model = PromptedT5(backbone.model, SoftPromptModule(init))
    graphdef, trainable, frozen = split(model, PromptParam)
    state = TrainState(jnp.int32(0), trainable, tx.init(trainable))
    sharding = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(graphdef, Loss(z_loss=1e-4), tx, None, sharding)
    with jax.default_matmul_precision("highest"):
        for i in range(10):
            state, metrics = step(state, frozen, batch)
            told = [
                metrics["loss"],
                metrics["z_loss"],
                metrics["accuracy"].total / metrics["tokens"],
            ]
            np.testing.assert_allclose(told, losses[i], rtol=1e-5, err_msg=f"step {i}")
            prompt = np.asarray(state.trainable.prompt.encoder[...])
            np.testing.assert_allclose(prompt, prompts[i], rtol=0, atol=1e-4, err_msg=f"step {i}")
    assert int(state.step) == 10


def records(model_dir) -> list[dict]:
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def files_of(model_dir) -> dict[str, bytes]:
    return {
        str(p.relative_to(model_dir)): p.read_bytes() for p in model_dir.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """(model_dir, last metrics) of a run of eight steps."""
    model_dir = tmp_path_factory.mktemp("run") / "model"
    return model_dir, pj.train([str(tiny / "run.gin")], [], str(model_dir))


def test_a_run_leaves_what_it_promises(run, tiny):
    model_dir, last = run
    told = records(model_dir)
    steps = {k: [r["step"] for r in told if r["kind"] == k] for k in ("train", "eval")}
    assert steps == {"train": [2, 4, 6, 8], "eval": [0, 4, 8]}
    assert last == told[-1]
    train = next(r for r in told if r["kind"] == "train")
    assert {"loss", "z_loss", "accuracy", "grad_norm", "tokens", "examples"} < set(train)
    assert train["examples"] > 8, "several examples share a row"
    assert "Train.steps" in (model_dir / "config.gin").read_text()
    predictions = (model_dir / "predictions" / "step_8.jsonl").read_text().splitlines()
    assert len(predictions) == 60
    keys = {"task", "inputs", "targets", "prediction", "score"}
    assert set(json.loads(predictions[0])) == keys
    assert len(list((model_dir / "tensorboard").iterdir())) == 1
    facts = json.loads((model_dir / "facts.json").read_text())
    assert [row["norm"] > 0 for row in facts["prompt"]["sides"]["encoder"]["rows"]] == [True] * 4
    assert set(facts["prompt"]["drift"]["encoder"]) == {"distance", "relative", "cosine"}
    (lengths,) = facts["lengths"].values()
    assert lengths["examples"] == 60 and lengths["targets"]["percentiles"] == [2, 2, 2]
    assert "Nearest pieces do not explain" in (model_dir / "report.html").read_text()
    assert sorted(p.name for p in (model_dir / "checkpoints").iterdir()) == ["4", "8"]
    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    prompt = load_prompt(str(model_dir / "prompt" / "last"))
    assert prompt.array.shape == (4, 16)
    facts = prompt.manifest
    assert (facts["step"], facts["seed"], facts["backbone"]["digest"]) == (8, 0, backbone.digest)
    assert facts["tokenizer"] == backbone.vocabulary.digest
    assert facts["metric"] == {"accuracy": last["accuracy"]}
    task = str(tiny / "toy.train.jsonl")
    told = {"metric": "accuracy", "direction": "max", "task": task, "split": "validation"}
    assert facts["selection"] == told
    assert (last["task"], last["split"]) == (task, "validation")


def test_inspect_shows_how_far_the_rows_of_a_run_moved(run, capsys):
    from prompt_jax.cli.main import main

    model_dir, _ = run
    assert main(["inspect", f"--run={model_dir}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    four, eight = (row["encoder"]["distance"] for row in told["drift"])
    assert 0 < four < eight
    assert [row["step"] for row in told["drift"]] == [4, 8]


def test_the_best_prompt_is_the_first_of_the_best(run):
    model_dir, _ = run
    values = [(r["accuracy"], -r["step"]) for r in records(model_dir) if r["kind"] == "eval"]
    best = load_prompt(str(model_dir / "prompt" / "best")).manifest
    assert (best["metric"]["accuracy"], -best["step"]) == max(values)


def test_the_eval_verb_gives_the_metric_of_training(run, tiny):
    model_dir, _ = run
    prompt = str(model_dir / "prompt" / "best")
    told = evaluate_prompts(
        opening(f"files:{tiny}/backbone", [prompt]), str(tiny / "toy.train.jsonl"), "validation"
    )[0]
    assert told["accuracy"] == load_prompt(prompt).manifest["metric"]["accuracy"]
    assert told["examples"] == 60


def test_running_again_changes_nothing(run, tiny):
    model_dir, last = run
    before = files_of(model_dir)
    assert pj.train([str(tiny / "run.gin")], [], str(model_dir)) == last
    assert files_of(model_dir) == before


@pytest.mark.parametrize(
    ("binding", "part"),
    [
        ("SEED=1", "seed = 0, this one has 1"),
        ("BATCH_SIZE=16", "batch_size = 8"),
        ("PROMPT_LENGTH=5", "SoftPrompt.length = 4"),
        ("INPUT_LENGTH=30", "Data.input_length = 28"),
        ("Backbone.dtype='bfloat16'", "Backbone.dtype = 'float32', this one has 'bfloat16'"),
        ("Backbone.weights_dtype='int8'", "Backbone.weights_dtype = None, this one has 'int8'"),
    ],
)
def test_another_run_is_refused_the_folder(run, tiny, binding, part):
    model_dir, _ = run
    before = files_of(model_dir)
    with pytest.raises(UserError, match="use another --model_dir") as error:
        pj.train([str(tiny / "run.gin")], [binding], str(model_dir))
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert files_of(model_dir) == before


def test_another_optimizer_is_refused_the_folder(run, tiny):
    model_dir, _ = run
    bindings = ["Train.optimizer=@AdamW()", "AdamW.schedule=@Schedule()"]
    with pytest.raises(UserError, match=r"Train.optimizer = 'Adafactor', this one has 'AdamW'"):
        pj.train([str(tiny / "run.gin")], bindings, str(model_dir))


def test_a_second_writer_is_refused(run, tiny):
    from prompt_jax.run.folder import open_folder

    model_dir, _ = run
    before = files_of(model_dir)
    with open_folder(str(model_dir)), pytest.raises(UserError, match="in use by another run"):
        pj.train([str(tiny / "run.gin")], ["SEED=7"], str(model_dir))
    assert files_of(model_dir) == before


@pytest.mark.slow
def test_a_run_without_patience_left_ends_and_stays_ended(tiny, tmp_path):
    """The metric cannot get better than at step 0, since it is always the same."""
    bindings = ["Train.patience=1", "EVAL_PERIOD=2", "TRAIN_STEPS=8"]
    bindings += ["BEST_METRIC=('accuracy', 'max')", "LEARNING_RATE=1e-9"]
    last = pj.train([str(tiny / "run.gin")], bindings, str(tmp_path))
    assert (last["step"], last["kind"]) == (2, "eval")
    assert load_prompt(str(tmp_path / "prompt" / "last")).manifest["step"] == 2
    assert load_prompt(str(tmp_path / "prompt" / "best")).manifest["step"] == 0
    before = files_of(tmp_path)
    assert pj.train([str(tiny / "run.gin")], bindings, str(tmp_path)) == last
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("Evaluation.split=test", "the split 'test' would choose the prompt"),
        ("Train.patience=0", "Train.patience = 0: give at least 1"),
    ],
)
def test_selection_by_the_test_split_is_refused(tiny, tmp_path, binding, message):
    with pytest.raises(UserError, match=message):
        pj.train([str(tiny / "run.gin")], [binding], str(tmp_path))


def test_more_steps_go_on_where_it_ended(run, tiny, tmp_path):
    """Comes last: it changes the run's folder."""
    model_dir, _ = run
    pj.train([str(tiny / "run.gin")], ["TRAIN_STEPS=10"], str(model_dir))
    evals = [r["step"] for r in records(model_dir) if r["kind"] == "eval"]
    assert evals == [0, 4, 8, 10]
    pj.train([str(tiny / "run.gin")], ["TRAIN_STEPS=10"], str(tmp_path))
    name = "prompt/last/prompt.safetensors"
    assert (model_dir / name).read_bytes() == (tmp_path / name).read_bytes()


def test_accumulation_gives_the_same_gradient(tiny):
    from prompt_jax.data.source import Data

    backbone = load_backbone(f"files:{tiny}/backbone", "float32")
    module = SoftPromptModule(np.ones((4, 16), np.float32))
    graphdef, trainable, frozen = split(PromptedT5(backbone.model, module), PromptParam)
    data = Data(task=str(tiny / "toy.train.jsonl"), input_length=28, target_length=4, batch_size=8)
    batch = data.open(backbone.vocabulary, PromptLayout(encoder=4), seed=0).batch(0)
    one = make_grad(graphdef, Loss())
    whole, sums = jax.jit(one)(trainable, frozen, batch, None)
    for pieces in (2, 8):
        parts, added = jax.jit(accumulated(one, pieces))(trainable, frozen, batch, None)
        for name, value in sums.items():
            np.testing.assert_allclose(float(added[name]), float(value), rtol=1e-5, err_msg=name)
        a, b = (np.asarray(g.prompt.encoder[...]) for g in (whole, parts))
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_in_buckets_compiles_its_step_once_for_each_width(tiny, tmp_path):
    rows = [{"inputs": "ab" * (2 + i % 12), "targets": "ab"[i % 2]} for i in range(64)]
    (tmp_path / "t.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.validation.jsonl").write_text(json.dumps(rows[0]) + "\n")
    bindings = [f"TASK='{tmp_path}/t.train.jsonl'", "Data.packed=False", "Data.buckets=(8, 16)"]
    bindings += ["TRAIN_STEPS=12", "EVAL_PERIOD=12", "CHECKPOINT_PERIOD=12"]
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/run"]
    with compilations() as names:
        assert main([*argv, *(f"--gin.{binding}" for binding in bindings)]) == 0
    assert names.count("train_step") == 3  # 8, 16 and 28 columns
    (tmp_path / "run" / "prompt" / "last" / "prompt.safetensors").stat()
