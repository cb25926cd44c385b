"""Settings check their fields when they are built."""

import dataclasses
import importlib
import typing
from collections.abc import Callable
from typing import Any, Literal

import pytest

from prompt_jax.errors import Setting, UserError
from prompt_jax.methods.cpt import CPT
from prompt_jax.recipe.registered import REGISTERED
from prompt_jax.settings import nearest, settings


@settings
class Inner:
    size: int = 1


@settings
class Everything:
    count: int = 1
    rate: float = 0.5
    name: str = "a"
    packed: bool = True
    limit: int | None = None
    number: int | float = 1
    sizes: tuple[int, ...] = ()
    pair: tuple[str, float] = ("a", 1.0)
    plain: tuple = ()
    lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    mode: Literal["min", "max", 1] = "min"
    inner: Inner = Inner()
    maybe: Inner | None = None
    call: Callable[[int], int] = abs
    kind: type[Exception] = ValueError
    anything: Any = None


@settings
class Ranged:
    steps: int

    def check(self) -> None:
        if self.steps < 1:
            raise UserError(Setting("Ranged", "steps", self.steps), "must be at least 1")


GOOD = [
    ("count", 3, 3),
    ("rate", 2, 2.0),
    ("limit", None, None),
    ("limit", 4, 4),
    ("number", 2, 2),
    ("number", 2.5, 2.5),
    ("sizes", [1, 2], (1, 2)),
    ("pair", ["x", 1], ("x", 1.0)),
    ("plain", [1, "x"], (1, "x")),
    ("lengths", {"inputs": 4}, {"inputs": 4}),
    ("mode", "max", "max"),
    ("mode", 1, 1),
    ("inner", Inner(size=3), Inner(size=3)),
    ("maybe", Inner(), Inner()),
    ("call", len, len),
    ("kind", KeyError, KeyError),
    ("anything", [1], [1]),
]

BAD = [
    ("count", "ten", "Everything.count = 'ten': expected int"),
    ("count", True, "Everything.count = True: expected int"),
    ("count", 1.0, "Everything.count = 1.0: expected int"),
    ("rate", "x", "Everything.rate = 'x': expected float"),
    ("rate", False, "Everything.rate = False: expected float"),
    ("rate", float("nan"), "Everything.rate = nan: is no finite number"),
    ("number", float("inf"), "Everything.number = inf: is no finite number"),
    ("name", 3, "Everything.name = 3: expected str"),
    ("packed", "true", "Everything.packed = 'true': expected bool (True or False)"),
    ("limit", "x", "Everything.limit = 'x': expected int or None"),
    ("sizes", [1, "x"], "Everything.sizes = [1, 'x']: expected a tuple of int"),
    ("sizes", "12", "Everything.sizes = '12': expected a tuple of int"),
    ("pair", ["x"], "Everything.pair = ['x']: expected a tuple (str, float)"),
    ("plain", 1, "Everything.plain = 1: expected tuple"),
    ("lengths", {"a": "b"}, "Everything.lengths = {'a': 'b'}: expected a dict of str to int"),
    ("lengths", 3, "Everything.lengths = 3: expected a dict of str to int"),
    ("mode", "mid", "Everything.mode = 'mid': expected one of 'min', 'max', 1"),
    ("mode", True, "Everything.mode = True: expected one of 'min', 'max', 1"),
    ("inner", {"size": 1}, "Everything.inner = {'size': 1}: expected Inner"),
    ("call", 3, "Everything.call = 3: expected a function"),
    ("kind", int, "Everything.kind = <class 'int'>: expected a subclass of Exception"),
]


@pytest.mark.parametrize(("field", "value", "stored"), GOOD)
def test_a_fitting_value_is_stored(field, value, stored):
    built = dataclasses.asdict(Everything(**{field: value}))[field]
    expected = dataclasses.asdict(Everything(**{field: stored}))[field]
    assert built == expected
    assert type(built) is type(expected)


def test_conversions():
    built = Everything(rate=2, sizes=[1, 2], pair=["x", 1])  # pyright: ignore
    assert (built.rate, built.sizes, built.pair) == (2.0, (1, 2), ("x", 1.0))
    assert type(built.rate) is float
    assert type(built.pair[1]) is float


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_misfit_is_one_line_that_names_it(field, value, message):
    with pytest.raises(UserError) as caught:
        Everything(**{field: value})
    assert str(caught.value) == message


def test_check_runs_after_the_types():
    with pytest.raises(UserError, match=r"^Ranged.steps = 0: must be at least 1$"):
        Ranged(steps=0)
    with pytest.raises(UserError, match="expected int"):
        Ranged(steps="0")  # pyright: ignore
    assert Ranged(steps=1).steps == 1


