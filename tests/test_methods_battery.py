"""What every method must pass. A registered one is here by itself, with its defaults."""

import copy
import dataclasses
import importlib
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from compilations import compilations
from etils import epath
from flax import nnx
from subspace_prompt import SubspacePrompt

from prompt_jax.backbone.load import load_backbone
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.data.packing import Piece
from prompt_jax.data.source import Data
from prompt_jax.evaluate.prompts import module_of
from prompt_jax.methods.attempt import Attempt
from prompt_jax.methods.base import PromptedT5, PromptMethod, PromptParam
from prompt_jax.methods.context import ContextPrompt
from prompt_jax.methods.cpt import CPT
from prompt_jax.methods.deep import DeepPrompt
from prompt_jax.methods.dept import DePT
from prompt_jax.methods.e2vpt import E2VPT
from prompt_jax.methods.ept import EPT
from prompt_jax.methods.frozen import FrozenPrompts
from prompt_jax.methods.full import FullTuning
from prompt_jax.methods.lora import LoRA
from prompt_jax.methods.low_rank import LowRankPrompt
from prompt_jax.methods.maple import CoupledPrompt
from prompt_jax.methods.multitask import MultitaskPrompt
from prompt_jax.methods.p_tuning import PTuning
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.prefix import PrefixTuning
from prompt_jax.methods.scaled import ScaledPrompt
from prompt_jax.methods.soft import SoftPrompt
from prompt_jax.methods.upt import UnifiedPrompt
from prompt_jax.methods.x_gen import XGen
from prompt_jax.model.sharding import MeshShape, put_all
from prompt_jax.objective.optim import Adafactor, Schedule, by_group
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.recipe.registered import REGISTERED
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train
from prompt_jax.run.step import make_grad

NOISE = UniformInit()
SEVERAL: dict[str, Any] = {"tasks": ("other", "toy"), "length": 3, "init": NOISE}


def source(seed: int) -> str:
    """A saved prompt, for methods that begin with some."""
    path = Path(tempfile.mkdtemp()) / "source.npy"
    np.save(path, np.random.default_rng(seed).normal(size=(3, 16)).astype(np.float32))
    return str(path)


VARIANTS = {  # in place of a class's defaults
    "plug_in": SubspacePrompt(length=3, rank=2, pieces=20),  # of the docs, and not built in
    "prefix": SoftPrompt(length=3, init=NOISE),
    "both": SoftPrompt(length=3, init=NOISE, placement="suffix", decoder_length=2),
    "keys_values": PrefixTuning(length=3, hidden=None, dropout_rate=0.2),
    "keys_values_mlp": PrefixTuning(length=3, hidden=5),
    "context": ContextPrompt(text="abc", length=3),
    "cpt": CPT(demonstrations=(("ab", "c"),), length=5, output_template=": "),
    "lstm": PTuning(length=3, init=NOISE, residual=True),
    "deep": DeepPrompt(length=3, sides=("encoder", "decoder")),
    "attempt": Attempt(
        sources=(source(0), source(1)), length=3, hidden=5, temperature=1.0, init=NOISE
    ),
    "low_rank": LowRankPrompt(length=3, rank=2),
    "scaled": ScaledPrompt(length=3, scale="columns", init=NOISE),
    "dept": DePT(length=3, rank=2, max_length=9, init=NOISE),
    "ept": EPT(length=3, rank=2, max_length=28, init=NOISE),
    "upt": UnifiedPrompt(length=3, decoder_length=2, width=8),
    "coupled": CoupledPrompt(rank=3),
    "e2vpt": E2VPT(length=3, keys=2, attentions=("encoder", "decoder", "cross")),
    "tasks": MultitaskPrompt(**SEVERAL, combine="length", shared_length=1, placement="before_eos"),
    "x_gen": XGen(
        languages=("de", "en"),
        tasks=("other", "toy"),
        language_length=2,
        task_length=1,
        default_language="en",
    ),
}
MORE = {
    "infix": SoftPrompt(length=3, init=NOISE, placement="infix", marks=(100, 101)),
    "after_bos": SoftPrompt(length=3, init=NOISE, placement="after_bos"),
    "suffix": SoftPrompt(length=3, init=NOISE, placement="suffix"),
    "before_eos": SoftPrompt(length=3, init=NOISE, placement="before_eos"),
    "decoder": SoftPrompt(length=0, init=NOISE, decoder_length=2),
    "mlp_norm": PTuning(length=3, encoder="mlp_norm", width=6, placement="before_eos"),
    "mlp": PTuning(length=3, encoder="mlp", width=6),
    "bilstm": PTuning(length=3, encoder="bilstm", residual=True),
    "mapped": LowRankPrompt(length=3, rank=2, form="mapped", init=NOISE),
    "deep_add": DeepPrompt(length=3, combine="add"),
    "self_attention": PrefixTuning(length=3, hidden=None, attentions=("encoder", "decoder")),
    "before_the_text": PrefixTuning(length=3, hidden=None, positions="before"),
    "tasks_add": MultitaskPrompt(**SEVERAL, combine="add"),
    "tasks_feature": MultitaskPrompt(**SEVERAL, combine="feature", shared_width=5),
    "tasks_projection": MultitaskPrompt(**SEVERAL, combine="projection", shared_width=5),
    "tasks_hadamard": MultitaskPrompt(**SEVERAL, combine="hadamard"),
    "tasks_separate": MultitaskPrompt(**SEVERAL, combine="separate"),
    "lora_all": LoRA(rank=2, targets=("query", "key", "value", "out")),
}


