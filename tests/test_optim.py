"""Optimizers against T5X's own updates, and the values of the schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from prompt_jax.backbone import weights
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptParam
from prompt_jax.methods.deep import DeepPrompt
from prompt_jax.methods.ia3 import IA3
from prompt_jax.methods.lora import LoRA
from prompt_jax.methods.p_tuning import PTuning
from prompt_jax.methods.parts.start import Shapes
from prompt_jax.model.sizes import SIZES
from prompt_jax.objective.optim import Adafactor, AdamW, Schedule, by_group, check_groups
from prompt_jax.objective.per_layer import is_stacked

CONSTANT = Schedule(learning_rate=0.3)


def updates_of(tx: optax.GradientTransformation, init, grads) -> list[np.ndarray]:
    """The parameter after each update."""
    param, state, after = jnp.asarray(init), tx.init(jnp.asarray(init)), []

    @jax.jit
    def step(grad, state, param):
        updates, state = tx.update(grad, state, param)
        return optax.apply_updates(param, updates), state

    for grad in grads:
        param, state = step(jnp.asarray(grad), state, param)
        after.append(np.asarray(param))
    return after


@pytest.mark.parametrize("start", [0, 1_100_000])
def test_every_update_is_that_of_t5x(golden, start):
    with np.load(golden / "adafactor_prompt.npz", allow_pickle=False) as file:
        case = {k.split("/")[1]: file[k] for k in file.files if k.startswith(f"p20_step{start}/")}
    assert case["start_step"] == start
    tx = Adafactor(schedule=CONSTANT, optimizer_start_step=start).build()
    after = updates_of(tx, case["init"], [case[f"grad{i}"] for i in range(7)])
    for i, param in enumerate(after):
        np.testing.assert_allclose(param, case[f"param{i}"], rtol=0, atol=1e-6, err_msg=str(i))


def test_an_update_at_a_time_is_that_of_t5x(golden):
    """Each update from T5X's own parameter before it: nothing carries over but the moments."""
    with np.load(golden / "adafactor_prompt.npz", allow_pickle=False) as file:
        case = {k.split("/")[1]: file[k] for k in file.files if k.startswith("p20_step0/")}
    tx = Adafactor(schedule=CONSTANT).build()
    state, before, update = tx.init(jnp.asarray(case["init"])), case["init"], jax.jit(tx.update)
    for i in range(7):
        updates, state = update(jnp.asarray(case[f"grad{i}"]), state, jnp.asarray(before))
        wanted = case[f"param{i}"] - before
        np.testing.assert_allclose(updates, wanted, rtol=0, atol=1e-6, err_msg=str(i))
        before = case[f"param{i}"]


def test_a_long_prompt_is_not_factored(shared):
    """T5X factors this one; we keep the whole second moment, and so differ from it."""
    with np.load(shared / "golden/adafactor/adafactor_prompt.npz", allow_pickle=False) as file:
        init, grad, factored = (file[f"p130_step0/{k}"] for k in ("init", "grad0", "param0"))
    tx = Adafactor(schedule=CONSTANT).build()
    ours = updates_of(tx, init, [grad])[0]
    assert np.abs(ours - factored).max() > 1e-3
    # From step 0 the moment is the squared gradient: every update has size 1 before clipping.
    expected = init - 0.3 * np.sign(grad) - 1e-5 * init
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def moments(tx: optax.GradientTransformation, shape) -> list[tuple[int, ...]]:
    return sorted(x.shape for x in jax.tree.leaves(tx.init(jnp.zeros(shape))) if x.size > 1)


def test_second_moments_are_whole_unless_asked():
    assert moments(Adafactor(schedule=CONSTANT).build(), (130, 136)) == [(130, 136)]
    assert moments(Adafactor(schedule=CONSTANT, factored=True).build(), (130, 136)) == [
        (130,),
        (136,),
    ]


def test_weight_decay_is_not_multiplied_by_the_rate():
    still = Schedule(learning_rate=0.0)
    tx = Adafactor(schedule=still, weight_decay=1e-2).build()
    after = updates_of(tx, np.ones((2, 3), np.float32), [np.ones((2, 3), np.float32)])[0]
    np.testing.assert_allclose(after, 0.99)
    no_decay = Adafactor(schedule=still, weight_decay=0.0).build()
    after = updates_of(no_decay, np.ones((2, 3), np.float32), [np.ones((2, 3), np.float32)])[0]
    np.testing.assert_array_equal(after, 1.0)


