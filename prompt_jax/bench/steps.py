"""Training steps of prompt tuning on examples of given lengths, by how rows are laid out."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.backbone.load import Backbone
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.bench.lengths import Examples
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
from prompt_jax.run import farm_step
from prompt_jax.run.flops import least
from prompt_jax.run.job import Run, Setup, build_step
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

    def __init__(self, model: Any, config: T5Config, shape: Shape, lengths: Examples):
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


class FarmStepping:
    """Steps of a farm whose members are seeds of one run over synthetic rows."""

    def __init__(self, config: T5Config, shape: Shape, members: int):
        name = f"synthetic?inputs={shape.columns}&targets={shape.targets}"
        run = Train(
            backbone=BackboneSettings(name="random", dtype=config.dtype, dropout_rate=0.0),
            method=shape.method,
            data=Data(
                task=name,
                input_length=shape.columns,
                target_length=shape.targets,
                batch_size=shape.rows,
                packed=False,
            ),
            optimizer=Adafactor(schedule=Schedule(learning_rate=0.3)),
            steps=1,
        )
        setup = Setup(run, jax.devices()[:1])
        model: Any = random_model(config)
        backbone = Backbone(config, model, "random", "0" * 64, Vocabulary.bytes())
        setup.read(run.backbone, lambda: backbone)
        one = Run(run, epath.Path("unused"), setup=setup)
        slot = farm_step.slot_of(one, one.first_state())
        self.slots = farm_step.empty(slot, members, farm_step.members(one))
        for number in range(members):
            self.slots = farm_step.put(self.slots, number, slot)
        self.call, self.backbone = farm_step.make_farm_step(one), farm_step.backbone_of(one)
        rows, _ = one.rows(0)
        batch = {n: np.stack([x] * members) for n, x in rows.items()}
        self.batch = jax.device_put(batch, farm_step.members(one))
        self.examples = members * shape.rows

    def step(self) -> tuple[float, int]:
        began = time.perf_counter()
        self.slots, _ = self.call(self.slots, self.backbone, self.batch)
        jax.block_until_ready(self.slots)
        return time.perf_counter() - began, self.examples


def shapes_of(lengths: Examples, columns: int, prompt: int) -> dict[str, Shape]:
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
