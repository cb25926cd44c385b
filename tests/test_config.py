"""Recipes build checked objects; every mistake is one line with its file and line."""

import re
from pathlib import Path

import gin
import pytest

from prompt_jax.errors import Setting, UserError
from prompt_jax.recipe import config
from prompt_jax.recipe.config import load
from prompt_jax.recipe.find import find_recipe, recipe_folder
from prompt_jax.settings import settings


@settings
class Data:
    task: str
    batch_size: int = 32
    mix: tuple[str, ...] = ()

    def check(self) -> None:
        if self.batch_size < 1:
            raise UserError(Setting("Data", "batch_size", self.batch_size), "must be at least 1")


@settings
class Adafactor:
    learning_rate: float = 0.3


@settings
class AdamW:
    weight_decay: float = 0.0


def rising(step: int, warmup: int = 10):
    return lambda: step / warmup


def failing(depth: int = 0):
    raise KeyError("deep inside")


@settings
class Train:
    data: Data
    steps: int = 10
    optim: Adafactor | AdamW = Adafactor()
    more: tuple[Data, ...] = ()
    metric: object = None


NAMES = {
    "Train": "Train",
    "Data": "Data",
    "Adafactor": "Adafactor",
    "AdamW": "AdamW",
    "rising": "rising",
    "failing": "failing",
}
REGISTERED = {name: f"{__name__}:{attribute}" for name, attribute in NAMES.items()}

