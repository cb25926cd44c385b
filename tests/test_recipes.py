"""Every recipe loads, says how it is run, and makes a step whose shapes fit."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import SHIPPED
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.source import DECODER_FEATURES, ENCODER_FEATURES, Data
from prompt_jax.methods.base import PromptedT5
from prompt_jax.model import sizes
from prompt_jax.objective.terms import minimised
from prompt_jax.recipe import config
from prompt_jax.recipe.find import recipe_folder
from prompt_jax.run.stages import Stages, resolved
from prompt_jax.run.step import TrainState, make_train_step, split

RECIPES = sorted(path.name for path in (recipe_folder() / "runs").glob("*.gin"))
COMMAND = re.compile(r"#\s+prompt-jax (train|pretrain) --gin_file=runs/(\S+)")
NANO = Vocabulary.from_file(str(SHIPPED["nano"] / "nano" / "spiece.model"))
# Of macros that a recipe leaves to the command line.
VALUES = {"CORPUS": "no/such/folder", "SOURCES": ("no/such/prompt",)}


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
        return resolved(root, epath.Path("D"))
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
    return PromptedT5(nnx.merge(graphdef, jax.tree.map(cast, state)), run.method.shapes(nano))


def abstract_batch(run) -> dict[str, jax.ShapeDtypeStruct]:
    data, layout = run.data, run.method.layout
    sides = {
        "encoder": (data.batch_size, data.input_length + layout.columns),
        "decoder": (data.batch_size, data.target_length + layout.decoder),
    }
    names = ["encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"]
    if isinstance(data, Data):
        names = [*ENCODER_FEATURES, *DECODER_FEATURES]
    batch = {n: jax.ShapeDtypeStruct(sides[n.split("_")[0]], jnp.int32) for n in names}
    if isinstance(data, Data):
        batch["decoder_loss_weights"] = jax.ShapeDtypeStruct(sides["decoder"], jnp.float32)
    return batch


def step_of(run, graphdef):
    """The run's step, wherever its arrays are."""
    rule, after = run.grad_rule, run.post_update
    loss = minimised(run.loss, run.terms, rule is not None, NANO, run.method.layout)
    key = jax.random.key(0) if run.backbone.dropout_rate else None
    tx = run.transform()
    return make_train_step(graphdef, loss, tx, key, None, run.accumulate, rule, after)


@pytest.mark.parametrize("name", RECIPES)
def test_the_shapes_of_a_step_fit(name):
    for run in runs_of(load(name).root):
        graphdef, trainable, frozen = split(abstract_model(run), run.method.trainable)
        tx = run.transform()
        opt_state = jax.eval_shape(tx.init, trainable)
        state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), trainable, opt_state)
        step = step_of(run, graphdef)
        after, metrics = jax.eval_shape(step, state, frozen, abstract_batch(run))
        told = [[(x.shape, x.dtype) for x in jax.tree.leaves(s)] for s in (state, after)]
        assert told[0] == told[1]
        assert {x.shape for x in metrics.values()} == {()}
        count = sum(x.size for x in jax.tree.leaves(trainable))
        assert count == run.method.count(sizes.SIZES["nano"])
