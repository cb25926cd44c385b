"""From text to the arrays of a step; above all, packing changes no number."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.backbone import weights
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.data.packing import Piece
from prompt_jax.data.rows import Rows, rows_of, tokens_of
from prompt_jax.data.source import Data, TaskBatches
from prompt_jax.errors import UserError
from prompt_jax.model import t5
from prompt_jax.model.bundle import PromptBundle, Visibility
from prompt_jax.objective.loss import Loss
from prompt_jax.prompt.layout import PromptLayout, lay_out

CONFIG = t5.T5Config(60, 16, 2, 8, 32, 1, 1, dropout_rate=0.0, dtype="float32")
DATA = Data(task="toy", input_length=48, target_length=24, batch_size=4)
EVERYTHING = Visibility()
LAYOUTS = {
    "prefix": PromptLayout(encoder=3),
    "after_bos": PromptLayout(encoder=3, placement="after_bos"),
    "suffix": PromptLayout(encoder=3, placement="suffix"),
    "before_eos": PromptLayout(encoder=3, placement="before_eos"),
    "decoder": PromptLayout(decoder=2),
    "both": PromptLayout(encoder=3, placement="suffix", decoder=2),
    "none": PromptLayout(),
}


def sentences(rng, n: int, longest: int) -> list[np.ndarray]:
    return [np.append(rng.integers(2, 60, rng.integers(0, longest)), 1) for _ in range(n)]


def toy_task(name: str, seed: int, n: int = 40) -> Rows:
    rng = np.random.default_rng(seed)
    inputs, targets = sentences(rng, n, 14), sentences(rng, n, 5)
    return Rows(name, [{}] * n, tokens_of(inputs, 48), tokens_of(targets, 48))


def batches(layout: PromptLayout, packed: bool = True, tasks: int = 2) -> TaskBatches:
    lengths = {"input_length": 48, "target_length": 24, "row_length": 48}
    data = Data(task="toy", batch_size=4, packed=packed, **lengths)
    toys = [toy_task(f"task{i}", i) for i in range(tasks)]
    return TaskBatches(toys, [1.0] * tasks, data, layout, seed=3)


def rows(prompts: int) -> dict[str, jax.Array]:
    """Random prompts, encoder [prompts, 3, D] and decoder [prompts, 2, D]."""
    rng = np.random.default_rng(1)
    shapes = {"encoder": (prompts, 3, CONFIG.emb_dim), "decoder": (prompts, 2, CONFIG.emb_dim)}
    return {side: jnp.asarray(rng.normal(size=s), jnp.float32) for side, s in shapes.items()}


def widened(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Empty rows and columns up to one shape, so that few functions are compiled."""
    shapes = {"encoder": (32, 64), "decoder": (32, 40)}
    wide = {}
    for name, value in batch.items():
        wide[name] = np.zeros(shapes[name.split("_")[0]], value.dtype)
        wide[name][: value.shape[0], : value.shape[1]] = value
    return wide


