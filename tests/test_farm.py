"""A farm trains what its members would be alone: gradients, updates, data, prompts and folders."""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from compilations import compilations
from etils import epath

import prompt_jax as pj
from prompt_jax import progress
from prompt_jax.cli.main import main
from prompt_jax.data.digests import path_of, read_digests
from prompt_jax.errors import Preempted, UserError
from prompt_jax.hosts.stop import Stop, Stopped
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.recipe import config
from prompt_jax.run import farm, farm_step
from prompt_jax.run.grid import members_of
from prompt_jax.run.job import Run, Setup, dropout_key, loss_of
from prompt_jax.run.settings import Farm
from prompt_jax.run.step import make_gradient, make_update
from prompt_jax.run.train import train

GRID = {"LEARNING_RATE": (0.1, 0.3), "SEED": (0, 1)}
SHORT = [
    "TRAIN_STEPS=10",
    "EVAL_PERIOD=5",
    "CHECKPOINT_PERIOD=5",
    "Evaluation.max_examples=8",
    "Schedule.decay='linear'",
    "Schedule.total_steps=10",
]
ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def load(tiny):
    return lambda bindings: config.load("Train", [f"{tiny}/run.gin"], [*SHORT, *bindings])


@pytest.fixture(scope="module")
def farmed(load, tmp_path_factory):
    """(folder, members, rows of farm.jsonl, compiled functions) of four members, two at once."""
    folder = tmp_path_factory.mktemp("farm")
    members = members_of(GRID, load)
    with compilations() as names:
        rows = farm.train_farm(
            members, str(folder), Farm(at_once=2), devices=ONE, batch_digests=True
        )
    return folder, members, rows, names


@pytest.fixture(scope="module")
def alone(farmed, tmp_path_factory):
    """(member, folder) of the farm's last member, trained by itself."""
    member, folder = farmed[1][-1], tmp_path_factory.mktemp("alone")
    train(member.settings, str(folder), operative=member.recipe.operative, batch_digests=True)
    return member, folder


def row_of(tree, n: int):
    return jax.tree.map(lambda x: x[n], tree)


