"""One device or eight, in every arrangement: the same run."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from prompt_jax import config
from prompt_jax.errors import UserError
from prompt_jax.sharding import MeshShape, check_rows
from prompt_jax.train import Job

tiny = runpy.run_path(str(Path(__file__).with_name("tiny.py")))["tiny"]
STEPS = 20
MESHES = {"8 data": (8, 1, 1), "mixed": (2, 2, 2), "8 model": (1, 1, 8)}


def trajectory(recipe: Path, folder: Path, shape: tuple[int, int, int]):
    """(loss and gradient norm of the first step, prompt [P, D] after STEPS, compilations)."""
    sizes = zip(("data", "fsdp", "model"), shape, strict=True)
    bindings = ["Train.mesh=@MeshShape()", *(f"MeshShape.{name}={n}" for name, n in sizes)]
    run = config.load("Train", [str(recipe)], bindings).root
    job = Job(run, epath.Path(folder), jax.devices()[: int(np.prod(shape))])
    state, first = job.first_state(), None
    for step in range(STEPS):
        state, metrics = job.train_step(state, job.frozen, job.batch(step)[0])
        first = first or {name: float(metrics[name]) for name in ("loss", "grad_norm")}
    used = {d for x in jax.tree.leaves(job.frozen) for d in x.devices()}
    assert len(used) == np.prod(shape)
    return first, np.asarray(state.trainable.prompt.encoder[...]), job.train_step._cache_size()


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    return trajectory(tiny / "run.gin", tmp_path_factory.mktemp("one"), (1, 1, 1))


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_changes_no_number(tiny, tmp_path, alone, name):
    first, prompt, compilations = trajectory(tiny / "run.gin", tmp_path, MESHES[name])
    for key, value in alone[0].items():
        np.testing.assert_allclose(first[key], value, rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(prompt, alone[1], rtol=0, atol=1e-4)
    assert compilations == alone[2] == 1


def test_the_gradient_is_the_same_on_every_mesh(tiny, tmp_path):
    from prompt_jax.step import make_grad

    grads = []
    for shape in ((1, 1, 1), *MESHES.values()):
        sizes = zip(("data", "fsdp", "model"), shape, strict=True)
        bindings = ["Train.mesh=@MeshShape()", *(f"MeshShape.{name}={n}" for name, n in sizes)]
        run = config.load("Train", [str(tiny / "run.gin")], bindings).root
        job = Job(run, epath.Path(tmp_path), jax.devices()[: int(np.prod(shape))])
        grad = jax.jit(make_grad(job.graphdef, run.loss))
        prompt = grad(job.trainable, job.frozen, job.batch(0)[0], None)[0].prompt
        grads.append(np.asarray(prompt.encoder[...]))
    scale = np.abs(grads[0]).max()
    for other in grads[1:]:
        np.testing.assert_allclose(other, grads[0], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("shape", "part"),
    [({"data": 3}, "does not fit 8 devices"), ({"data": 4}, "does not fit 8 devices"),
     ({"data": -1, "fsdp": -1}, "at most one of them is -1"), ({"model": 0}, "sizes are >= 1"),
     ({"data": 16, "fsdp": -1}, "does not fit 8 devices")],
)  # fmt: skip
def test_a_mesh_that_does_not_fit(shape, part):
    with pytest.raises(UserError, match=part):
        MeshShape(**shape).build()


def test_what_is_left_over_fills_the_mesh():
    assert dict(MeshShape(model=2).build().shape) == {"data": 4, "fsdp": 1, "model": 2}


def test_a_batch_that_cannot_be_shared_out():
    mesh = MeshShape(data=4, fsdp=2).build()
    check_rows(mesh, 32, accumulate=2)
    with pytest.raises(UserError, match=r"BATCH_SIZE = 24 cannot be split .* multiple of 16"):
        check_rows(mesh, 24, accumulate=2)
