"""`migrate`: gin files of T5X and prompt-tuning become recipes that build, or are named by line."""

from pathlib import Path

import pytest

from prompt_jax.cli.main import main
from prompt_jax.recipe import config
from prompt_jax.recipe.migrated import migrate

# Built as the released files are: blocks, scopes, modules, macros, includes.
RUN = """
from __gin__ import dynamic_registration
from t5x import utils
include 't5x/configs/runs/finetune.gin'
MIXTURE_OR_TASK_NAME = 'taskless_glue_sst2_v200_examples'
MIXTURE_OR_TASK_MODULE = 'my_team.tasks'
TASK_FEATURE_LENGTHS = {'inputs': 96, 'targets': 4}
INITIAL_CHECKPOINT_PATH = 'gs://b/t5_1_1_lm100k_small/checkpoint_1100000'
TRAIN_STEPS = 1_100_500
BATCH_SIZE = 24
train/utils.DatasetConfig.pack = False
utils.SaveCheckpointConfig.period = 250
utils.create_learning_rate_scheduler:
  factors = 'constant'
  base_learning_rate = 0.25
partitioning.PjitPartitioner.model_parallel_submesh = (2, 2, 1, 1)
"""
PROMPT = """
from prompt_tuning import prompts
from prompt_tuning.train import prompts as train_prompts
include 'prompt_tuning/configs/models/t5_1_1_small_prompt.gin'
PROMPT_LENGTH = 7
PROMPT = @train_prompts.Prompt
train_prompts.Prompt.prompt = @prompts.Prompt()
prompts.Prompt:
  length = %PROMPT_LENGTH
  prompt_init = @prompt_init/prompts.from_embedded_list()
prompt_init/prompts.from_embedded_list:
  texts = %CLASS_LABELS
  initializer = @prompt_init/prompts.from_sample_of_embeddings()
prompt_init/prompts.from_sample_of_embeddings.population_size = 900
CLASS_LABELS = ['good', 'bad']
"""
DEEP = """
include 'prompt_tuning/configs/models/t5_1_1_prompt.gin'
PROMPT_LENGTH = 5
PER_LAYER_PROMPT = @per_layer/train_prompts.Prompt
per_layer/train_prompts.Prompt:
  combine = @per_layer.add_prompt
"""
SCALES = """
include 't5x/examples/t5/t5_1_1/small.gin'
dense.MlpBlock.intermediate_conv = @ia3.IA3()
ia3.IA3.axis_name = ('mlp',)
"""
WAYWARD = """
include 'prompt_tuning/configs/models/t5_1_1_small_prompt.gin'
TASK_STRING = 'Say what this is.'
prompts.Prompt.prompt_init = @prompt_init/prompts.from_embedded_string()
MODEL = @wayward.WaywardPromptEncoderDecoderModel()
wayward.WaywardPromptEncoderDecoderModel:
  distance = @wayward.squared_l2_distance
  gamma = 0.5
"""
WHOLE = "include 't5x/examples/t5/t5_1_1/small.gin'\n"


@pytest.fixture
def write(tmp_path: Path):
    def files(**texts: str) -> list[str]:
        paths = [tmp_path / f"{name}.gin" for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text)
        return [str(path) for path in paths]

    return files


def built(text: str, tmp_path: Path, *bindings: str):
    path = tmp_path / "migrated.gin"
    path.write_text(text)
    return config.load("Train", [str(path)], bindings).root


def test_a_soft_prompt_with_class_labels(write, tmp_path: Path) -> None:
    text, missing = migrate(write(model=PROMPT, run=RUN))
    assert missing == []
    assert "--tasks_module=my_team.tasks" in text
    run = built(text, tmp_path)
    assert run.backbone.name == (
        "t5x:gs://b/t5_1_1_lm100k_small/checkpoint_1100000?family=t5_1_1_lm_adapted"
    )
    data = run.data
    assert (data.task, data.input_length, data.target_length) == ("taskless_glue_sst2", 96, 4)
    assert (data.batch_size, data.packed, run.steps) == (24, False, 500)
    assert (run.method.length, run.method.init.labels) == (7, ("good", "bad"))
    assert run.method.init.population == 900
    optimizer = run.optimizer
    assert optimizer.schedule.learning_rate == 0.25
    assert (optimizer.optimizer_start_step, optimizer.weight_decay) == (1_100_000, 1e-5)
    assert (optimizer.factored, optimizer.multiply_by_parameter_scale) == (False, False)
    assert (run.checkpoints.period, run.mesh.model) == (250, 4)
    assert run.backbone.dropout_rate == 0.1


