"""What every method must pass; a new one adds a line to METHODS."""

import copy
import importlib
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from prompt_jax.artefact import load_prompt
from prompt_jax.backbone import load_backbone
from prompt_jax.data import Data
from prompt_jax.loss import Loss
from prompt_jax.methods.base import FixedPrompt, PromptedT5, PromptMethod
from prompt_jax.methods.full import FullTuning
from prompt_jax.methods.inits import UniformInit
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.optim import Adafactor, Schedule
from prompt_jax.packing import Piece
from prompt_jax.registered import REGISTERED
from prompt_jax.step import make_grad
from prompt_jax.train import BackboneSettings, Job, Train

tiny = runpy.run_path(str(Path(__file__).with_name("tiny.py")))["tiny"]
NOISE = UniformInit()
METHODS = {
    "prefix": SoftPrompt(length=3, init=NOISE),
    "after_bos": SoftPrompt(length=3, init=NOISE, placement="after_bos"),
    "suffix": SoftPrompt(length=3, init=NOISE, placement="suffix"),
    "before_eos": SoftPrompt(length=3, init=NOISE, placement="before_eos"),
    "decoder": SoftPrompt(length=0, init=NOISE, decoder_length=2),
    "both": SoftPrompt(length=3, init=NOISE, placement="suffix", decoder_length=2),
    "full": FullTuning(),
}
STEPS = 3


def host(tree) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


class Trained:
    """A job, and what it held before and after STEPS steps with dropout."""

    def __init__(self, method: PromptMethod, tiny: Path, folder: Path):
        self.method, self.folder = method, folder
        run = Train(
            backbone=BackboneSettings(name=f"files:{tiny}/backbone", dtype="float32"),
            method=method,
            data=Data(
                task=str(tiny / "toy.train.jsonl"), input_length=28, target_length=5, batch_size=4
            ),
            optimizer=Adafactor(schedule=Schedule(learning_rate=0.3)),
            steps=STEPS,
        )
        self.job = job = Job(run, epath.Path(folder), jax.devices()[:1])
        self.batch = job.batch(0)[0]
        self.state = job.first_state()
        self.outputs = jax.eval_shape(job.train_step, self.state, job.frozen, self.batch)
        self.before = host(self.state.trainable), host(job.frozen)
        for step in range(STEPS):
            self.state, _ = job.train_step(self.state, job.frozen, job.batch(step)[0])
        self.after = host(self.state.trainable), host(job.frozen)

    @property
    def model(self) -> PromptedT5:
        return nnx.merge(self.job.graphdef, self.state.trainable, self.job.frozen)


@pytest.fixture(scope="module", params=METHODS)
def trained(request, tiny, tmp_path_factory):
    return Trained(METHODS[request.param], tiny, tmp_path_factory.mktemp(request.param))


def test_every_registered_method_is_here():
    objects = [place.split(":") for place in REGISTERED.values()]
    found = {vars(importlib.import_module(module))[name] for module, name in objects}
    registered = {c for c in found if isinstance(c, type) and issubclass(c, PromptMethod)}
    assert registered == {type(method) for method in METHODS.values()}


def test_only_what_trains_changes(trained):
    (trainable, frozen), (trainable_after, frozen_after) = trained.before, trained.after
    for a, b in zip(trainable, trainable_after, strict=True):
        assert not np.array_equal(a, b)
    for a, b in zip(frozen, frozen_after, strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_count_is_the_formula(trained):
    count = sum(leaf.size for leaf in trained.after[0])
    assert count == trained.method.count(trained.job.backbone.config)


def test_the_optimizer_is_as_large_as_what_trains(trained):
    leaves = host(trained.state.trainable)
    count = sum(leaf.size for leaf in leaves)
    size = sum(leaf.size for leaf in host(trained.state.opt_state))
    assert count <= size <= count + 3 * len(leaves) + 4  # Adafactor's placeholders and counters


def test_one_compilation_serves_every_step(trained):
    assert trained.job.train_step._cache_size() == 1


def test_no_output_of_the_step_is_a_frozen_weight(trained):
    frozen = {leaf.shape for leaf in jax.tree.leaves(trained.job.frozen) if leaf.ndim > 1}
    outputs = {leaf.shape for leaf in jax.tree.leaves(trained.outputs)}
    assert not frozen & outputs


def test_fold_equals_build(trained):
    if not trained.method.fold(trained.model.prompt):
        assert isinstance(trained.method, FullTuning)
        return
    trained.job.save_prompt(trained.state, "fold", None)
    fixed = FixedPrompt(load_prompt(str(trained.folder / "prompt" / "fold")))
    folded = PromptedT5(trained.model.t5, fixed)
    logits = [np.asarray(jax.jit(lambda m, b: m(b))(m, trained.batch))
              for m in (trained.model, folded)]  # fmt: skip
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-6, atol=1e-6)


def test_packed_equals_unpacked(trained):
    data, job = copy.copy(trained.job.data), trained.job
    data.capacity = (2 * data.capacity[0], 2 * data.capacity[1])  # two examples and their prompts
    pieces = [Piece(0, i) for i in range(4)]
    data_packed = data.assemble([pieces[:2], pieces[2:]])
    data_padded = data.assemble([[piece] for piece in pieces])
    assert data_packed["encoder_segment_ids"].max() == 2
    grad = jax.jit(make_grad(job.graphdef, Loss()))
    told = []
    for batch in (data_packed, data_padded):
        grads, sums = grad(trained.state.trainable, job.frozen, batch, None)
        told.append((host(grads), float(sums["loss"])))
    np.testing.assert_allclose(told[0][1], told[1][1], rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in told[1][0])
    for a, b in zip(told[0][0], told[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_saved_and_loaded_it_is_the_same(trained):
    trained.job.save_prompt(trained.state, "again", None)
    folder = trained.folder / "prompt" / "again"
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    if isinstance(trained.method, FullTuning):
        loaded = load_backbone(f"files:{folder}", "float32").model
        held = [np.asarray(x) for x in jax.tree.leaves(nnx.state(loaded))]
        wanted = host(nnx.state(trained.model.t5))
    else:
        arrays = load_prompt(str(folder)).arrays
        held = [arrays[side] for side in sorted(arrays)]
        module = nnx.to_flat_state(nnx.state(trained.model.prompt))
        wanted = [np.asarray(v.get_value()) for _, v in sorted(module, key=lambda item: item[0])]
    for a, b in zip(held, wanted, strict=True):
        assert a.tobytes() == b.tobytes()
    trained.job.save_prompt(trained.state, "again", None)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