RECIPE = """
TASK = 'cb'
BATCH_SIZE = 8
TRAIN_STEPS = 100

Train.data = @Data()
Train.steps = %TRAIN_STEPS
Train.optim = @Adafactor()
Adafactor.learning_rate = 0.1
Data:
  task = %TASK
  batch_size = %BATCH_SIZE
"""


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns its path."""

    def write(text: str, name: str = "r.gin") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def build(*files: str, bindings=(), search_paths=()):
    return load("Train", files, bindings, search_paths, registered=REGISTERED)


def refusal(*files: str, bindings=(), search_paths=()) -> str:
    with pytest.raises(UserError) as caught:
        build(*files, bindings=bindings, search_paths=search_paths)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_builds_plain_objects(recipe):
    built = build(recipe(RECIPE)).root
    assert type(built) is Train
    assert type(built.data) is Data
    assert built == Train(
        data=Data(task="cb", batch_size=8), steps=100, optim=Adafactor(learning_rate=0.1)
    )


def test_command_line_overrides(recipe):
    path = recipe(RECIPE)
    built = build(path, bindings=["TASK=super_glue_cb", "Train.steps=5", "BATCH_SIZE=4"]).root
    assert (built.data.task, built.steps, built.data.batch_size) == ("super_glue_cb", 5, 4)


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ("TASK='quoted'", "quoted"),
        ('TASK="quoted"', "quoted"),
        ("TASK=nano", "nano"),
        ("TASK=hf:google/t5-v1_1-small", "hf:google/t5-v1_1-small"),
        ("TASK=t5x:gs://b/c_1?family=t5_1_1", "t5x:gs://b/c_1?family=t5_1_1"),
        ("TASK=/data/x.jsonl", "/data/x.jsonl"),
        ("TASK=~/x.jsonl", "~/x.jsonl"),
        ("TASK=2024-run", "2024-run"),
        ("TASK = 'spaces here'", "spaces here"),
    ],
)
def test_values_on_the_command_line(recipe, given, task):
    assert build(recipe(RECIPE), bindings=[given]).root.data.task == task


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("TASK", "write --gin.NAME=VALUE"),
        ("=x", "write --gin.NAME=VALUE"),
        ("TASK=", "cannot be read"),
        ("TASK=two words", "cannot be read"),
        ("TASK=[1, 2", "cannot be read"),
        ("TA SK=1", "cannot be read"),
        ("TASK='a'\nBATCH_SIZE=2", "expected one binding"),
    ],
)
def test_unreadable_bindings(recipe, given, part):
    message = refusal(recipe(RECIPE), bindings=[given])
    assert message.startswith("--gin." + " ".join(given.split()))
    assert part in message


MISTAKES = [
    ("Dta.task = 'x'", "1: unknown configurable Dta; did you mean Data?"),
    ("data.task = 'x'", "1: unknown configurable data; did you mean Data?"),
    ("\n\nDta:\n  task = 'x'", "3: unknown configurable Dta; did you mean Data?"),
    ("Data.tsk = 'x'", "1: Data has no parameter tsk; did you mean task?"),
    ("Data:\n  task = 'x'\n  batchsize = 3", "3: Data has no parameter batchsize"),
    ("Train.data = @Dat()", "1: unknown reference @Dat; did you mean Data?"),
    ("Train.more = [\n  @Data(),\n  @a/Dat()]", "1: unknown reference @Dat; did you mean Data?"),
    ("# c\nTASK = 'x'\nData.task = %TSK", "3: unknown macro %TSK; did you mean TASK?"),
    ("import t5x", "1: import t5x: recipes import nothing; remove it"),
    ("from __gin__ import dynamic_registration", "1: import __gin__.dynamic_registration"),
    ("TASK = unquoted", "1: cannot read `TASK = unquoted`; quote strings, close brackets"),
    ("TASK = [1,\n\n", "cannot read the recipe"),
    ("\nTrain.data", "cannot read"),
    ("MIXTURE_OR_TASK_NAME = 'cb'", "1: MIXTURE_OR_TASK_NAME is a name of T5X; here it is TASK"),
    ("Data.task = %MIXTURE_OR_TASK_NAME", "1: MIXTURE_OR_TASK_NAME is a name of T5X"),
    ("TASK_FEATURE_LENGTHS = {'inputs': 3}", "here it is INPUT_LENGTH and TARGET_LENGTH"),
    ("INITIAL_CHECKPOINT_PATH = 'x'", "1: INITIAL_CHECKPOINT_PATH is a name of T5X; here it is"),
    ("include 'bse.gin'", "1: include 'bse.gin': no such recipe"),
    ("TASK = %gin.REQUIRED", "1: TASK must be given; add --gin.TASK=..."),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_in_a_recipe_has_its_line(recipe, text, message):
    path = recipe(text)
    refused = refusal(path)
    assert refused.startswith(f"{path}:")
    assert message in refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Dta.task=x", "--gin.Dta.task=x: unknown configurable Dta; did you mean Data?"),
        ("Data.tsk=x", "--gin.Data.tsk=x: Data has no parameter tsk; did you mean task?"),
        ("Train.optim=@Adam()", "--gin.Train.optim=@Adam(): unknown reference @Adam; did you mean"),
        ("Train.steps=%STEPS", "--gin.Train.steps=%STEPS: unknown macro %STEPS; did you mean"),
        ("MIXTURE_OR_TASK_NAME=x", "--gin.MIXTURE_OR_TASK_NAME=x: MIXTURE_OR_TASK_NAME is a name"),
        ("BATCHSIZE=3", "--gin.BATCHSIZE=3: BATCHSIZE is bound but nothing uses it; did you mean"),
        ("AdamW.weight_decay=1.0", "--gin.AdamW.weight_decay=1.0: AdamW.weight_decay is bound but"),
        ("x/Data.task=x", "--gin.x/Data.task=x: x/Data.task is bound but nothing uses it"),
    ],
)
def test_a_mistake_on_the_command_line_is_quoted(recipe, given, message):
    assert refusal(recipe(RECIPE), bindings=[given]).startswith(message)


def test_a_wrong_type_names_the_binding(recipe):
    path = recipe("Train.data = @Data()\nData.task = 'x'\n\nData.batch_size = 'ten'")
    assert refusal(path) == f"{path}:4: Data.batch_size = 'ten': expected int"


def test_a_wrong_type_names_the_macro(recipe):
    path = recipe(RECIPE.replace("= 8", "= 'ten'"))
    assert refusal(path) == f"{path}:3: Data.batch_size = 'ten': expected int"
    path = recipe(RECIPE.replace("= 8", "= %SIZE") + "SIZE = 'ten'")
    assert refusal(path) == f"{path}:13: Data.batch_size = 'ten': expected int"
    message = "--gin.BATCH_SIZE=ten: Data.batch_size = 'ten': expected int"
    assert refusal(recipe(RECIPE), bindings=["BATCH_SIZE=ten"]) == message


def test_a_value_out_of_range_names_the_binding(recipe):
    message = "--gin.BATCH_SIZE=0: Data.batch_size = 0: must be at least 1"
    assert refusal(recipe(RECIPE), bindings=["BATCH_SIZE=0"]) == message


def test_a_nested_object_of_the_wrong_class_names_the_outer_binding(recipe):
    path = recipe(RECIPE + "Train.metric = 1\nTrain.more = [@Adafactor()]")
    assert refusal(path).startswith(f"{path}:14: Train.more = [Adafactor(learning_rate=0.1)]")


def test_a_missing_value_says_how_to_give_it(recipe):
    message = "Data.task: has no value; bind it, or add --gin.Data.task=..."
    assert refusal(recipe("Train.data = @Data()")) == message


def test_a_required_macro_can_be_given(recipe):
    path = recipe(RECIPE.replace("'cb'", "%gin.REQUIRED"))
    assert build(path, bindings=["TASK=cb"]).root.data.task == "cb"


def test_a_circle_is_refused(recipe):
    path = recipe("TASK = %OTHER\nOTHER = %TASK\nData.task = %TASK\nTrain.data = @Data()")
    assert refusal(path) == "TASK: refers to itself; break the circle"
    path = recipe("include 'r.gin'")
    assert refusal(path).startswith(f"{path}: includes itself")


def test_unused_bindings_in_a_recipe(recipe):
    path = recipe(RECIPE + "AdamW.weight_decay = 0.1\nBATCHSIZE = 3")
    assert refusal(path) == (
        f"{path}:13: AdamW.weight_decay is bound but nothing uses it (and 1 more); "
        "remove it, or refer to @AdamW() where it belongs"
    )
    path = recipe(RECIPE + "BATCHSIZE = 3")
    assert refusal(path).endswith(
        "BATCHSIZE is bound but nothing uses it; did you mean BATCH_SIZE?"
    )


def test_what_a_later_binding_overrides_is_not_unused(recipe):
    recipe(RECIPE, "base.gin")
    path = recipe("include 'base.gin'\nTrain.steps = 7\nData.task = 'rte'")
    built = build(path)
    assert (built.root.steps, built.root.data.task) == (7, "rte")
    assert [Path(file).name for file in built.files] == ["r.gin", "base.gin"]
    swapped = build(path, bindings=["Train.optim=@AdamW()", "AdamW.weight_decay=0.5"]).root
    assert swapped.optim == AdamW(weight_decay=0.5)


def test_what_stands_in_a_scope_that_is_left_out_is_not_unused(recipe):
    text = """