def registered() -> set[type[PromptMethod]]:
    objects = [place.split(":") for place in REGISTERED.values()]
    found = {vars(importlib.import_module(module))[name] for module, name in objects}
    methods = {c for c in found if isinstance(c, type) and issubclass(c, PromptMethod)}
    return methods - {FrozenPrompts}  # it needs prompts of a run before: tests/test_stages.py


VARIED = {type(method) for method in VARIANTS.values()}
DEFAULTS = {c.__name__: c() for c in sorted(registered() - VARIED, key=lambda c: c.__name__)}
METHODS = VARIANTS | DEFAULTS | MORE
QUICK = ("both", "keys_values", "attempt", "tasks", "LoRA", "dept")  # contracts
CASES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
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
        self.run = run
        self.job = job = Run(run, epath.Path(folder), jax.devices()[:1])
        self.batch = job.batch(0)[0]
        self.state = job.first_state()
        self.outputs = jax.eval_shape(job.train_step, self.state, job.frozen, self.batch)
        self.before = host(self.state.trainable), host(job.frozen)
        self.grad = jax.jit(make_grad(job.graphdef, run.loss))
        with compilations() as self.compiled:
            for step in range(STEPS):
                self.state, _ = job.train_step(self.state, job.frozen, job.batch(step)[0])
        self.after = host(self.state.trainable), host(job.frozen)

    @property
    def model(self) -> PromptedT5:
        return nnx.merge(self.job.graphdef, self.state.trainable, self.job.frozen)


@pytest.fixture(scope="module", params=CASES)
def trained(request, tiny, tmp_path_factory):
    return Trained(METHODS[request.param], tiny, tmp_path_factory.mktemp(request.param))


def test_every_registered_method_is_here():
    assert registered() == {type(method) for method in METHODS.values()} - {SubspacePrompt}
    assert {"IA3", "LoRA", "FullTuning"} <= set(DEFAULTS)


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