def closest(a, b) -> float:
    """The largest difference, relative to the largest value."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in pairs]
    return max(float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30)) for x, y in pairs)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_member_computes_what_it_computes_alone(load, tmp_path, devices):
    """From equal state and batch loss and gradient to 1e-6; of equal gradients the same bytes."""
    members = members_of({"LEARNING_RATE": (0.1, 0.3, 0.2, 0.4)}, load)
    setup = Setup(members[0].settings, jax.devices()[:devices])
    runs = [Run(m.settings, epath.Path(tmp_path), setup=setup) for m in members]
    states = [run.first_state() for run in runs]
    batches = [run.batch(n)[0] for n, run in enumerate(runs)]
    slots = [farm_step.slot_of(run, state) for run, state in zip(runs, states, strict=True)]
    stacked, batch = (jax.tree.map(lambda *x: np.stack(x), *many) for many in (slots, batches))
    of_members = jax.jit(jax.vmap(farm_step.member_gradient(runs[0]), in_axes=(0, None, 0)))
    grads, sums = of_members(stacked, farm_step.backbone_of(runs[0]), batch)
    updated, metrics = jax.jit(farm_step.member_updates(runs[0]))((stacked, grads, sums))
    for n, run in enumerate(runs):
        loss = loss_of(run.settings, run.backbone.vocabulary)
        key = dropout_key(run.settings)
        assert key is not None
        own = jax.jit(make_gradient(run.graphdef, loss))(states[n], run.frozen, batches[n], key)
        assert closest(row_of(grads, n), own[0]) < 1e-6
        assert closest(row_of(sums, n), own[1]) < 1e-6
        update = jax.jit(make_update(run.settings.transform()))
        state, told = update(states[n], row_of(grads, n), row_of(sums, n))
        mine, theirs = jax.tree.leaves(row_of(updated.state, n)), jax.tree.leaves(state)
        assert all(np.array_equal(x, y) for x, y in zip(mine, theirs, strict=True))
        assert metrics["update_norm"][n] == pytest.approx(float(told["update_norm"]), rel=1e-6)


@pytest.mark.slow
def test_a_member_leaves_what_a_run_leaves(farmed, alone):
    member, folder = alone
    place = farmed[0] / member.folder
    assert {p.name for p in folder.iterdir()} == {p.name for p in place.iterdir()}
    ours, theirs = (load_prompt(str(f / "prompt" / "last")) for f in (place, folder))
    assert np.abs(ours.array - theirs.array).max() < 1e-4
    assert ours.manifest["seed"] == 1 and ours.manifest["step"] == 10
    identities = [json.loads((f / "identity.json").read_text()) for f in (place, folder)]
    assert identities[0] == identities[1]
    kinds = [[(r["step"], r["kind"]) for r in records(f)] for f in (place, folder)]
    assert kinds[0] == kinds[1]


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_order_of_the_data_is_that_of_the_run_alone(farmed, alone):
    member, folder = alone
    ours, theirs = (read_digests(path_of(f, 0, 1)) for f in (farmed[0] / member.folder, folder))
    assert ours == theirs and len(ours) == 10


def test_members_that_wait_enter_without_compiling(farmed):
    folder, members, rows, names = farmed
    assert names.count("farm_step") == 1
    assert [row["status"] for row in rows] == ["finished"] * 4
    assert rows == [json.loads(x) for x in (folder / "farm.jsonl").read_text().splitlines()]
    assert rows[3]["name"] == "LEARNING_RATE_0.3-SEED_1" == members[3].name
    assert rows[3]["settings"] == {"LEARNING_RATE": 0.3, "SEED": 1}
    best = max(r["accuracy"] for r in records(folder / members[3].folder) if r["kind"] == "eval")
    assert rows[3]["best"] == best
    told = farm.summary_of(rows)
    assert [row["settings"] for row in told] == ["LEARNING_RATE_0.1", "LEARNING_RATE_0.3"]
    assert told[1]["mean"] == pytest.approx((rows[2]["best"] + rows[3]["best"]) / 2)


def test_a_stopped_farm_goes_on_to_the_same_prompts(farmed, load, tmp_path, monkeypatch):
    class After(Stop):
        calls = 0

        def check(self):
            After.calls += 1
            if After.calls == 25:  # in the midst of the second two members
                raise Stopped

    @contextlib.contextmanager
    def stopping():
        yield After()

    members, options = farmed[1], Farm(at_once=2)
    with monkeypatch.context() as patch:
        patch.setattr(farm, "stop_signal", stopping)
        with pytest.raises(Preempted, match=r"saved [12] members"):
            farm.train_farm(members, str(tmp_path), options, devices=ONE)
    stopped = [json.loads(x) for x in (tmp_path / "farm.jsonl").read_text().splitlines()]
    assert "stopped" in {row["status"] for row in stopped}
    rows = farm.train_farm(members, str(tmp_path), options, devices=ONE)
    assert [row["status"] for row in rows] == ["finished"] * 4
    for member in members:
        file = Path(member.folder) / "prompt" / "last" / "prompt.safetensors"
        assert (tmp_path / file).read_bytes() == (farmed[0] / file).read_bytes()


@pytest.mark.slow
def test_the_better_half_goes_on(load, tmp_path):
    members = members_of(GRID, load)
    rows = farm.train_farm(members, str(tmp_path), Farm(at_once=4, halve_at=5), devices=ONE)
    assert sorted(row["status"] for row in rows) == ["finished"] * 2 + ["halved at step 5"] * 2
    at_five = {
        row["name"]: max(
            r["accuracy"]
            for r in records(Path(row["model_dir"]))
            if r["kind"] == "eval" and r["step"] <= 5
        )
        for row in rows
    }
    worst = max(at_five[r["name"]] for r in rows if r["status"] != "finished")
    assert all(at_five[r["name"]] >= worst for r in rows if r["status"] == "finished")


def test_a_member_that_diverges_leaves_the_others(load, tmp_path, monkeypatch):
    members, lines = members_of({"LEARNING_RATE": (0.1, 1e38)}, load), []
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.shown(lines.append):
        rows = farm.train_farm(members, str(tmp_path), Farm(), devices=ONE)
    steps = [line for line in lines if line.startswith("farm of 2: ")]
    assert steps[0].startswith("farm of 2: 2 of 20 steps  ETA ")
    assert steps[-1].startswith("farm of 2: 11 of 12 steps"), "one left at step 2"
    assert [row["status"] for row in rows] == ["finished", "diverged"]
    assert "lower LEARNING_RATE" in rows[1]["error"]


@pytest.mark.slow
def test_the_command_takes_a_grid_and_seeds_over_the_devices(tiny, tmp_path, capsys):
    argv = [
        "train",
        f"--gin_file={tiny}/run.gin",
        "--json",
        "--gin.TRAIN_STEPS=2",
        "--gin.EVAL_PERIOD=2",
        "--gin.Evaluation.max_examples=8",
    ]
    grid = "--gin.FARM={'SEED': [0, 3]}"
    assert main([*argv, grid, f"--model_dir={tmp_path}/farm"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["members"]] == ["SEED_0", "SEED_3"]
    assert told["summary"][0]["members"] == 2
    bindings = [argument.removeprefix("--gin.") for argument in (*argv[3:], grid)]
    rows = pj.train([f"{tiny}/run.gin"], bindings, str(tmp_path / "farm"))["members"]
    assert rows == told["members"]
    again = config.load("Train", [f"{tmp_path}/farm/members/SEED_3/config.gin"], [])
    assert again.root.seed == 3 and again.root.farm.grid is None
    assert main([*argv, "--seeds=0,3", f"--model_dir={tmp_path}/seeds"]) == 0
    summary = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert summary["seeds"] == [0, 3]
    for seed in (0, 3):
        file = "prompt/last/prompt.safetensors"
        member = tmp_path / "farm" / "members" / f"SEED_{seed}" / file
        assert (tmp_path / "seeds" / f"seed_{seed}" / file).read_bytes() == member.read_bytes()
    assert main([*argv, grid, "--seeds=0,1", f"--model_dir={tmp_path}/no"]) == 2
    assert "give it a line 'SEED'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "bindings", "message"),
    [
        ({"SEED": (0, 1)}, ["Train.method=@FullTuning()"], "FullTuning trains the model"),
        ({"SEED": (0, 1)}, ["BEST_METRIC=None"], "nothing says which half is better"),
        ({"BACKBONE": ("nano", "mnano")}, [], "BACKBONE_mnano has another backbone or mesh"),
        ({"TASK": ("a/b.jsonl", "a b.jsonl")}, [], "are both called 'TASK_a_b.jsonl'"),
    ],
)
def test_what_cannot_be_farmed_is_refused(load, tmp_path, grid, bindings, message):
    with pytest.raises(UserError, match=message):
        members = members_of(grid, lambda more: load([*bindings, *more]))
        farm.train_farm(members, str(tmp_path / "no"), Farm(halve_at=4))
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="SEED has no values, or one of them twice"):
        Farm(grid={"SEED": (1, 1)})
    with pytest.raises(
        UserError, match=r"SEED has 3, which is not a list; give a list of different"
    ):
        Farm(grid={"SEED": 3})