LENGTH = 4
Train.data = @third/Data()
third/Data.batch_size = 3
Train.more = [@first/Data(), @second/Data()]
Data.task = 'one'
Data.batch_size = %LENGTH
first/Data.batch_size = 2
second/Data.task = 'two'
"""
    assert build(recipe(text), bindings=["Train.more=[@first/Data()]"]).root.more == (
        Data(task="one", batch_size=2),
    )
    left_out = ["Train.more=[@first/Data()]", "second/Data.batch_size=3"]
    assert "second/Data.batch_size is bound but nothing" in refusal(recipe(text), bindings=left_out)
    assert refusal(recipe("Train.data = @frist/Data()\nfirst/Data.task = 'a'")) == (
        "frist/Data.task: has no value: nothing is bound in the scope 'frist'; did you mean first?"
    )


def test_a_command_line_binding_is_used_or_refused(recipe):
    bindings = ["Train.steps=5", "TRAIN_STEPS=6"]
    message = refusal(recipe(RECIPE), bindings=bindings)
    assert message.startswith("--gin.TRAIN_STEPS=6: TRAIN_STEPS is bound but nothing uses it")
    bindings = ["Train.optim=@AdamW()", "Adafactor.learning_rate=0.2"]
    assert "Adafactor.learning_rate is bound but" in refusal(recipe(RECIPE), bindings=bindings)


def test_bindings_after_the_override_are_not_excused(recipe):
    path = recipe(RECIPE + "Train.optim = @AdamW()\nAdafactor.learning_rate = 0.5")
    assert "Adafactor.learning_rate is bound but nothing uses it" in refusal(path)


def test_scopes(recipe):
    text = """
