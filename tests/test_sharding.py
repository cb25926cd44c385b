"""One device or eight, in every arrangement: the same run."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from etils import epath
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptParam
from prompt_jax.model.sharding import MeshShape, check_rows, params
from prompt_jax.model.t5 import T5Config
from prompt_jax.recipe import config
from prompt_jax.run.job import Run

STEPS = 20
MESHES = {"8 data": (8, 1, 1), "mixed": (2, 2, 2), "8 model": (1, 1, 8)}
REST = {  # every other way to arrange 2, 4 and 8 devices
    "x".join(map(str, shape)): shape
    for shape in itertools.product((1, 2, 4, 8), repeat=3)
    if np.prod(shape) in (2, 4, 8) and shape not in MESHES.values()
}


def trajectory(recipe: Path, folder: Path, shape: tuple[int, int, int]):
    """(loss and gradient norm of the first step, prompt [P, D] after STEPS, compilations)."""
    sizes = zip(("data", "fsdp", "model"), shape, strict=True)
    bindings = ["Train.mesh=@MeshShape()", *(f"MeshShape.{name}={n}" for name, n in sizes)]
    run = config.load("Train", [str(recipe)], bindings).root
    job = Run(run, epath.Path(folder), jax.devices()[: int(np.prod(shape))])
    state, first = job.first_state(), None
    with compilations() as compiled:
        for step in range(STEPS):
            state, metrics = job.train_step(state, job.frozen, job.batch(step)[0])
            first = first or {name: float(metrics[name]) for name in ("loss", "grad_norm")}
    used = {d for x in jax.tree.leaves(job.frozen) for d in x.devices()}
    assert len(used) == np.prod(shape)
    return first, np.asarray(state.trainable.prompt.encoder[...]), compiled.count("train_step")


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    return trajectory(tiny / "run.gin", tmp_path_factory.mktemp("one"), (1, 1, 1))


@pytest.mark.parametrize(
    "name", [n if n == "mixed" else pytest.param(n, marks=pytest.mark.slow) for n in MESHES]
)
def test_a_mesh_changes_no_number(tiny, tmp_path, alone, name):
    first, prompt, compilations = trajectory(tiny / "run.gin", tmp_path, MESHES[name])
    for key, value in alone[0].items():
        np.testing.assert_allclose(first[key], value, rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(prompt, alone[1], rtol=0, atol=1e-4)
    assert compilations == alone[2] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_no_mesh_of_two_to_eight_devices_changes_a_number(tiny, tmp_path, alone, name):
    first, prompt, compilations = trajectory(tiny / "run.gin", tmp_path, REST[name])
    for key, value in alone[0].items():
        np.testing.assert_allclose(first[key], value, rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(prompt, alone[1], rtol=0, atol=1e-4)
    assert compilations == 1


def test_the_gradient_is_the_same_on_every_mesh(tiny, tmp_path):
    from prompt_jax.run.step import make_grad

    grads = []
    for shape in ((1, 1, 1), *MESHES.values()):
        sizes = zip(("data", "fsdp", "model"), shape, strict=True)
        bindings = ["Train.mesh=@MeshShape()", *(f"MeshShape.{name}={n}" for name, n in sizes)]
        run = config.load("Train", [str(tiny / "run.gin")], bindings).root
        job = Run(run, epath.Path(tmp_path), jax.devices()[: int(np.prod(shape))])
        grad = jax.jit(make_grad(job.graphdef, run.loss))
        prompt = grad(job.trainable, job.frozen, job.batch(0)[0], None)[0].prompt
        grads.append(np.asarray(prompt.encoder[...]))
    scale = np.abs(grads[0]).max()
    for other in grads[1:]:
        np.testing.assert_allclose(other, grads[0], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ({"data": 3}, "does not fit 8 devices"),
        ({"data": 4}, "does not fit 8 devices"),
        ({"data": -1, "fsdp": -1}, "MeshShape.fsdp = -1: give 1 or more, or -1 on one axis"),
        ({"model": 0}, "MeshShape.model = 0: give 1 or more, or -1 on one axis"),
        ({"data": 16, "fsdp": -1}, "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit(shape, part):
    with pytest.raises(UserError, match=part):
        MeshShape(**shape).build()


def test_data_is_shared_out_over_slices():
    mesh = MeshShape(data=4, model=2, slices=2).build()
    assert [d.id for d in mesh.devices[:2].flat] == [0, 1, 2, 3]  # the first slice
    with pytest.raises(UserError, match=r"slices = 3: does not divide data = 4.* one of 1, 2, 4"):
        MeshShape(data=4, model=2, slices=3).build()


class Chip(NamedTuple):
    """A described TPU chip: what `mesh_utils` reads of a device."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def chips(slices: int) -> list[Chip]:
    spots = [(x, y, 0) for y in range(4) for x in range(4)]
    return [Chip(16 * s + n, spot, s) for s in range(slices) for n, spot in enumerate(spots)]