@pytest.fixture(scope="module")
def loss_and_grad():
    """`(prompt rows, batch, visibility) -> (sums, gradient)` on a random T5."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=s) / 4 for name, s in weights.t5x_shapes(CONFIG).items()}
    model = weights.build(CONFIG, arrays)

    def loss(arrays, batch, visibility):
        bundle = PromptBundle(**arrays, visibility=visibility)
        return Loss()(lambda batch, key: model(batch, bundle, key), batch)

    # Compiling costs more than running here, so XLA is told to take it easy.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    both = jax.jit(
        jax.value_and_grad(loss, has_aux=True), static_argnums=2, compiler_options=options
    )

    def call(arrays, batch, visibility=EVERYTHING):
        (_, sums), grads = both(arrays, widened(batch), visibility)
        return {k: float(v) for k, v in sums.items()}, jax.device_get(grads)

    return call


def assert_same(one, other, layout: PromptLayout, rtol: float = 1e-5):
    for name in ("loss", "z_loss", "accuracy", "tokens"):
        np.testing.assert_allclose(one[0][name], other[0][name], rtol=rtol, err_msg=name)
    for side, grad in one[1].items():
        size = np.linalg.norm(grad)
        assert size > 1e-2 if vars(layout)[side] else size == 0
        assert np.linalg.norm(grad - other[1][side]) <= rtol * size, side


def unpacked(data: TaskBatches, step: int) -> dict[str, np.ndarray]:
    """The same examples as in a packed step, each in a row of its own."""
    return data.assemble([[piece] for row in data.plan.batch(step) for piece in row])


@pytest.mark.parametrize("prompts", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_equals_padded(loss_and_grad, name, prompts):
    """Two tasks in a row, which share a prompt or have their own."""
    data = batches(LAYOUTS[name])
    packed = data.batch(0)
    segments, tasks = packed["encoder_segment_ids"], packed["encoder_task_ids"]
    assert segments.max() >= 3
    assert any(len(set(t[s > 0])) == 2 for t, s in zip(tasks, segments, strict=True))
    padded, arrays = unpacked(data, 0), rows(prompts)
    assert len(padded["encoder_input_tokens"]) > 2 * len(segments)
    one, other = loss_and_grad(arrays, packed), loss_and_grad(arrays, padded)
    assert_same(one, other, LAYOUTS[name])


def test_packed_equals_padded_under_a_visibility(loss_and_grad):
    visibility = Visibility(input=False, prompt="causal")
    data, arrays = batches(LAYOUTS["suffix"]), rows(1)
    packed = loss_and_grad(arrays, data.batch(0), visibility)
    padded = loss_and_grad(arrays, unpacked(data, 0), visibility)
    assert_same(packed, padded, LAYOUTS["suffix"])
    assert packed[0]["loss"] != loss_and_grad(arrays, data.batch(0))[0]["loss"]


def test_each_task_has_its_own_prompt(loss_and_grad):
    """The gradient of one task's prompt comes from that task's examples alone."""
    data, arrays = batches(LAYOUTS["both"]), rows(2)
    rows_of_both = data.plan.batch(0)
    _, together = loss_and_grad(arrays, data.batch(0))
    for task in (0, 1):
        own = [[piece for piece in row if piece.task == task] for row in rows_of_both]
        _, alone = loss_and_grad(arrays, data.assemble(own))
        for side in arrays:
            other = 1 - task
            np.testing.assert_allclose(alone[side][task], together[side][task], rtol=0, atol=1e-4)
            assert not np.any(alone[side][other])


def widened_pair(feature: str, *values: np.ndarray) -> list[np.ndarray]:
    return [widened({feature: value})[feature] for value in values]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "none"])
def test_lay_out_equals_the_packer(name):
    """Prompt columns put into a finished batch, or while packing: the same arrays."""
    layout = LAYOUTS[name]
    data = batches(layout)
    packed = data.batch(0)
    text_only = TaskBatches(data.tasks, [1.0, 1.0], batches(layout).data, PromptLayout(), seed=3)
    wide = lay_out(text_only.assemble(data.plan.batch(0)), layout)
    for feature, value in wide.items():
        np.testing.assert_array_equal(*widened_pair(feature, value, packed[feature]), feature)
    sides = {"encoder": layout.encoder, "decoder": layout.decoder}
    assert all(f"{side}_prompt_slots" in wide for side, n in sides.items() if n)


@pytest.mark.parametrize("name", ["after_bos", "before_eos", "both"])
def test_a_batch_in_t5x_names_alone_gives_the_same_loss(loss_and_grad, name):
    """Padded rows without segment ids, as users of T5X have them."""
    layout = LAYOUTS[name]
    data, arrays = batches(layout), rows(1)
    padded = batches(PromptLayout()).assemble([[p] for row in data.plan.batch(0) for p in row])
    tokens = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    bare = lay_out({feature: padded[feature] for feature in tokens}, layout)
    one, other = loss_and_grad(arrays, data.batch(0)), loss_and_grad(arrays, bare)
    assert_same(one, other, layout)


def test_features_of_a_row():
    data = Data(task="toy", input_length=9, target_length=6, batch_size=1)
    examples = [{"inputs": "ab", "targets": "c"}, {"inputs": "d", "targets": "ef"}]
    task = rows_of("toy", examples, Vocabulary.bytes(), (9, 6))
    layout = PromptLayout(encoder=2, placement="suffix", decoder=1)
    batch = TaskBatches([task], [1.0], data, layout, 0).assemble([[Piece(0, 0), Piece(0, 1)]])
    a, b, c, d, e, f = (3 + ord(letter) for letter in "abcdef")
    wanted = {
        "encoder_input_tokens": [a, b, 1, 0, 0, d, 1, 0, 0, 0, 0],
        "encoder_segment_ids": [1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0],
        "encoder_prompt_slots": [0, 0, 0, 1, 2, 0, 0, 1, 2, 0, 0],
        "encoder_task_ids": [0] * 11,
        "decoder_input_tokens": [0, 0, c, 0, 0, e, f],
        "decoder_target_tokens": [0, c, 1, 0, e, f, 1],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 2, 2],
        "decoder_prompt_slots": [1, 0, 0, 1, 0, 0, 0],
        "decoder_task_ids": [0] * 7,
        "decoder_loss_weights": [0, 1, 1, 0, 1, 1, 1],
    }
    assert set(batch) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(batch[name], [value], err_msg=name)
        dtype = np.float32 if name == "decoder_loss_weights" else np.int32
        assert batch[name].dtype == dtype, name


@pytest.mark.parametrize("packed", [True, False])
def test_the_rows_of_a_host_are_its_part_of_the_batch(packed):
    data = batches(LAYOUTS["both"], packed)
    whole, again = data.batch(5), batches(LAYOUTS["both"], packed)
    for first in (2, 0):
        part = again.batch(5, slice(first, first + 2))
        for name, value in part.items():
            np.testing.assert_array_equal(value, whole[name][first : first + 2])
    assert whole["encoder_input_tokens"].shape == (4, 48 + 3)
    assert whole["decoder_target_tokens"].shape == (4, 24 + 2)


def test_padded_rows_hold_one_example():
    data = batches(LAYOUTS["prefix"], packed=False)
    assert data.batch(0)["encoder_segment_ids"].max() == 1
    assert data.describe()["examples_per_row"] == 1
    assert data.describe()["fill_rate"] < batches(LAYOUTS["prefix"]).describe()["fill_rate"]


def test_long_texts_are_cut_before_their_eos():
    examples = [{"inputs": "abcdef", "targets": "a"}, {"inputs": "abc", "targets": "ab"}]
    task = rows_of("toy", examples, Vocabulary.bytes(), (4, 2))
    np.testing.assert_array_equal(list(task.inputs), [[100, 101, 102, 1], [100, 101, 102, 1]])
    np.testing.assert_array_equal(list(task.targets), [[100, 1], [100, 1]])
    assert (task.truncated_inputs, task.truncated_targets) == (1, 1)


def test_tokens_are_taken_as_they_are():
    examples = [{"inputs": np.array([5, 6, 1]), "targets": [7]}, {"inputs": "", "targets": "a"}]
    task = rows_of("toy", examples, Vocabulary.bytes(), (48, 24))
    assert [list(x) for x in task.inputs] == [[5, 6, 1], [1]]
    assert [list(x) for x in task.targets] == [[7, 1], [100, 1]]


def test_text_needs_a_vocabulary():
    with pytest.raises(UserError, match="task 'toy': is text; the backbone has no vocabulary"):
        rows_of("toy", [], None, (48, 24))


@pytest.mark.parametrize("name", ["input_length", "target_length", "batch_size"])
def test_sizes_are_positive(name):
    sizes = {"input_length": 8, "target_length": 8, "batch_size": 8, name: 0}
    with pytest.raises(UserError, match=rf"Data\.{name} = 0: give at least 1"):
        Data(task="toy", **sizes)


def test_a_task_is_opened(tmp_path):
    examples = [{"inputs": f"number {i}", "targets": "ab"[i % 2]} for i in range(30)]
    for split in ("train", "validation"):
        text = "".join(json.dumps(example) + "\n" for example in examples)
        (tmp_path / f"toy.{split}.jsonl").write_text(text)
    data = Data(
        task=str(tmp_path / "toy.train.jsonl"),
        input_length=40,
        target_length=8,
        batch_size=4,
        max_examples=20,
    )
    opened = data.open(Vocabulary.bytes(), PromptLayout(encoder=5), seed=0)
    told = opened.describe()
    assert list(told["tasks"].values()) == [20]
    assert told["truncated_inputs"] == told["truncated_targets"] == 0
    assert 0.5 < told["fill_rate"] <= 1
    seen = {tuple(row) for row in opened.tasks[0].inputs}
    encode = Vocabulary.bytes().encode
    assert seen == {(*encode(f"number {i}"), 1) for i in range(20)}
    first = opened.batch(0)
    assert first["encoder_input_tokens"].shape == (4, 45)
