"""Where prompt rows stand, how they get there, and whom they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.model.bundle import Visibility
from prompt_jax.model.columns import insert_rows, visible
from prompt_jax.prompt.layout import PromptLayout, decoder_slots, encoder_slots, lay_out, place

TEXT = np.array([7, 8, 9, 1], np.int32)

PLACED = [
    ("prefix", [1, 2, 0, 0, 0, 0], [0, 0, 7, 8, 9, 1]),
    ("after_bos", [0, 1, 2, 0, 0, 0], [7, 0, 0, 8, 9, 1]),
    ("suffix", [0, 0, 0, 0, 1, 2], [7, 8, 9, 1, 0, 0]),
    ("before_eos", [0, 0, 0, 1, 2, 0], [7, 8, 9, 0, 0, 1]),
]


@pytest.mark.parametrize(("placement", "slots", "tokens"), PLACED)
def test_placements(placement, slots, tokens):
    found = encoder_slots(TEXT, PromptLayout(encoder=2, placement=placement))
    np.testing.assert_array_equal(found, slots)
    np.testing.assert_array_equal(place(TEXT, found), tokens)
    assert found.dtype == place(TEXT, found).dtype == np.int32


@pytest.mark.parametrize("placement", [p for p, _, _ in PLACED])
@pytest.mark.parametrize("text", [[], [1], [7]])
def test_short_texts_get_the_whole_prompt(placement, text):
    tokens = np.array(text, np.int32)
    slots = encoder_slots(tokens, PromptLayout(encoder=3, placement=placement))
    assert sorted(slots) == [0] * len(text) + [1, 2, 3]
    np.testing.assert_array_equal(place(tokens, slots)[slots == 0], tokens)


def test_before_eos_without_eos_is_a_suffix():
    text = np.array([7, 8], np.int32)
    slots = encoder_slots(text, PromptLayout(encoder=2, placement="before_eos"))
    np.testing.assert_array_equal(slots, [0, 0, 1, 2])


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ([7, 50, 8, 49, 9, 1], [0, 0, 1, 2, 0, 0, 3, 0, 0]),
        ([7, 49, 8, 50, 1], [0, 0, 3, 0, 0, 1, 2, 0]),  # fields the other way round
        ([7, 50, 8, 50, 1], [0, 0, 1, 2, 0, 0, 3, 0]),  # the second mark is missing
        ([7, 8], [0, 0, 1, 2, 3]),
    ],
)
def test_rows_stand_between_the_fields_of_a_text(text, slots):
    layout = PromptLayout(encoder=3, placement="infix", marks=(50, 49))
    tokens = np.array(text, np.int32)
    found = encoder_slots(tokens, layout)
    assert found.tolist() == slots and found.dtype == np.int32
    assert place(tokens, found)[found == 0].tolist() == text


def test_marks_go_with_rows_between_fields():
    with pytest.raises(UserError, match="give marks to the placement 'infix', and to no other"):
        PromptLayout(encoder=3, placement="infix")
    with pytest.raises(UserError, match="2 marks, for 1 rows; give fewer marks"):
        PromptLayout(encoder=1, placement="infix", marks=(50, 49))


def test_decoder_rows_come_first():
    np.testing.assert_array_equal(decoder_slots(3, PromptLayout(decoder=2)), [1, 2, 0, 0, 0])
    np.testing.assert_array_equal(decoder_slots(3, PromptLayout(encoder=2)), [0, 0, 0])


def test_lengths_are_not_negative():
    with pytest.raises(UserError, match="lengths are >= 0"):
        PromptLayout(encoder=-1)
    with pytest.raises(UserError, match=r"PromptLayout\.placement = 'middle': expected one of"):
        PromptLayout(placement="middle")  # pyright: ignore


def test_lay_out_a_padded_batch():
    batch = {
        "encoder_input_tokens": np.array([[7, 8, 1, 0], [9, 1, 0, 0]], np.int32),
        "decoder_input_tokens": np.array([[0, 5, 6], [0, 4, 0]], np.int32),
        "decoder_target_tokens": np.array([[5, 6, 1], [4, 1, 0]], np.int32),
        "decoder_loss_weights": np.array([[1, 1, 0.5], [1, 1, 0]], np.float32),
    }
    wide = lay_out(batch, PromptLayout(encoder=2, placement="suffix", decoder=1))
    wanted = {
        "encoder_input_tokens": [[7, 8, 1, 0, 0, 0], [9, 1, 0, 0, 0, 0]],
        "encoder_prompt_slots": [[0, 0, 0, 1, 2, 0], [0, 0, 1, 2, 0, 0]],
        "encoder_segment_ids": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]],
        "decoder_input_tokens": [[0, 0, 5, 6], [0, 0, 4, 0]],
        "decoder_target_tokens": [[0, 5, 6, 1], [0, 4, 1, 0]],
        "decoder_loss_weights": [[0, 1, 1, 0.5], [0, 1, 1, 0]],
        "decoder_prompt_slots": [[1, 0, 0, 0], [1, 0, 0, 0]],
        "decoder_segment_ids": [[1, 1, 1, 1], [1, 1, 1, 0]],
    }
    assert set(wide) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(wide[name], value, err_msg=name)
    assert wide["decoder_loss_weights"].dtype == np.float32


def test_lay_out_gives_every_segment_its_prompt():
    batch = {
        "encoder_input_tokens": np.array([[7, 8, 1, 9, 1, 0]], np.int32),
        "encoder_segment_ids": np.array([[1, 1, 1, 2, 2, 0]], np.int32),
        "encoder_positions": np.array([[0, 1, 2, 0, 1, 0]], np.int32),
    }
    wide = lay_out(batch, PromptLayout(encoder=1))
    np.testing.assert_array_equal(wide["encoder_input_tokens"], [[0, 7, 8, 1, 0, 9, 1, 0]])
    np.testing.assert_array_equal(wide["encoder_prompt_slots"], [[1, 0, 0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(wide["encoder_segment_ids"], [[1, 1, 1, 1, 2, 2, 2, 0]])


def test_lay_out_keeps_the_task_of_a_prompt():
    batch = {
        "encoder_input_tokens": np.array([[7, 1, 9, 1]], np.int32),
        "encoder_segment_ids": np.array([[1, 1, 2, 2]], np.int32),
        "encoder_task_ids": np.array([[1, 1, 2, 2]], np.int32),
    }
    wide = lay_out(batch, PromptLayout(encoder=1))
    np.testing.assert_array_equal(wide["encoder_task_ids"], [[1, 1, 1, 2, 2, 2]])


def test_no_rows_change_nothing():
    batch = {"encoder_input_tokens": np.array([[7, 1, 0]], np.int32)}
    assert lay_out(batch, PromptLayout()).keys() == batch.keys()


def test_rows_go_to_their_columns():
    text = jnp.zeros((2, 4, 3))
    rows = jnp.arange(2 * 2 * 3, dtype=jnp.float32).reshape(2, 2, 3) + 1
    slots = jnp.array([[1, 2, 0, 1], [0, 2, 1, 0]])
    tasks = jnp.array([[0, 0, 0, 1], [1, 1, 1, 1]])
    found = insert_rows(text, rows, slots, tasks)
    zero = jnp.zeros(3)
    wanted = [[rows[0, 0], rows[0, 1], zero, rows[1, 0]], [zero, rows[1, 1], rows[1, 0], zero]]
    np.testing.assert_array_equal(found, np.array(wanted))
    one = insert_rows(text, rows[:1], slots, tasks)
    np.testing.assert_array_equal(one[1, 1], rows[0, 1])
    assert insert_rows(text, None, slots, tasks) is text
    assert insert_rows(text.astype(jnp.bfloat16), rows, slots, tasks).dtype == jnp.bfloat16


def test_the_gradient_of_a_row_is_the_sum_over_its_columns():
    slots = jnp.array([[1, 2, 0, 1], [0, 2, 1, 0]])
    weights = jnp.arange(8.0).reshape(2, 4, 1)
    total = lambda rows: jnp.sum(insert_rows(jnp.zeros((2, 4, 3)), rows, slots, None) * weights)  # noqa: E731
    grad = jax.grad(total)(jnp.ones((1, 2, 3)))
    np.testing.assert_array_equal(grad[0, :, 0], [0 + 3 + 6, 1 + 5])


SEEN = [  # policy, and what [prompt 1, prompt 2, text, text] attend to
    (Visibility(prompt="causal"), ["1.11", "1111"]),
    (Visibility(prompt="self"), ["1.11", ".111"]),
    (Visibility(input=False), ["11..", "11.."]),
    (Visibility(input=False, prompt="self"), ["1...", ".1.."]),
]


@pytest.mark.parametrize(("policy", "wanted"), SEEN)
def test_visibility(policy, wanted):
    mask = visible(policy, jnp.array([[1, 2, 0, 0]]))
    assert mask is not None
    drawn = ["".join(".1"[int(seen)] for seen in row) for row in np.asarray(mask[0])]
    assert drawn == [*wanted, "1111", "1111"]


def test_everything_is_visible_by_default():
    assert visible(Visibility(), jnp.array([[1, 0]])) is None
    assert visible(Visibility(input=False), None) is None