def test_a_late_start_does_not_move_the_schedule():
    schedule = Schedule(learning_rate=0.3, warmup_steps=10)
    tx = Adafactor(schedule=schedule, optimizer_start_step=1000, weight_decay=0.0).build()
    ones = np.ones((2, 3), np.float32)
    after = updates_of(tx, ones, [ones, ones])
    np.testing.assert_array_equal(after[0], 1.0)  # the first rate of the warm-up is 0
    np.testing.assert_allclose(after[1], 1.0 - 0.03, rtol=1e-6)


def test_adamw_is_the_textbook_one():
    settings = AdamW(schedule=Schedule(learning_rate=0.1), weight_decay=0.5)
    param, grads = np.full((2, 2), 2.0, np.float32), [1.0, -3.0]
    m = v = 0.0
    wanted = 2.0
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        wanted -= 0.1 * (step + 0.5 * wanted)
    after = updates_of(settings.build(), param, [np.full((2, 2), g, np.float32) for g in grads])
    np.testing.assert_allclose(after[-1], wanted, rtol=1e-6)


@pytest.mark.parametrize("late", [0, 1000])
def test_adafactor_clips_the_global_norm_before_all_else(late):
    """The second moment of the second step tells the two gradients' sizes apart."""
    settings = {"schedule": CONSTANT, "weight_decay": 0.0, "optimizer_start_step": late}
    start, whole = np.zeros((2, 2), np.float32), np.full((2, 2), 0.5, np.float32)
    grads = [9 * whole, whole / 4]
    clipped = updates_of(Adafactor(clip_global_norm=1.0, **settings).build(), start, grads)
    by_hand = updates_of(Adafactor(**settings).build(), start, [whole, whole / 4])
    np.testing.assert_allclose(clipped, by_hand, rtol=1e-6)
    other = updates_of(Adafactor(**settings).build(), start, grads)
    assert np.abs(np.subtract(clipped, other)).max() > 1e-4


@pytest.mark.parametrize("optimizer", [Adafactor, AdamW])
def test_a_norm_that_lets_nothing_through_is_refused(optimizer):
    with pytest.raises(UserError, match=r"clip_global_norm = 0.0: give more than 0"):
        optimizer(schedule=CONSTANT, clip_global_norm=0)


@pytest.mark.parametrize(
    ("optimizer", "setting", "value"),
    [
        (Adafactor, "decay_rate", 0.0),
        (Adafactor, "clipping_threshold", 0.0),
        (Adafactor, "weight_decay", -1.0),
        (Adafactor, "optimizer_start_step", -5),
        (AdamW, "b1", 1.0),
        (AdamW, "b2", -0.1),
        (AdamW, "eps", -1e-8),
        (AdamW, "weight_decay", -0.1),
    ],
)
def test_a_number_out_of_its_range_is_refused(optimizer, setting, value):
    with pytest.raises(UserError, match=f"{optimizer.__name__}.{setting} = {value}: give "):
        optimizer(schedule=CONSTANT, **{setting: value})