@pytest.mark.parametrize(
    ("model", "method", "values"),
    [
        (DEEP, "DeepPrompt", {"length": 5, "combine": "add"}),
        (SCALES, "IA3", {}),
        (WHOLE, "FullTuning", {}),
        (WAYWARD, "SoftPrompt", {"length": 6}),
    ],
)
def test_methods(write, tmp_path: Path, model: str, method: str, values: dict) -> None:
    text, missing = migrate(write(model=model, run=RUN))
    assert missing == []
    run = built(text, tmp_path, *(["PROMPT_LENGTH=6"] if model == WAYWARD else []))
    assert type(run.method).__name__ == method
    assert {name: vars(run.method)[name] for name in values} == values
    if model == WAYWARD:
        assert (run.terms[0].text, run.terms[0].weight) == ("Say what this is.", 0.5)
    if model == WHOLE:
        assert (run.optimizer.factored, run.optimizer.weight_decay) == (True, 0.0)
        assert run.optimizer.optimizer_start_step == 0


def test_released_files_that_are_not_here_and_bindings_of_the_command_line(tmp_path: Path) -> None:
    names = ("models/mt5_base_prompt.gin", "runs/prompt_finetune.gin")
    files = [f"prompt_tuning/configs/{name}" for name in names]
    text, missing = migrate(files, ["PROMPT_LENGTH=3", "Z_LOSS=0.5", "BATCH_SIZE=16"])
    assert missing == []
    given = ["BACKBONE=nano", "TASK=t", "INPUT_LENGTH=8", "TARGET_LENGTH=4", "TRAIN_STEPS=9"]
    run = built(text, tmp_path, *given)  # what the files leave open is asked for, as there
    assert (run.method.length, run.loss.z_loss, run.data.batch_size) == (3, 0.5, 16)
    assert (run.method.init.scale, run.method.init.symmetric) == (0.5, False)
    assert run.optimizer.schedule.learning_rate == 0.3


@pytest.mark.parametrize(
    ("factors", "warmup", "rate", "decay"),
    [
        ("constant * linear_warmup", 40, 0.5, "constant"),
        ("constant * linear_warmup * rsqrt_decay", 25, 0.1, "rsqrt"),
        ("constant * linear_warmup * rsqrt_normalized_decay", 25, 0.5, "rsqrt"),
    ],
)
def test_schedules(write, tmp_path: Path, factors: str, warmup: int, rate: float, decay: str):
    key = "utils.create_learning_rate_scheduler"
    more = f"INITIAL_CHECKPOINT_PATH = '/c'\nTRAIN_STEPS = 90\n{key}.factors = '{factors}'\n"
    more += f"{key}.base_learning_rate = 0.5\n{key}.warmup_steps = {warmup}\n"
    text, missing = migrate(write(model=PROMPT, run=RUN + more))
    assert missing == []
    schedule = built(text, tmp_path).optimizer.schedule
    assert (schedule.warmup_steps, schedule.decay) == (warmup, decay)
    assert schedule.learning_rate == pytest.approx(rate)


def test_lines_without_counterpart_are_named_and_the_rest_is_written(write, tmp_path, capsys):
    more = "train/utils.DatasetConfig.shuffle = False\ntrainer.Trainer.colour = 'red'\n"
    more += "utils.create_learning_rate_scheduler.factors = 'constant * decay_every'\n"
    model, run = write(model=PROMPT, run=RUN + more)
    output = tmp_path / "ours.gin"
    assert main(["migrate", model, run, f"--output={output}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    number = RUN.count("\n")
    shuffle = "train/utils.DatasetConfig.shuffle = False: no counterpart: training examples"
    assert f"{run}:{number + 1}: {shuffle} are always shuffled here" in lines
    assert (
        f"{run}:{number + 2}: trainer.Trainer.colour = 'red': no counterpart: unknown here" in lines
    )
    assert any(line.startswith(f"{run}:{number + 3}: ") for line in lines)
    assert lines[-1].startswith("prompt-jax: error:") and "3 lines have no counterpart" in lines[-1]
    assert "# No counterpart" in output.read_text()


def test_files_of_evaluation_become_a_command(write, capsys) -> None:
    text = """
include 't5x/configs/runs/eval.gin'
MIXTURE_OR_TASK_NAME = 'super_glue_cb_v102'
CHECKPOINT_PATH = '/c/t5_1_1_base/checkpoint_5'
PROMPT_FILE = '/p/cb.npy'
utils.DatasetConfig.split = 'validation'
"""
    assert main(["migrate", *write(run=text)]) == 0
    out = capsys.readouterr().out
    assert "prompt-jax eval --backbone='t5x:/c/t5_1_1_base/checkpoint_5?family=t5_1_1'" in out
    assert "--prompt='/p/cb.npy' --task='super_glue_cb' --split='validation'" in out


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("A = (\n", "gin cannot read"),
        ("include 'nowhere.gin'\n", "--gin_search_paths=DIR"),
        ("", "binds nothing that T5X or google-research/prompt-tuning has; give the gin files"),
        ("hello = 3\nworld.foo = 'x'\n", "binds nothing that T5X or"),
    ],
)
def test_files_that_cannot_be_read_are_named(write, capsys, text: str, part: str) -> None:
    (path,) = write(bad=text)
    assert main(["migrate", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert path in line and part in line
