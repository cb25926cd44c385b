"""Prompts of several tasks and languages in one table: whose rows an example carries."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prompt_jax.answer.answerer import Answerer, Question
from prompt_jax.data.packing import Piece
from prompt_jax.data.rows import Rows, tokens_of
from prompt_jax.data.source import Data, TaskBatches
from prompt_jax.errors import UserError
from prompt_jax.methods.base import PromptParam, plain
from prompt_jax.methods.multitask import MultitaskPrompt
from prompt_jax.methods.parts.inits import UniformInit
from prompt_jax.methods.parts.start import Start
from prompt_jax.methods.x_gen import XGen
from prompt_jax.model.sharding import MeshShape
from prompt_jax.model.t5 import T5Config
from prompt_jax.prompt.artefact import load_prompt, save_prompt
from prompt_jax.prompt.factors import Factor, folded, rows_of
from prompt_jax.prompt.layout import PromptLayout, encoder_slots, lay_out

SHARED = (Factor(by="all", rows=1), Factor(by="task", rows=2, names=("xnli", "xnli_sw", "rte")))
PAIRS = (
    Factor(by="language", rows=2, names=("en", "sw"), default="en"),
    Factor(by="task", rows=1, names=("xnli", "rte")),
)
LAYOUT = PromptLayout(encoder=3, factors=PAIRS)
KEY, RNG = jax.random.key(0), np.random.default_rng(0)
TEXT = np.array([7, 8, 1], np.int32)


@pytest.mark.parametrize(
    ("factors", "task", "rows"),
    [
        (SHARED, "xnli_de", (0, 1, 2)),
        (SHARED, "xnli_sw", (0, 3, 4)),
        (SHARED, "jsonl:rte:0a1b2c3d", (0, 5, 6)),
        (PAIRS, "xnli_sw", (2, 3, 4)),
        (PAIRS, "xnli_en", (0, 1, 4)),
        (PAIRS, "rte", (0, 1, 5)),
    ],
)
def test_a_task_carries_its_rows(factors, task, rows):
    assert rows_of(factors, task) == rows
    slots = encoder_slots(TEXT, PromptLayout(encoder=3, factors=factors), task)
    np.testing.assert_array_equal(slots, [*(row + 1 for row in rows), 0, 0, 0])


def test_a_task_or_language_without_rows_is_named():
    with pytest.raises(
        UserError, match=r"task 'xnlis_sw': the prompt has no rows for its task; .*xnli"
    ):
        rows_of(PAIRS, "xnlis_sw")
    strict = (Factor(by="language", rows=1, names=("en", "sw")),)
    with pytest.raises(UserError, match="'xnli_de': the prompt has no rows for its language"):
        rows_of(strict, "xnli_de")
    with pytest.raises(UserError, match=r"no task says which; give it as 'DIR\?task=NAME'"):
        lay_out({"encoder_input_tokens": TEXT[None]}, LAYOUT)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"by": "task", "rows": 1}, "Factor.names = (): task needs at least one"),
        ({"by": "all", "rows": 1, "names": ("a",)}, "all takes none"),
        ({"by": "task", "rows": 1, "names": ("mean",)}, "none may be 'mean'"),
        ({"by": "language", "rows": 1, "names": ("en",), "default": "em"}, "did you mean en?"),
        ({"by": "all", "rows": 0}, "Factor.rows = 0: give at least 1"),
    ],
)
def test_a_factor_is_checked(wrong, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Factor(**wrong)


def test_rows_of_several_tasks_share_a_row():
    data = Data(task="mix", input_length=8, target_length=4, batch_size=1)
    sides = tokens_of([TEXT], 8), tokens_of([TEXT[1:]], 8)
    tasks = [Rows(n, [{}], *sides) for n in ("xnli_sw", "rte")]
    batches = TaskBatches(tasks, [1.0, 1.0], data, LAYOUT, 0)
    batches.capacity = (12, 4)
    batch = batches.assemble([[Piece(0, 0), Piece(1, 0)]])
    slots = [3, 4, 5, 0, 0, 0, 1, 2, 6, 0, 0, 0]
    np.testing.assert_array_equal(batch["encoder_prompt_slots"][0], slots)
    np.testing.assert_array_equal(batch["encoder_input_tokens"][0], [0, 0, 0, 7, 8, 1] * 2)
    with pytest.raises(UserError, match="task 'cola': the prompt has no rows for its task"):
        TaskBatches([Rows("cola", [], tokens_of([], 8), tokens_of([], 8))], [1.0], data, LAYOUT, 0)


def test_a_question_gets_the_rows_of_its_task():
    answerer = Answerer(None, LAYOUT, MeshShape(data=1).build(jax.devices()[:1]), (4, 4), 2)
    batch = answerer.batch([Question(TEXT, task="rte"), Question(TEXT, task="xnli_sw")], 4)
    np.testing.assert_array_equal(batch["encoder_prompt_slots"][:2, :3], [[1, 2, 6], [3, 4, 5]])


def manifest(factors=PAIRS) -> dict:
    return {
        **{"method": "XGen", "settings": {}, "placement": "prefix", "tokenizer": None},
        **{"visibility": {"input": True, "prompt": "all"}, "task": None, "metric": None},
        **{"backbone": {"name": "b", "digest": "d"}, "step": 1, "seed": 0},
        "factors": plain(factors),
    }


TABLE = np.arange(6, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)


def test_a_saved_table_gives_every_pair_a_plain_prompt(tmp_path):
    """Of the pairs, (sw, rte) too, whether or not it was ever trained."""
    save_prompt(tmp_path / "p", {"encoder": TABLE}, manifest())
    assert load_prompt(tmp_path / "p").layout == LAYOUT
    pair = load_prompt(f"{tmp_path}/p?language=sw&task=rte")
    np.testing.assert_array_equal(pair.array[:, 0], [2, 3, 5])
    assert pair.layout == PromptLayout(encoder=3) and pair.manifest["of"]["language"] == "sw"
    mean = load_prompt(f"{tmp_path}/p?language=mean&task=mean")
    np.testing.assert_array_equal(mean.array[:, 0], [1, 2, 4.5])
    assert mean.manifest["sha256"] != pair.manifest["sha256"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?language=sw", r"task= is missing; it has rows for each language \(en, sw\) and task"),
        ("?language=sw&task=rt", "no task 'rt'; did you mean rte?"),
        ("?lang=sw", r"sw': lang after '\?'; give task=, language="),
        ("?lang=sw&kind=a", r"a': kind, lang after '\?'; give"),
        ("?", r"'' after '\?'; give task="),
    ],
)
def test_a_pair_that_is_not_there_is_named(tmp_path, query, message):
    save_prompt(tmp_path / "p", {"encoder": TABLE}, manifest())
    with pytest.raises(UserError, match=message):
        load_prompt(f"{tmp_path}/p{query}")


def test_a_table_is_no_plain_prompt(tmp_path):
    save_prompt(tmp_path / "p", {"encoder": TABLE}, manifest())
    with pytest.raises(UserError, match="no task says which"):
        _ = load_prompt(tmp_path / "p").array
    save_prompt(tmp_path / "cut", {"encoder": TABLE[1:]}, manifest())
    with pytest.raises(UserError, match="factors: they have 6 rows, its encoder has others"):
        load_prompt(tmp_path / "cut")
    save_prompt(tmp_path / "one", {"encoder": TABLE}, manifest(()))
    with pytest.raises(UserError, match="language= is not asked for; it has the same rows for all"):
        load_prompt(f"{tmp_path}/one?language=sw")


def test_a_fold_is_of_the_named_rows():
    found = folded(SHARED, {"encoder": np.arange(7.0)[:, None]}, {"task": "xnli_sw"}, "p")
    np.testing.assert_array_equal(found["encoder"][:, 0], [0, 3, 4])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultitaskPrompt(), "MultitaskPrompt.tasks = (): name the tasks"),
        (
            lambda: MultitaskPrompt(tasks=("a",), combine="length", length=4, shared_length=4),
            "shared_length = 4: give 1 to 3",
        ),
        (lambda: XGen(tasks=("a",)), "XGen.languages = (): give at least one name"),
        (
            lambda: XGen(tasks=("a",), languages=("en",), trains="task"),
            "XGen.trains = 'task': the other rows are fixed; give XGen.start",
        ),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build()


class Backbone:
    """As much of a backbone as `create` reads."""

    name, digest, vocabulary = "b", "d", None
    config = T5Config(9, 4, 1, 4, 4, 1, 1)

    class model:
        class token_embedder:
            embedding = jnp.zeros((9, 4))


def combined(how: str, module) -> np.ndarray:
    """The prompts [N, P, D] of two tasks, as the formulas of `multitask.py` say."""
    own = np.asarray(module.own[...])
    if how == "separate":
        return own
    shared = np.asarray(module.shared[...])
    one = {
        "add": lambda k: shared + own[k],
        "length": lambda k: np.concatenate([shared, own[k]]),
        "feature": lambda k: np.concatenate([shared, own[k]], axis=1),
        "projection": lambda k: shared @ own[k] + np.asarray(module.bias[...])[k],
    }[how]
    return np.stack([one(k) for k in range(2)])


@pytest.mark.parametrize("how", ["separate", "add", "length", "feature", "projection"])
def test_a_shared_part_and_a_task_make_one_prompt(how: Any):
    names: dict[str, Any] = {
        "tasks": ("a", "b"),
        "length": 3,
        "shared_length": 1,
        "shared_width": 3,
    }
    method = MultitaskPrompt(**names, combine=how, init=UniformInit())
    module: Any = method.create(KEY, Start(Backbone))
    state = nnx.state(module, PromptParam)
    noise = [0.1 * RNG.normal(size=x.shape).astype(np.float32) for x in jax.tree.leaves(state)]
    leaves, structure = jax.tree.flatten(state)
    nnx.update(module, structure.unflatten([x + y for x, y in zip(leaves, noise, strict=True)]))
    assert sum(x.size for x in leaves) == method.count(Backbone.config)
    arrays = method.fold(module)
    for task, wanted in zip("ab", combined(how, module), strict=True):
        found = folded(method.layout.factors, arrays, {"task": task}, "p")["encoder"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_x_gen_begins_with_saved_rows_and_fixes_one_table(tmp_path):
    save_prompt(tmp_path / "p", {"encoder": TABLE}, manifest())
    how: dict[str, Any] = {
        "languages": ("sw",),
        "tasks": ("rte", "cb"),
        "language_length": 2,
        "task_length": 1,
    }
    how |= {"start": str(tmp_path / "p"), "init": UniformInit(scale=0.1)}
    module = XGen(**how, trains="task").create(KEY, Start(Backbone))
    np.testing.assert_array_equal(module.language[...][0, :, 0], [2, 3])
    assert module.task[...][0, 0, 0] == 5 and abs(module.task[...][1]).max() < 0.1
    with pytest.raises(UserError, match="has no rows of language 'de'"):
        XGen(**(how | {"languages": ("de",)}), trains="task").create(KEY, Start(Backbone))
    with pytest.raises(UserError, match=r"set XGen\.language_length to 2"):
        XGen(**(how | {"language_length": 1})).create(KEY, Start(Backbone))