def test_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Ranged(steps=1).steps = 2  # pyright: ignore
    with pytest.raises(TypeError, match="positional"):
        Ranged(1)  # pyright: ignore
    with pytest.raises(UserError, match="must be at least 1"):
        dataclasses.replace(Ranged(steps=1), steps=0)  # pyright: ignore


def test_a_long_value_is_cut():
    with pytest.raises(UserError) as caught:
        Ranged(steps="x\n" * 500)  # pyright: ignore
    assert len(str(caught.value)) < 130
    assert "\n" not in str(caught.value)


def test_an_unknown_annotation_is_our_mistake():
    @settings
    class Odd:
        values: list[int]

    with pytest.raises(TypeError, match="do not understand"):
        Odd(values=[1])


def test_nearest():
    assert nearest("batchsize", ["BATCH_SIZE", "SEED"]) == "did you mean BATCH_SIZE?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
    assert nearest("zzz", []) == ""


LISTS: dict[str, Any] = {  # bound although they have defaults, which no recipe may leave
    "demonstrations": (("a", "b"),),
    "languages": ("de", "en"),
    "sources": ("a.npy",),
    "tasks": ("a", "b"),
}
NEEDED: dict[str, Any] = {
    "backbone": "nano",
    "batch_size": 2,
    "files": ("a.txt",),
    "input_length": 8,
    "keep": 8,
    "labels": ("a", "b"),
    "name": "nano",
    "path": "a.npy",
    "learning_rate": 0.1,
    "length": 8,
    "objective": "prefix_lm",
    "period": 2,
    "radius": 1.0,
    "root": ".",
    "size": 100,
    "target_length": 8,
    "task": "cr",
    "text": "a",
}
WHOLE = {"Train", "Stages", "Stage", "Pretrain", "FrozenPrompts"}  # made of other objects
ALL_DEVICES = "MeshShape.data", "MeshShape.fsdp", "MeshShape.model"  # -1 is all that are left


def settings_class(name: str) -> type:
    module, _, attribute = REGISTERED[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def required(cls: type) -> dict[str, Any]:
    """What a settings class cannot be built without."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.name == "corpus":
            found["corpus"] = settings_class("Corpus")(**required(settings_class("Corpus")))
        elif field.name == "method" and field.default is dataclasses.MISSING:
            found["method"] = CPT(demonstrations=(("a", "b"),), length=8)
        elif field.name == "schedule":
            found["schedule"] = settings_class("Schedule")(learning_rate=0.1)
        elif field.name in LISTS and field.type not in (int, "int"):
            found[field.name] = LISTS[field.name]
        elif field.default is dataclasses.MISSING and field.name in NEEDED:
            found[field.name] = NEEDED[field.name]
    return found


@pytest.mark.parametrize("name", sorted(set(REGISTERED) - WHOLE))
def test_no_number_of_a_recipe_is_below_zero(name):
    cls = settings_class(name)
    hints, need = typing.get_type_hints(cls), required(cls)
    cls(**need)
    for field in dataclasses.fields(cls):
        kinds = {hints[field.name], *typing.get_args(hints[field.name])}
        if not {int, float} & kinds or typing.get_origin(hints[field.name]) in (tuple, dict):
            continue
        value = -2 if f"{name}.{field.name}" in ALL_DEVICES else -1
        with pytest.raises(UserError) as caught:
            cls(**{**need, field.name: value})
        where = caught.value.where
        assert isinstance(where, Setting), caught.value
        assert (where.field, where.value) == (field.name, value) and caught.value.remedy


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Adafactor", "decay_rate"),
        ("Adafactor", "weight_decay"),
        ("Backbone", "dropout_rate"),
        ("LoRA", "dropout_rate"),
        ("PrefixTuning", "dropout_rate"),
        ("Loss", "label_smoothing"),
        ("Corpus", "noise_density"),
        ("Corpus", "language_exponent"),
        ("ContextLabels", "decay"),
        ("Homeostasis", "decay"),
        ("PruneNeurons", "keep"),
        ("PruneNeurons", "keep_heads"),
        ("AdamW", "b1"),
        ("AdamW", "b2"),
    ],
)
def test_no_share_is_above_one(name, field):
    cls = settings_class(name)
    with pytest.raises(UserError, match=rf"{field} = 1\.5: give "):
        cls(**{**required(cls), field: 1.5})


@pytest.mark.parametrize(
    ("name", "field"),
    [("LoRA", "alpha"), ("DePT", "alpha"), ("EPT", "alpha"), ("PrefixTuning", "scale")],
)
def test_no_factor_is_nothing(name, field):
    with pytest.raises(UserError, match=rf"{name}\.{field} = 0\.0: give more than 0"):
        settings_class(name)(**{field: 0.0})