LAYERS = {
    "adafactor": Adafactor(schedule=CONSTANT, multiply_by_parameter_scale=True),
    "factored": Adafactor(schedule=CONSTANT, multiply_by_parameter_scale=True, factored=True),
    "clipped": Adafactor(schedule=CONSTANT, optimizer_start_step=1000),
    "adamw": AdamW(schedule=CONSTANT, multiply_by_parameter_scale=True, weight_decay=0.1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_stack_of_layers_is_updated_as_its_layers_are(name):
    """One layer has parameters and gradients a hundred times the others': T5X's reference, which
    has an array for each layer, does not let the others feel it."""
    shape = (3, 130, 136) if name == "factored" else (3, 4, 5)
    spike = np.array([1.0, 100.0, 1.0], np.float32)[:, None, None]
    keys = jax.random.split(jax.random.key(0), 4)
    init, *grads = (np.asarray(jax.random.normal(k, shape)) * spike for k in keys)

    def updated(axes, init, grads):
        params = {"kernel": nnx.Param(jnp.asarray(init), axes=axes)}
        tx = LAYERS[name].build()
        state, update = tx.init(params), jax.jit(tx.update)
        for grad in grads:
            updates, state = update(
                jax.tree.map(lambda _, g=grad: jnp.asarray(g), params), state, params
            )
            params = optax.apply_updates(params, updates)
        return np.asarray(params["kernel"][...])

    stacked = updated(("layers", "embed", "mlp"), init, grads)
    for layer in range(3):
        alone = updated(("embed", "mlp"), init[layer], [g[layer] for g in grads])
        np.testing.assert_allclose(stacked[layer], alone, rtol=1e-5, atol=1e-6)
    whole = updated((None, "embed", "mlp"), init, grads)
    assert np.abs(whole - stacked).max() > 1e-2  # what it would be over all layers at once


def test_arrays_of_every_layer_say_so():
    """All of the T5's and the methods' arrays whose first axis counts layers."""
    config = SIZES["nano"]
    start = Shapes(config)
    for method in (LoRA(), IA3(), DeepPrompt(length=2)):
        module = nnx.eval_shape(lambda m=method: m.create(jax.random.key(0), start))
        variables = jax.tree.leaves(
            nnx.state(module, PromptParam), is_leaf=lambda x: isinstance(x, PromptParam)
        )
        assert variables and all(map(is_stacked, variables)), method
    _, state = weights.abstract(config)
    for path, variable in nnx.to_flat_state(state):
        assert is_stacked(variable) == ("layers" in path), path


def test_adamw_clips_the_global_norm():
    settings = AdamW(schedule=Schedule(learning_rate=0.1), clip_global_norm=1.0, eps=1.0)
    tx = settings.build()
    big, unit = np.full((2, 2), 50.0, np.float32), np.full((2, 2), 0.5, np.float32)
    clipped = updates_of(tx, np.zeros((2, 2), np.float32), [big])[0]
    np.testing.assert_allclose(clipped, updates_of(tx, np.zeros((2, 2)), [unit])[0], rtol=1e-6)


RATES = [  # settings, and the rate at steps 0, 5, 10, 15, 20, 30
    ({}, [2, 2, 2, 2, 2, 2]),
    ({"warmup_steps": 10}, [0, 1, 2, 2, 2, 2]),
    ({"decay": "linear", "total_steps": 20}, [2, 1.5, 1, 0.5, 0, 0]),
    ({"decay": "linear", "warmup_steps": 10, "total_steps": 20}, [0, 1, 2, 1, 0, 0]),
    ({"decay": "cosine", "total_steps": 20}, [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0, 0]),
    ({"decay": "cosine", "warmup_steps": 10, "total_steps": 30}, [0, 1, 2, 1 + 0.5**0.5, 1, 0]),
    (
        {"decay": "rsqrt", "warmup_steps": 10},
        [0, 1, 2, 2 * (10 / 15) ** 0.5, 2 * 0.5**0.5, 2 * (10 / 30) ** 0.5],
    ),
]


@pytest.mark.parametrize(("settings", "rates"), RATES)
def test_schedules(settings, rates):
    schedule = Schedule(learning_rate=2.0, **settings).build()
    found = [float(schedule(jnp.int32(step))) for step in (0, 5, 10, 15, 20, 30)]
    np.testing.assert_allclose(found, rates, atol=1e-6)


def test_rsqrt_without_warm_up_starts_at_the_rate():
    schedule = Schedule(learning_rate=2.0, decay="rsqrt").build()
    np.testing.assert_allclose([schedule(jnp.int32(s)) for s in (0, 3)], [2.0, 1.0])


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_a_decay_needs_its_end(decay):
    with pytest.raises(UserError, match=r"bind Schedule\.total_steps as well"):
        Schedule(learning_rate=1.0, decay=decay)


def test_a_negative_rate_is_refused():
    with pytest.raises(UserError, match=r"Schedule.learning_rate = -1.0: give 0 or more"):
        Schedule(learning_rate=-1.0)


@pytest.mark.parametrize("optimizer", [Adafactor, AdamW])
def test_a_group_learns_at_its_own_rate(optimizer):
    made = optimizer(schedule=Schedule(learning_rate=0.1), weight_decay=0.0)
    params = {"prompt": {"rows": jnp.ones((3, 2)), "mlp": {"kernel": jnp.ones((2, 2))}}}
    grads = jax.tree.map(jnp.ones_like, params)

    def change(rates):
        tx = by_group(made.build(), rates, {"mlp": "network"})
        return tx.update(grads, tx.init(params), params)[0]["prompt"]

    plain, half = change({}), change({"network": 0.5, "prompt": 0.0})
    np.testing.assert_allclose(half["mlp"]["kernel"], plain["mlp"]["kernel"] / 2)
    assert np.all(plain["rows"] != 0) and np.all(half["rows"] == 0)


def test_a_group_that_is_not_there_is_refused():
    method = PTuning(length=3)
    check_groups({"network": 0.1, "prompt": 2}, method)
    with pytest.raises(UserError, match=r"no group 'nets'; PTuning has network, prompt$"):
        check_groups({"nets": 0.1}, method)
    with pytest.raises(UserError, match=r"group_rates\['network'\] = -1: give 0 or more"):
        check_groups({"network": -1}, method)
