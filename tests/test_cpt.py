"""Context-aware prompt tuning: labels stay, rows keep within their balls, labels are predicted."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from prompt_jax.backbone.load import Backbone, load_backbone
from prompt_jax.backbone.settings import BackboneSettings
from prompt_jax.data.source import Data
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptedT5
from prompt_jax.methods.cpt import CPT, Demonstrated
from prompt_jax.methods.parts.start import Start
from prompt_jax.model.logprobs import EOS
from prompt_jax.objective.context_labels import ContextLabels
from prompt_jax.objective.forwards import Passes
from prompt_jax.objective.norm_ball import NormBall
from prompt_jax.objective.optim import AdamW, Schedule
from prompt_jax.run.job import Run
from prompt_jax.run.settings import Train

METHOD = CPT(  # of bytes: "ab", ":", "c", and "d", ":", "ef"
    demonstrations=(("ab", "c"), ("d", "ef")),
    length=8,
    output_template=":",
    input_room=1.0,
    template_room=0.5,
)
ROOMS = (1, 1, 0.5, 0, 1, 0.5, 0, 0)


@pytest.fixture(scope="module")
def backbone(tiny: Path) -> Backbone:
    return load_backbone(f"files:{tiny}/backbone", "float32")


def test_rows_are_the_demonstrations_each_with_its_room(backbone):
    module = METHOD.create(jax.random.key(0), Start(backbone))
    assert isinstance(module, Demonstrated)
    assert module.delta.get_metadata()["rooms"] == ROOMS
    wanted = backbone.model.embed(np.asarray(backbone.vocabulary.encode("ab:cd:ef")))
    encoder = module().encoder
    assert encoder is not None
    np.testing.assert_allclose(encoder[0], wanted)
    with pytest.raises(UserError, match=r"CPT.demonstrations: has 8 pieces, and the prompt 9 rows"):
        CPT(demonstrations=METHOD.demonstrations, length=9, output_template=":").create(
            jax.random.key(0), Start(backbone)
        )


@pytest.mark.slow
def test_steps_keep_every_row_within_its_ball_and_labels_where_they_were(tiny, tmp_path):
    """Steps far too long, with the loss on the context's labels, of which the run has a record."""
    run = Train(
        backbone=BackboneSettings(name=f"files:{tiny}/backbone", dtype="float32"),
        method=METHOD,
        data=Data(
            task=str(tiny / "toy.train.jsonl"), input_length=28, target_length=4, batch_size=8
        ),
        optimizer=AdamW(schedule=Schedule(learning_rate=0.5)),
        terms=(ContextLabels(method=METHOD, decay=0.5),),
        post_update=NormBall(radius=8.0, per_width=True),
        steps=2,
    )
    job = Run(run, epath.Path(tmp_path))  # on all devices, which the context is not split among
    state, radius = job.first_state(), 8.0 * np.sqrt(16 / 2048)
    for step in range(2):
        state, sums = job.train_step(state, job.frozen, job.batch(step)[0])
    norms = np.linalg.norm(np.asarray(state.trainable.prompt.delta[...]), axis=1)
    np.testing.assert_allclose(norms, radius * np.asarray(ROOMS), rtol=1e-5)
    assert float(sums["term/ContextLabels"]) > 0


def test_a_label_of_the_context_is_predicted_from_the_others(backbone):
    """By hand: demonstration k's columns are hidden, its input is asked, and the last label weighs
    most."""
    term = ContextLabels(method=METHOD, decay=0.5)
    rows, words = term.rows(backbone.vocabulary, METHOD.layout), backbone.vocabulary
    np.testing.assert_array_equal(rows["encoder_segment_ids"][0, :8], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(rows["encoder_segment_ids"][1, :8], [1, 1, 1, 1, 0, 0, 0, 0])
    asked = [words.encode("ab :"), words.encode("d :")]
    for k, (ids, target) in enumerate(zip(asked, ("c", "ef"), strict=True)):
        assert list(rows["encoder_input_tokens"][k, 8 : 9 + len(ids)]) == [*ids, EOS]
        wanted = [*words.encode(target), EOS]
        assert list(rows["decoder_target_tokens"][k, : len(wanted)]) == wanted
    model = PromptedT5(backbone.model, METHOD.create(jax.random.key(0), Start(backbone)))
    measure = term.open(words, METHOD.layout)
    value = jax.jit(lambda m: measure(Passes(m, {}, None, METHOD.layout), {}))(model)
    losses = []
    for k, target in enumerate(("c", "ef")):
        shown = rows["encoder_segment_ids"][k] > 0
        count = len(words.encode(target)) + 1
        batch = {name: x[k : k + 1] for name, x in rows.items()}
        log_p = jax.nn.log_softmax(model(batch)[0, :count])
        chosen = rows["decoder_target_tokens"][k, :count]
        losses.append(-jnp.mean(log_p[jnp.arange(count), chosen]))
        assert shown[8]
    np.testing.assert_allclose(value, 0.25 * losses[0] + 0.5 * losses[1], rtol=1e-5)
