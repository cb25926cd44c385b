"""Every recipe loads, says how it is run, and makes a step whose shapes fit."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import SHIPPED
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.columns import features
from prompt_jax.fit import estimate
from prompt_jax.methods.base import PromptedT5, TermParam
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.model import sizes
from prompt_jax.objective.terms import columns_of, minimised
from prompt_jax.recipe import config
from prompt_jax.recipe.find import recipe_folder
from prompt_jax.run.job import term_modules
from prompt_jax.run.stages import Stages, shaped
from prompt_jax.run.step import TrainState, make_train_step, split

RECIPES = sorted(path.name for path in (recipe_folder() / "runs").glob("*.gin"))
COMMAND = re.compile(r"#\s+prompt-jax (train|pretrain) --gin_file=runs/(\S+)")
NANO = Vocabulary.from_file(str(SHIPPED["nano"] / "nano" / "spiece.model"))
# Of macros that a recipe leaves to the command line.
VALUES = {
    "CORPUS": "no/such/folder",
    "SOURCES": ("no/such/prompt",),
    "SOURCE": "no/such/prompt",
    "TEACHER": "no/such/prompt",
    "TASK": "no/such/rows.train.jsonl",
}


def header(name: str) -> re.Match:
    text = (recipe_folder() / "runs" / name).read_text()
    found = COMMAND.search(text.partition("\n\n")[0])
    assert found, f"{name}: the header shows no command"
    return found


@functools.cache
def load(name: str):
    root = {"train": ("Stages", "Train"), "pretrain": "Pretrain"}[header(name)[1]]
    text = (recipe_folder() / "runs" / name).read_text()
    missing = re.findall(r"^(\w+) = %(?:gin\.)?REQUIRED", text, re.MULTILINE)
    bindings = [f"{macro}={VALUES[macro]!r}" for macro in missing]
    return config.load(root, [f"runs/{name}"], bindings)


def runs_of(root) -> list:
    if isinstance(root, Stages):
        return shaped(root)
    return list(root.stages) if type(root).__name__ == "Pretrain" else [root]


def test_there_are_recipes():
    assert {"quickstart.gin", "pretrain_nano.gin"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short_and_names_itself(name):
    text = (recipe_folder() / "runs" / name).read_text()
    assert header(name)[2] == name
    assert len(re.findall(r"^include ", text, re.MULTILINE)) <= 3


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_says_loads_again(name, tmp_path):
    loaded = load(name)
    (tmp_path / "again.gin").write_text(loaded.operative)
    again = config.load(type(loaded.root).__name__, [str(tmp_path / "again.gin")], [])
    assert again.root == loaded.root


# No paper's clip.
OURS = {"low_rank_nano.gin", *(name for name in RECIPES if name.startswith("pretrain_"))}


@pytest.mark.parametrize("name", sorted(set(RECIPES) - OURS))
def test_a_papers_clip_is_of_a_mean(name):
    """A norm of 1 means what it does in torch where the loss is a mean over tokens or examples."""
    for run in runs_of(load(name).root):
        assert run.optimizer.clip_global_norm is None or run.loss.count is not None


def abstract_model(run) -> PromptedT5:
    """The run's model with nano's shapes; nothing is allocated or read."""
    settings = run.backbone
    nano = dataclasses.replace(
        sizes.SIZES["nano"],
        dtype=settings.dtype,
        dropout_rate=settings.dropout_rate,
        remat=settings.remat,
    )
    graphdef, state = weights.abstract(nano)
    cast = lambda x: jax.ShapeDtypeStruct(x.shape, settings.dtype)  # noqa: E731
    terms = nnx.eval_shape(lambda: term_modules(run, Shapes(nano)))
    t5 = nnx.merge(graphdef, jax.tree.map(cast, state))
    return PromptedT5(t5, run.method.shapes(nano), terms)


def abstract_batch(run) -> dict[str, jax.ShapeDtypeStruct]:
    batch = features(run.data, run.method.layout, columns_of(run.terms))
    return {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}


def step_of(run, graphdef):
    """The run's step, wherever its arrays are."""
    loss = minimised(run.loss, run.terms, run.rule.apart, NANO, run.method.layout)
    key = jax.random.key(0) if run.backbone.dropout_rate else None
    tx = run.transform()
    count, rule = run.loss.count, run.rule
    return make_train_step(graphdef, loss, tx, key, None, run.accumulate, rule, count)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_shapes_of_a_step_fit(name):
    for run in runs_of(load(name).root):
        graphdef, trainable, frozen = split(abstract_model(run), run.method.trainable)
        tx = run.transform()
        inits = (tx.init, run.rule.build().init)
        slots = [jax.eval_shape(init, trainable) for init in inits]
        state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), trainable, *slots)
        step = step_of(run, graphdef)
        after, metrics = jax.eval_shape(step, state, frozen, abstract_batch(run))
        told = [[(x.shape, x.dtype) for x in jax.tree.leaves(s)] for s in (state, after)]
        assert told[0] == told[1]
        assert {x.shape for x in jax.tree.leaves(metrics)} == {()}
        owned = jax.tree.leaves(nnx.filter_state(trainable, TermParam))
        count = sum(x.size for x in jax.tree.leaves(trainable)) - sum(x.size for x in owned)
        assert count == run.method.count(sizes.SIZES["nano"])


HARDWARE = re.compile(r"^# Hardware: (\d+) x (\d+) GiB", re.MULTILINE)
BACKBONES = {  # sizes of what recipes name; nothing is fetched
    "nano_span": "nano",
    "hf:bigscience/T0_3B": "t5_1_1_xl",
    "hf:google-t5/t5-base": "t5_base",
    "hf:google/mt5-base": "mt5_base",
    "hf:google/mt5-large": "mt5_large",
    "hf:google/mt5-xxl": "mt5_xxl",
    "hf:google/t5-base-lm-adapt": "t5_1_1_base",
    "hf:google/t5-large-lm-adapt": "t5_1_1_large",
    "hf:google/t5-v1_1-base": "t5_1_1_base",
    "hf:google/t5-xl-lm-adapt": "t5_1_1_xl",
    "hf:google/t5-xxl-lm-adapt": "t5_1_1_xxl",
}


def bytes_of(run, devices: int) -> int:
    """What the estimate says of a step on each of so many accelerators."""
    known = {"data": run.mesh.data, "fsdp": run.mesh.fsdp, "model": run.mesh.model}
    given = math.prod(size for size in known.values() if size != -1)
    shape = tuple(devices // given if size == -1 else size for size in known.values())
    mesh = jax.sharding.AbstractMesh(shape, tuple(known))
    name = run.backbone.name
    size = sizes.SIZES[BACKBONES.get(name, name.removeprefix("random:").partition("?")[0])]
    config = run.backbone.configure(size)
    return estimate.step_bytes(run, config, mesh, "tpu", run.backbone.weights_dtype).total


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_hardware_that_holds_it(name):
    """`# Hardware: N x M GiB`: the estimate of every run of the recipe is within 0.8 M, as doctor
    has it."""
    head = (recipe_folder() / "runs" / name).read_text().partition("\n\n")[0]
    found = HARDWARE.search(head)
    assert found, f"{name}: no line '# Hardware: N x M GiB'"
    devices, memory = int(found[1]), int(found[2])
    needed = max(bytes_of(run, devices) for run in runs_of(load(name).root)) / 2**30
    assert needed <= 0.8 * memory, f"{name}: {needed:.1f} GiB"
