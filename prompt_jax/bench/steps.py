"""Training steps of prompt tuning on examples of given lengths, by how rows are laid out."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.bench.lengths import Lengths
from prompt_jax.data.packing import row_length
from prompt_jax.data.source import Data, TaskBatches
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.model import sharding
from prompt_jax.model.bundle import Visibility
from prompt_jax.model.t5 import T5Config
from prompt_jax.objective.optim import Adafactor, Schedule
from prompt_jax.run.flops import least
from prompt_jax.run.job import build_step
from prompt_jax.run.settings import Train
from prompt_jax.run.step import TrainState, split

EXAMPLES = 512
ONCE = Visibility(input=False, computed_once=True)


@dataclass(frozen=True)
class Shape:
    """How a step's rows are laid out.

    Attributes:
      rows, columns: of the encoder, those of a prompt beside the text not among the columns.
      targets: columns of the decoder.
      packed: several examples to a row.
      once: the prompt is computed once.
      prompt: rows of the prompt.
    """

    rows: int
    columns: int
    targets: int
    packed: bool = True
    once: bool = False
    prompt: int = 100

    @property
    def method(self) -> SoftPrompt:
        visibility = ONCE if self.once else Visibility()
        return SoftPrompt(length=self.prompt, init=UniformInit(), visibility=visibility)


class Stepping:
    """A compiled step in float32 without dropout, its state, and batches that follow each other.

    `model`: a T5 whose arrays several of these share. `flops`: the least that a step needs.
    """

    def __init__(self, model: Any, config: T5Config, shape: Shape, lengths: Lengths):
        task = lengths.examples("synthetic", EXAMPLES)
        data = Data(
            task="synthetic",
            input_length=shape.columns,
            target_length=shape.targets,
            batch_size=shape.rows,
            packed=shape.packed,
            row_length=shape.columns,
        )
        method = shape.method
        run = Train(
            backbone=BackboneSettings(name="synthetic", dtype=config.dtype),
            method=method,
            data=data,
            optimizer=Adafactor(schedule=Schedule(learning_rate=0.3)),
            steps=1,
        )
        self.flops = least(run, config)[0]
        mesh = run.mesh.build(jax.devices()[:1])
        module = method.create(jax.random.key(0), Shapes(config))
        graphdef, trainable, frozen = split(PromptedT5(model, module), method.trainable)
        self.frozen = jax.device_put(frozen, sharding.params(mesh, frozen))
        trainable = jax.device_put(trainable, sharding.params(mesh, trainable))
        everywhere = sharding.replicated(mesh)
        opt_state = jax.device_put(run.transform().init(trainable), everywhere)
        self.state = TrainState(jax.device_put(jnp.int32(0), everywhere), trainable, opt_state)
        self.compiled = build_step(run, graphdef, self.state)
        self.batches = self._batches(TaskBatches([task], [1.0], data, method.layout, 0), mesh)

    @staticmethod
    def _batches(data: TaskBatches, mesh) -> Iterator[tuple[Any, int]]:
        for step in itertools.count():
            yield sharding.put_all(data.batch(step), mesh), data.examples(step)

    def step(self) -> tuple[float, int]:
        """Seconds of one step, its batch at hand, and how many examples it held."""
        batch, examples = next(self.batches)
        jax.block_until_ready(batch)
        began = time.perf_counter()
        self.state, _ = self.compiled(self.state, self.frozen, batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began, examples


def shapes_of(lengths: Lengths, columns: int, prompt: int) -> dict[str, Shape]:
    """Packed rows of `columns` tokens in all: with a prompt beside each example in rows of 512, as
    far as they are that many, and computed once in rows of what the program chooses."""
    task = lengths.examples("synthetic", EXAMPLES)
    sizes, longest = task.inputs.lengths, int(task.targets.lengths.max())
    beside = min(512, columns)
    chosen = row_length(task.lengths, beside, longest * beside)  # the decoder never full
    made = {}
    for name, width, once in (("packed", beside, False), ("once", chosen, True)):
        taken = float(sizes.mean()) + (0 if once else prompt)
        room = beside + prompt if not once else width
        targets = -(-int(longest * max(1, room // taken) + longest) // 8) * 8
        made[name] = Shape(max(1, columns // width), width, targets, once=once, prompt=prompt)
    return made


def random_model(config: T5Config) -> nnx.Module:
    """A T5 of random weights in float32."""
    return weights.init(config, 0)