Train.data = @first/Data()
Train.more = [@second/Data(), @Data()]
Data.task = 'all'
first/Data.task = 'one'
second/Data.batch_size = 2
"""
    built = build(recipe(text)).root
    assert built.data == Data(task="one")
    assert built.more == (Data(task="all", batch_size=2), Data(task="all"))


def test_functions(recipe):
    path = recipe(RECIPE + "Train.metric = @rising()\nrising.step = 5")
    assert build(path).root.metric() == 0.5
    path = recipe(RECIPE + "Train.metric = @rising")
    assert build(path).root.metric is rising
    path = recipe(RECIPE + "Train.metric = @rising\nrising.step = 5")
    assert refusal(path) == f"{path}:14: rising.step is bound; write @rising() where @rising is"


def test_other_exceptions_keep_their_type(recipe):
    with pytest.raises(KeyError, match="deep inside"):
        build(recipe(RECIPE + "Train.metric = @failing()"))


def test_operative_is_complete_deterministic_and_loads_again(recipe):
    path = recipe(RECIPE)
    first = build(path)
    assert "Data.task = %TASK" in first.operative
    assert "Data.mix = ()" in first.operative
    assert "Train.data = @Data()" in first.operative
    assert "AdamW" not in first.operative
    assert build(path).operative == first.operative
    again = build(recipe(first.operative, "operative.gin"))
    assert again.root == first.root
    assert again.operative == first.operative


def test_the_operative_text_of_scopes_and_of_a_macro_for_an_object_loads_again(recipe):
    text = RECIPE.replace("= @Adafactor()", "= %OPTIMIZER") + "OPTIMIZER = @Adafactor()\n"
    first = build(recipe(text + "Train.more = [@big/Data()]\nbig/Data.batch_size = 64"))
    assert first.root.more == (Data(task="cb", batch_size=64),)
    again = build(recipe(first.operative, "operative.gin"))
    assert again.root == first.root
    assert again.operative == first.operative


def test_a_built_object_outlives_later_loads(recipe):
    path = recipe(RECIPE + "Train.metric = @rising()\nrising.step = 5")
    first = build(path).root
    build(path, bindings=["rising.warmup=1", "BATCH_SIZE=1"])
    assert first.metric() == 0.5
    assert first.data.batch_size == 8
    assert gin.config_str().strip() == ""


def test_a_failed_load_leaves_nothing_behind(recipe):
    refusal(recipe(RECIPE), bindings=["BATCH_SIZE=ten"])
    assert gin.config_str().strip() == ""
    assert build(recipe("Train.data = @Data()\nData.task = 'x'")).root.data.batch_size == 32


def test_the_registry_is_an_argument(recipe):
    path = recipe("Train.learning_rate = 0.5")
    other = load("Train", [path], [], registered={"Train": f"{__name__}:Adafactor"}).root
    assert other == Adafactor(learning_rate=0.5)
    assert type(build(recipe(RECIPE)).root) is Train


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder of installed recipes, far from the working directory."""
    folder = tmp_path / "package" / "prompt_jax" / "gin"
    (folder / "runs").mkdir(parents=True)
    (folder / "methods").mkdir()
    (folder / "base.gin").write_text("Train.data = @Data()\nData.task = 'base'\n")
    (folder / "methods" / "lester.gin").write_text("Train.steps = 3\n")
    (folder / "runs" / "quickstart.gin").write_text(
        "include 'base.gin'\ninclude 'methods/lester.gin'\n"
    )
    monkeypatch.setattr(
        "prompt_jax.recipe.find.__file__", str(folder.parent / "recipe" / "find.py")
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_installed_recipes_are_found_from_anywhere(installed):
    assert recipe_folder() == installed
    built = build("runs/quickstart.gin")
    assert (built.root.data.task, built.root.steps) == ("base", 3)
    assert built.files[0] == str(installed / "runs/quickstart.gin")


def test_a_users_recipe_includes_installed_ones(installed, tmp_path):
    mine = tmp_path / "mine.gin"
    mine.write_text("include 'base.gin'\nData.task = 'mine'\n")
    assert build(str(mine)).root.data.task == "mine"
    assert build("mine.gin", search_paths=[str(tmp_path)]).root.data.task == "mine"


def test_the_working_directory_does_not_change_an_include(installed):
    Path("base.gin").write_text("Data.task = 'wrong'\n")
    assert build("runs/quickstart.gin").root.data.task == "base"


def test_a_missing_recipe_names_the_nearest(installed):
    with pytest.raises(UserError) as caught:
        find_recipe("runs/quikstart.gin")
    assert str(caught.value) == (
        "--gin_file=runs/quikstart.gin: no such recipe; did you mean runs/quickstart.gin?"
    )


def test_the_checkout_is_the_fallback(tmp_path, monkeypatch):
    (tmp_path / "gin").mkdir()
    (tmp_path / "prompt_jax").mkdir()
    monkeypatch.setattr(
        "prompt_jax.recipe.find.__file__", str(tmp_path / "prompt_jax/recipe/find.py")
    )
    assert recipe_folder() == tmp_path / "prompt_jax" / "gin"
    (tmp_path / "pyproject.toml").touch()
    assert recipe_folder() == tmp_path / "gin"


def test_an_unreadable_recipe(tmp_path):
    path = tmp_path / "binary.gin"
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal(str(path)).startswith(f"{path}: cannot be read as a recipe")


def test_only_one_module_imports_gin():
    package = Path(config.__file__).parent
    importers = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) gin\b", path.read_text(), re.MULTILINE)
    ]
    assert sorted(importers) == ["config.py", "foreign.py"]