def test_a_group_is_of_its_own_parameters(trained):
    """A group at rate 0 stays as it is, and nothing else does."""
    groups, module = trained.method.groups, trained.model.prompt
    ones = jax.tree.map(np.ones_like, trained.state.trainable)
    for group in {*groups.values()}:
        tx = by_group(optax.identity(), {group: 0.0}, groups)
        scaled = host(tx.update(ones, tx.init(ones), ones)[0])
        owned = [name.split(".") for name, of in groups.items() if of == group]
        paths = [path for path, _ in nnx.to_flat_state(nnx.state(module, PromptParam))]
        wanted = sum(list(path[: len(name)]) == name for path in paths for name in owned)
        assert sum(not leaf.any() for leaf in scaled) == wanted


def test_one_compilation_serves_every_step(trained):
    assert trained.compiled.count("train_step") == 1


def test_no_output_of_the_step_is_a_frozen_weight(trained):
    frozen = {leaf.shape for leaf in jax.tree.leaves(trained.job.frozen) if leaf.ndim > 1}
    outputs = {leaf.shape for leaf in jax.tree.leaves(trained.outputs)}
    own = {leaf.shape for leaf in jax.tree.leaves(trained.state.trainable)}  # IA3's are norms' too
    assert not (frozen - own) & outputs


def test_fold_equals_build(trained):
    if isinstance(trained.method, FullTuning):
        return  # its artefact is a backbone, which the last test loads
    trained.job.save_prompt(trained.state, "fold", None)
    fixed = module_of([load_prompt(str(trained.folder / "prompt" / "fold"))], trained.model.t5)
    folded = PromptedT5(trained.model.t5, fixed)
    logits = [
        np.asarray(jax.jit(lambda m, b: m(b))(m, trained.batch)) for m in (trained.model, folded)
    ]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-6, atol=1e-6)


def test_packed_equals_unpacked(trained):
    data, job = copy.copy(trained.job.data), trained.job
    pieces = [Piece(0, i) for i in range(4)]
    data_padded = data.assemble([[piece] for piece in pieces])
    data.capacity = (2 * data.capacity[0], 2 * data.capacity[1])  # two examples and their prompts
    data_packed = data.assemble([pieces[:2], pieces[2:]])
    assert data_packed["encoder_segment_ids"].max() == 2
    told = []
    for batch in (put_all(data_packed, job.mesh), put_all(data_padded, job.mesh)):
        grads, sums = trained.grad(trained.state.trainable, job.frozen, batch, None)
        told.append((host(grads), float(sums["loss"])))
    np.testing.assert_allclose(told[0][1], told[1][1], rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in told[1][0])
    for a, b in zip(told[0][0], told[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_eight_devices_give_the_gradient_of_one(trained):
    run = dataclasses.replace(trained.run, mesh=MeshShape(data=2, fsdp=2, model=2))
    eight = Run(run, epath.Path(trained.folder), jax.devices())
    functions = (trained.grad, jax.jit(make_grad(eight.graphdef, run.loss)))
    grads = [
        host(grad(job.trainable, job.frozen, job.batch(0)[0], None)[0])
        for job, grad in zip((trained.job, eight), functions, strict=True)
    ]
    largest = max(np.abs(leaf).max() for leaf in grads[0])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * largest)


def test_saved_and_loaded_it_is_the_same(trained):
    trained.job.save_prompt(trained.state, "again", None)
    folder = trained.folder / "prompt" / "again"
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    if isinstance(trained.method, FullTuning):
        loaded = load_backbone(f"files:{folder}", "float32").model
        held = [np.asarray(x) for x in jax.tree.leaves(nnx.state(loaded))]
        wanted = host(nnx.state(trained.model.t5))
    else:
        arrays, folded = load_prompt(str(folder)).arrays, trained.method.fold(trained.model.prompt)
        assert arrays.keys() == folded.keys() and arrays
        held, wanted = ([found[name] for name in arrays] for found in (arrays, folded))
    for a, b in zip(held, wanted, strict=True):
        assert a.tobytes() == b.tobytes()
    trained.job.save_prompt(trained.state, "again", None)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