def test_slices_are_those_the_chips_are_in():
    both = MeshShape(model=4)
    grid = both.grid(chips(2))
    assert grid.shape == (8, 1, 4)
    assert [{c.slice_index for c in grid[i : i + 4].flat} for i in (0, 4)] == [{0}, {1}]
    for row in grid.reshape(8, 4):  # the model axis lies along one axis of the chips' network
        assert any(len({c.coords[axis] for c in row}) == 1 for axis in (0, 1))
    with pytest.raises(UserError, match="slices = 4: the devices are in 2 slices"):
        MeshShape(model=4, slices=4).grid(chips(2))


def test_a_size_that_does_not_divide_is_named_with_those_that_do():
    state = weights.abstract(T5Config(264, 12, 6, 8, 32, 1, 1))[1]
    mesh = MeshShape(data=1, fsdp=8).build()
    wanted = (
        r"^\S+ \[.*\]: dim \d \(embed, 12\) is not divisible by mesh axis "
        r"fsdp = 8; sizes of fsdp that divide it: 1, 2, 4$"
    )
    with pytest.raises(UserError, match=wanted):
        params(mesh, state)


def test_every_parameter_has_axes_and_every_axis_a_rule():
    mesh = MeshShape(data=8).build()
    with pytest.raises(UserError, match=r"w \[2, 2\]: no logical axes, no sharding rule"):
        params(mesh, nnx.State({"w": nnx.Param(jnp.ones((2, 2)))}))
    with pytest.raises(UserError, match=r"w: no sharding rule for logical axis 'hands'"):
        params(mesh, nnx.State({"w": nnx.Param(jnp.ones(2), axes=("hands",))}))
    free = params(mesh, nnx.State({"p": PromptParam(jnp.ones((2, 2)))}))
    assert free["p"].get_value().is_fully_replicated


@pytest.mark.slow
def test_weights_are_gathered_where_activations_would_be_exchanged(tiny, tmp_path, monkeypatch):
    """With `fsdp`, what passes between layers keeps its features whole: only weights move."""
    bindings = ["Train.mesh=@MeshShape()", "MeshShape.data=1", "MeshShape.fsdp=8"]
    run = config.load("Train", [str(tiny / "run.gin")], bindings).root
    job = Run(run, epath.Path(tmp_path))
    lowered = job.train_step.lower(job.first_state(), job.frozen, job.batch(0)[0])
    reduced = re.findall(r"= f32\[([\d,]+)\]\S* all-reduce", lowered.compile().as_text())
    rows = run.data.batch_size // 8
    assert [dims for dims in reduced if dims.startswith(f"{rows},")] == []


def test_what_is_left_over_fills_the_mesh():
    assert dict(MeshShape(model=2).build().shape) == {"data": 4, "fsdp": 1, "model": 2}


def test_a_batch_that_cannot_be_shared_out():
    mesh = MeshShape(data=4, fsdp=2).build()
    check_rows(mesh, 32, accumulate=2)
    with pytest.raises(UserError, match=r"BATCH_SIZE = 24: cannot be split .* multiple of 16"):
        check_rows(mesh, 24, accumulate=2)
