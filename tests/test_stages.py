"""A program runs its stages in turn: a prompt, then the model behind it, the prompt unchanged."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import seqio
from etils import epath

import prompt_jax as pj
from prompt_jax.cli.main import main
from prompt_jax.errors import UserError
from prompt_jax.methods.base import FixedPrompt, PromptedT5
from prompt_jax.methods.frozen import FrozenPrompts
from prompt_jax.model.bundle import ATTENTIONS, PromptBundle, put
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.recipe import config
from prompt_jax.run.job import Run
from prompt_jax.run.stages import Stages, resolved
from prompt_jax.tasks.text import jsonl_task

RECIPE = """
include 'base.gin'
include 'methods/promot.gin'

BACKBONE = 'files:{folder}/backbone'
TASK = 'stages_pair'
INPUT_LENGTH = 28
TARGET_LENGTH = 4
PROMPT_LENGTH = 4
PROMPT_STEPS = 2
BATCH_SIZE = 8
TRAIN_STEPS = 2
EVAL_PERIOD = 2
CHECKPOINT_PERIOD = 1
Evaluation.max_examples = 8
Backbone.dtype = 'float32'
Stages.stages = (@prompt/one/Stage(), @prompt/two/Stage(), @model/Stage())
prompt/one/Data.task = 'stages_one'
prompt/two/Data.task = 'stages_two'
prompt/two/Train.seed = 1
"""


def digest(path: Path) -> bytes:
    return (path / "prompt.safetensors").read_bytes()


@pytest.fixture(scope="module")
def program(tiny, tmp_path_factory):
    """(recipe, model_dir) of a finished program of two prompts and a model behind both."""
    from prompt_jax.metrics.text import accuracy

    for name in ("stages_one", "stages_two"):
        files = {split: str(tiny / f"toy.{split}.jsonl") for split in ("train", "validation")}
        jsonl_task(name, files, metrics=[accuracy], choices=("a", "b"))
    seqio.MixtureRegistry.add("stages_pair", ["stages_one", "stages_two"], default_rate=1.0)
    folder = tmp_path_factory.mktemp("promot")
    (folder / "promot.gin").write_text(RECIPE.format(folder=tiny))
    recipe, model_dir = str(folder / "promot.gin"), folder / "D"
    assert main(["train", f"--gin_file={recipe}", f"--model_dir={model_dir}"]) == 0
    return recipe, model_dir


def built(recipe: str, *bindings: str) -> Stages:
    root = config.load(("Stages", "Train"), [recipe], bindings).root
    assert isinstance(root, Stages)
    return root


@pytest.mark.slow
def test_the_prompts_stay_and_the_model_changes(program, tiny):
    _, model_dir = program
    tuned = model_dir / "stage_3" / "prompt" / "last"
    for number in (1, 2):
        before = model_dir / f"stage_{number}" / "prompt" / "best"
        assert digest(before) == digest(tuned / "prompts" / str(number))
    assert digest(tuned / "prompts" / "1") != digest(tuned / "prompts" / "2")
    begun = pj.load_backbone(f"files:{tiny}/backbone", "float32")
    after = pj.load_backbone(f"files:{tuned}", "float32")
    assert begun.digest != after.digest
    told = load_prompt(str(tuned / "prompts" / "1")).manifest
    assert told["backbone"]["digest"] == after.digest
    assert told["tuned_with"]["digest"] == begun.digest
    assert json.loads((tuned / "manifest.json").read_text())["method"] == "FrozenPrompts"


@pytest.mark.slow
def test_no_prompt_trains_and_each_example_sees_its_own(program):
    recipe, model_dir = program
    run = resolved(built(recipe), epath.Path(model_dir))[-1]
    job = Run(run, epath.Path(model_dir), jax.devices()[:1])
    paths = jax.tree_util.tree_leaves_with_path(job.first_state())
    assert not [path for path, _ in paths if "prompt" in jax.tree_util.keystr(path)]
    (rows,) = [np.asarray(x) for x in jax.tree.leaves(job.frozen)]
    for number in (1, 2):
        saved = load_prompt(str(model_dir / f"stage_{number}" / "prompt" / "best")).array
        assert rows[number - 1].tobytes() == saved.tobytes()
    batch = job.batch(0)[0]
    tasks = np.asarray(batch["encoder_task_ids"])[np.asarray(batch["encoder_prompt_slots"]) > 0]
    assert {*tasks.tolist()} == {0, 1}


@pytest.mark.slow
def test_a_finished_program_has_nothing_to_do_and_more_steps_go_on(program, capsys):
    recipe, model_dir = program
    prompt = digest(model_dir / "stage_1" / "prompt" / "last")
    argv = ["train", f"--gin_file={recipe}", f"--model_dir={model_dir}", "--gin.TRAIN_STEPS=3"]
    assert main(argv) == 0
    said = capsys.readouterr().err
    assert said.count("there is nothing left to do") == 2
    assert "steps 2 to 3" in said
    assert digest(model_dir / "stage_1" / "prompt" / "last") == prompt
    steps = [
        json.loads(x)["step"]
        for x in (model_dir / "stage_3/metrics.jsonl").read_text().splitlines()
    ]
    assert max(steps) == 3


def test_a_program_that_cannot_be_is_refused(program, capsys):
    recipe, _ = program
    with pytest.raises(UserError, match="stage 3: has no prompt; give @FoldAndFreeze"):
        built(recipe, "prompt/Stage.on_end=()")
    argv = ["train", f"--gin_file={recipe}", "--model_dir=no/where", "--seeds=0,1"]
    assert main(argv) == 2
    assert "a program of stages runs one seed" in capsys.readouterr().err


def test_prompts_stand_in_the_order_of_the_tasks(program):
    _, model_dir = program
    paths = tuple(str(model_dir / f"stage_{n}" / "prompt" / "best") for n in (2, 1))
    with pytest.raises(UserError, match="are of stages_two, stages_one, the data of stages_one"):
        FrozenPrompts(prompts=paths).check_tasks(["stages_one", "stages_two"])


PRUNED = """
include 'run.gin'

