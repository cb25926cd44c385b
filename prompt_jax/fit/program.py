"""The steps of a recipe over described devices: real functions, shapes for arrays.

`train_program` builds what `job.Run` builds, of `jax.ShapeDtypeStruct`s with shardings, so that
the step can be compiled for chips that are not there and for weights that were never read.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from prompt_jax.answer.answerer import Answerer, Answering, generate_text
from prompt_jax.backbone import weights
from prompt_jax.backbone.load import check_dtype, read_config
from prompt_jax.data.columns import features
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.model import quantised, sharding
from prompt_jax.model.t5 import T5Config
from prompt_jax.objective.terms import columns_of
from prompt_jax.run.job import build_step, opt_shardings, term_modules
from prompt_jax.run.settings import Train
from prompt_jax.run.step import TrainState, split


@dataclass(frozen=True)
class Program:
    """A jitted function, the shapes it is called with, and the mesh that they lie on.

    Attributes:
      static: arguments before the arrays, which `jax.jit` takes as they are.
      arrays: shapes with their shardings.
      frozen: the shapes of the frozen half alone.
    """

    function: Any
    static: tuple
    arrays: tuple
    frozen: Any
    mesh: Mesh

    def lower(self) -> Any:
        return self.function.lower(*self.static, *self.arrays)

    def jaxpr(self) -> Any:
        return self.function.trace(*self.static, *self.arrays).jaxpr


def config_of(run: Train) -> T5Config:
    """The config of the recipe's backbone, as the run would have it; no weight is read."""
    check_dtype(run.backbone.dtype)
    return run.backbone.configure(read_config(run.backbone.name))


def train_program(run: Train, config: T5Config, devices: Sequence[Any]) -> Program:
    """The step that `run` takes, over `devices`.

    Raises:
      UserError: the mesh does not fit the devices, or does not divide the batch or an array.
    """
    mesh = run.mesh.build(devices)
    sharding.check_rows(mesh, run.data.batch_size, run.accumulate)
    graphdef, trainable, frozen = _halves(run, config, mesh)
    everywhere = sharding.replicated(mesh)
    inits = (run.transform().init, run.rule.build().init)
    slots = tuple(jax.eval_shape(init, trainable) for init in inits)
    slots = _placed(slots, opt_shardings(slots, trainable, everywhere))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    state = TrainState(step, trainable, *slots)
    batch = _placed_rows(features(run.data, run.method.layout, columns_of(run.terms)), mesh)
    function = build_step(run, graphdef, state)
    return Program(function, (), (state, frozen, batch), frozen, mesh)


def decode_program(run: Train, config: T5Config, devices: Sequence[Any]) -> Program:
    """The decoding of one batch of the recipe's evaluation, as long as its targets may be.

    Raises:
      UserError: as `train_program`, or where the recipe does not write texts.
    """
    rows, answering = answered(run)
    mesh = run.mesh.build(devices)
    graphdef, trainable, frozen = _halves(run, config, mesh)
    limits = (run.data.input_length, run.data.target_length)
    answerer = Answerer(None, run.method.layout, mesh, limits, rows, answering)
    batch = _placed_rows(answerer.batch([], limits[0]), mesh)
    static, arrays = (graphdef, limits[1], answering), (trainable, frozen, batch)
    return Program(generate_text, static, arrays, frozen, mesh)


def answered(run: Train) -> tuple[int, Answering]:
    """How many rows the recipe's evaluation answers at once, and how.

    Raises:
      UserError: the recipe does not write texts.
    """
    evaluation = run.evaluation
    answering = None if evaluation is None else evaluation.answering
    if evaluation is None or answering is None or answering.mode != "generate":
        raise UserError(
            "--decode", "the recipe's evaluation generates no text", "leave --decode out"
        )
    return evaluation.batch_size, answering


def _halves(run: Train, config: T5Config, mesh: Mesh) -> tuple[Any, nnx.State, nnx.State]:
    """Graph definition, trainable and frozen shapes in the dtypes and shardings of the run."""
    graphdef, state = weights.abstract(config)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(config.dtype)), state)
    state = quantised.shapes(state, run.backbone.weights_dtype)
    terms = nnx.eval_shape(lambda: term_modules(run, Shapes(config)))
    model = PromptedT5(nnx.merge(graphdef, state), run.method.shapes(config), terms)
    graphdef, *halves = split(model, run.method.trainable)
    trainable, frozen = (_placed(half, sharding.params(mesh, half)) for half in halves)
    return graphdef, trainable, frozen


def _placed(shapes: Any, shardings: Any) -> Any:
    def place(x, where):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(place, shapes, shardings)


def _placed_rows(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    rows = sharding.rows(mesh)
    return {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for k, x in batch.items()}


def with_batch(run: Train, rows: int) -> Train:
    return dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=rows))


def with_mesh(run: Train, shape: sharding.MeshShape) -> Train:
    return dataclasses.replace(run, mesh=shape)