TRAIN_STEPS = 2
EVAL_PERIOD = 2
CHECKPOINT_PERIOD = 2
Evaluation.max_examples = 8
Backbone.dropout_rate = 0.0
Stages.stages = (@whole/Stage(), @pruned/Stage())
Stage.run = @Train()
whole/Stage.on_end = (@PruneRows(),)
PruneRows.keep = 2
PruneRows.batches = 2
"""


@pytest.mark.slow
def test_a_stage_measures_rows_and_the_next_begins_with_the_best(tiny, tmp_path):
    (tmp_path / "pruned.gin").write_text(PRUNED)
    recipe, model_dir = str(tmp_path / "pruned.gin"), tmp_path / "D"
    where = f"--gin_search_paths={tiny}"
    assert main(["train", f"--gin_file={recipe}", f"--model_dir={model_dir}", where]) == 0
    whole = load_prompt(str(model_dir / "stage_1" / "prompt" / "best"))
    pruned = load_prompt(str(model_dir / "stage_1" / "prompt" / "pruned_2"))
    facts = pruned.manifest["pruned"]
    assert facts["rows"] == sorted(np.argsort(facts["importance"])[-2:].tolist())
    assert pruned.array.tobytes() == whole.array[facts["rows"]].tobytes()

    program = config.load(("Stages", "Train"), [recipe], [], [str(tiny)]).root
    first, second = resolved(program, epath.Path(model_dir))
    begun = Run(second, epath.Path(model_dir / "stage_2"), jax.devices()[:1])
    (rows,) = jax.tree.leaves(begun.trainable)
    assert np.asarray(rows).tobytes() == pruned.array.tobytes()

    job = Run(first, epath.Path(model_dir / "stage_1"), jax.devices()[:1])
    model, scale = PromptedT5(job.backbone.model, FixedPrompt(whole.bundle())), 1e-3
    batches = [job.batch(n)[0] for n in range(2)]

    def loss(batch, row, gate):
        gated = whole.array.copy()
        gated[row] *= gate
        model.prompt = FixedPrompt(PromptBundle(encoder=gated[None]))
        return float(first.loss(model, batch)[0])

    row = facts["rows"][0]
    slopes = [(loss(b, row, 1 + scale) - loss(b, row, 1 - scale)) / (2 * scale) for b in batches]
    assert np.mean(np.abs(slopes)) == pytest.approx(facts["importance"][row], rel=0.05)


@pytest.mark.slow
def test_pieces_are_pruned_and_stay_zero_while_the_next_stage_trains(tiny, tmp_path):
    (tmp_path / "pruned.gin").write_text(PRUNED)
    recipe, model_dir = str(tmp_path / "pruned.gin"), tmp_path / "D"
    flags = [f"--gin_file={recipe}", f"--model_dir={model_dir}", f"--gin_search_paths={tiny}"]
    flags += ["--gin.PruneRows.pieces=4", "--gin.PruneRows.keep_pieces=5"]
    flags += ["--gin.pruned/Train.grad_rule=@KeepZeros()", "--gin.PruneRows.by=random"]
    assert main(["train", *flags]) == 0
    pruned = load_prompt(str(model_dir / "stage_1" / "prompt" / "pruned_2"))
    whole = load_prompt(str(model_dir / "stage_1" / "prompt" / "best")).array
    mask = np.repeat(np.array(pruned.manifest["pruned"]["pieces"]), 4, axis=1)
    assert mask.shape == (2, 16) and mask.sum() == 5 * 4
    assert pruned.array.tolist() == (whole[pruned.manifest["pruned"]["rows"]] * mask).tolist()
    after = load_prompt(str(model_dir / "stage_2" / "prompt" / "last")).array
    assert ((after != 0) == (mask == 1)).all() and (after != pruned.array)[mask == 1].all()


@pytest.mark.slow
def test_keys_alone_are_pruned(tiny, tmp_path, capsys):
    (tmp_path / "pruned.gin").write_text(PRUNED)
    recipe, model_dir = str(tmp_path / "pruned.gin"), tmp_path / "D"
    flags = [f"--gin_file={recipe}", f"--model_dir={model_dir}", f"--gin_search_paths={tiny}"]
    flags += ["--gin.Train.method=@PrefixTuning()", "--gin.PrefixTuning.length=3"]
    flags += ["--gin.PrefixTuning.hidden=None", "--gin.PruneRows.keep=0"]
    assert main(["train", *flags]) == 2
    assert "the stage tunes no rows; say how many keys stay" in capsys.readouterr().err
    assert main(["train", *flags, "--gin.PruneRows.keep_keys=2"]) == 0
    whole = load_prompt(str(model_dir / "stage_1" / "prompt" / "best")).arrays
    pruned = load_prompt(str(model_dir / "stage_1" / "prompt" / "pruned_2"))
    after = load_prompt(str(model_dir / "stage_2" / "prompt" / "last")).arrays
    for attention, place in ATTENTIONS.items():
        numbers = pruned.manifest["pruned"][f"{attention}_keys"]["numbers"]
        name = f"{place}/values"
        np.testing.assert_array_equal(pruned.arrays[name], whole[name][:, numbers])
        assert after[name].shape == pruned.arrays[name].shape


@pytest.mark.slow
def test_keys_are_pruned_in_every_layer_and_stay_zero(tiny, tmp_path):
    """E2VPT: rows and keys of every layer, and the gate of a key is that of its value."""
    (tmp_path / "pruned.gin").write_text(PRUNED)
    recipe, model_dir = str(tmp_path / "pruned.gin"), tmp_path / "D"
    flags = [f"--gin_file={recipe}", f"--model_dir={model_dir}", f"--gin_search_paths={tiny}"]
    flags += ["--gin.Train.method=@E2VPT()", "--gin.E2VPT.length=4", "--gin.E2VPT.keys=3"]
    flags += ["--gin.PruneRows.keep_keys=2", "--gin.PruneRows.keep_key_pieces=5"]
    flags += ["--gin.PruneRows.pieces=4", "--gin.pruned/Train.grad_rule=@KeepZeros()"]
    assert main(["train", *flags]) == 0
    whole = load_prompt(str(model_dir / "stage_1" / "prompt" / "best"))
    pruned = load_prompt(str(model_dir / "stage_1" / "prompt" / "pruned_2"))
    facts, place = pruned.manifest["pruned"], "encoder_layers/attention"
    keys = facts["encoder_keys"]
    mask = np.repeat(np.array(keys["pieces"]), 4, axis=-1)
    layers = len(mask)
    assert mask.shape[1:] == (2, 16) and mask.sum() == layers * 5 * 4
    for name in (f"{place}/keys", f"{place}/values"):
        wanted = whole.arrays[name][:, keys["numbers"]] * mask
        assert pruned.arrays[name].tolist() == wanted.tolist()
    rows = whole.arrays["encoder_layers/rows"][:, facts["rows"]]
    assert pruned.arrays["encoder_layers/rows"].tolist() == rows.tolist()
    after = load_prompt(str(model_dir / "stage_2" / "prompt" / "last")).arrays[f"{place}/keys"]
    assert ((after != 0) == (mask == 1)).all()
    assert (after != pruned.arrays[f"{place}/keys"])[mask == 1].all()

    program = config.load(("Stages", "Train"), [recipe], [f[6:] for f in flags[3:]], [str(tiny)])
    first = resolved(program.root, epath.Path(model_dir))[0]
    job, scale = Run(first, epath.Path(model_dir / "stage_1"), jax.devices()[:1]), 1e-2

    def loss(batch, gate):
        gates = np.array([gate if n == keys["numbers"][0] else 1.0 for n in range(3)])[:, None]
        bundle = whole.bundle()
        for name in (f"{place}/keys", f"{place}/values"):
            bundle = put(bundle, name, (whole.arrays[name] * gates)[:, None])
        return float(first.loss(PromptedT5(job.backbone.model, FixedPrompt(bundle)), batch)[0])

    batches = [job.batch(n)[0] for n in range(2)]
    slopes = [(loss(b, 1 + scale) - loss(b, 1 - scale)) / (2 * scale) for b in batches]
    wanted = keys["importance"][keys["numbers"][0]]
    assert np.mean(np.abs(slopes)) == pytest.approx(wanted, rel=0.05, abs=1e-3)


def test_pruning_is_refused_where_it_cannot_be(tiny, tmp_path, capsys):
    (tmp_path / "pruned.gin").write_text(PRUNED)
    argv = [
        "train",
        f"--gin_file={tmp_path}/pruned.gin",
        f"--gin_search_paths={tiny}",
        f"--model_dir={tmp_path}/D",
    ]
    assert main([*argv, "--gin.PruneRows.keep=5"]) == 2
    assert "PruneRows.keep = 5: the stage tunes 4 rows; give at most 4" in capsys.readouterr().err
    assert main([*argv, "--gin.PruneRows.keep_pieces=3"]) == 2
    assert "PruneRows.keep_pieces = 3: 2 rows have 2 pieces; give 1 to 2" in capsys.readouterr().err
    assert main([*argv, "--gin.PruneRows.pieces=2"]) == 2
    assert "PruneRows.pieces = 2: all pieces stay" in capsys.readouterr().err
    dry = [*argv, "--dry_run", "--gin.PruneRows.pieces=3", "--gin.PruneRows.keep_pieces=2"]
    assert main(dry) == 2
    assert "pieces = 3: a row has 16 numbers; give a divisor of 16" in capsys.readouterr().err
    assert main([*argv, "--gin.PruneRows.keep_keys=3"]) == 2
    told = "PruneRows.keep_keys = 3: a later stage trains SoftPrompt, which has no keys"
    assert told in capsys.readouterr().err
    assert main([*argv, "--gin.pruned/Train.method=@LoRA()"]) == 2
    assert "trains LoRA, whose rows do not begin with a saved prompt's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["rehearse", "--gin_file=runs/pretrain_nano.gin"], "`prompt-jax pretrain` takes it"),
        (["train", "--gin_file=runs/pretrain_nano.gin", "--model_dir=no/where"], "pretrain` takes"),
    ],
)
def test_verbs_of_one_run_name_what_takes_a_program(words, runs, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "the recipe is a program of several runs" in said and runs in said
    assert len(said.strip().splitlines()) == 1
