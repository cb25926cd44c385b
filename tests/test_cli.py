"""The command line: what each verb calls, and one line for every mistake."""

import functools
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from prompt_jax.answer.answerer import Answering
from prompt_jax.cli.main import main, split_bindings
from prompt_jax.cli.show import print_confusion, print_facts, print_table
from prompt_jax.errors import Preempted, RunError, UserError
from prompt_jax.model.decode import Sampling
from prompt_jax.recipe import config

TRAIN = ["train", "--gin_file=a.gin", "--model_dir=D"]
EVAL = ["eval", "--backbone=nano", "--task=cb", "--split=validation"]


@pytest.fixture
def callee(monkeypatch):
    """Puts a function in the place of one of a module of the package.

    It records its arguments, and returns `result` or raises it.
    """

    def replace(module: str, function: str, result: object) -> list[tuple[tuple, dict]]:
        calls: list[tuple[tuple, dict]] = []

        def record(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(importlib.import_module(f"prompt_jax.{module}"), function, record)
        return calls

    return replace


@pytest.fixture
def loads(monkeypatch):
    """Records calls of config.load, and lets them return a config whose root is "ROOT"."""
    calls: list[tuple] = []

    def load(*args):
        calls.append(args)
        return config.Config("ROOT", "OPERATIVE", ())

    monkeypatch.setattr(config, "load", load)
    return calls


def fails(capsys, *argv: str) -> tuple[int, str]:
    """The exit code and the one line on standard error of a command that has to fail."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert code != 0
    assert out == ""
    assert err.startswith("prompt-jax: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return code, err.removeprefix("prompt-jax: error: ").rstrip()


def test_train_calls_the_trainer(callee, loads, capsys):
    calls = callee("run.stages", "run_recipe", {"loss": 0.5})
    argv = ["train", "--gin_file=a.gin", "--gin_file", "b.gin", "--model_dir=D", "--profile"]
    bindings = ["--gin.TASK=cb", "--gin.SEED", "3", "--gin.Train.steps=-1"]
    assert main([*argv, *bindings, "--gin_search_paths=x,y"]) == 0
    given = ["TASK=cb", "SEED=3", "Train.steps=-1"]
    assert loads == [(("Stages", "Train"), ["a.gin", "b.gin"], given, ["x", "y"])]
    options = {"profile": True, "batch_digests": False, "show": True}
    options |= {"seeds": None, "operative": "OPERATIVE"}
    ((arguments, given_options),) = calls
    assert arguments == ("ROOT", "D") and given_options.pop("observers")
    assert given_options == options
    assert capsys.readouterr().out == ""


def test_train_prints_json(callee, loads, capsys):
    callee("run.stages", "run_recipe", {"loss": 0.5, "accuracy": 90})
    assert main([*TRAIN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": 0.5, "accuracy": 90}


def test_train_imports_tasks_and_sets_the_data_dir(callee, loads, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", "before")
    callee("run.stages", "run_recipe", {})
    imports = callee("recipe.user_code", "import_tasks_module", None)
    modules = ["--tasks_module=my.tasks", "--tasks_module=t.py"]
    assert main([*TRAIN, *modules, f"--data_dir={tmp_path}"]) == 0
    assert imports == [(("my.tasks",), {}), (("t.py",), {})]
    assert os.environ["PROMPT_JAX_DATA_DIR"] == str(tmp_path)


def test_pretrain_calls_the_pretrainer(callee, loads, capsys):
    calls = callee("run.pretrain", "pretrain", {"loss": 2.0})
    argv = ["pretrain", "--gin_file=a.gin", "--model_dir=D", "--gin.SEED=1", "--json"]
    assert main(argv) == 0
    assert loads == [("Pretrain", ["a.gin"], ["SEED=1"], [])]
    ((arguments, options),) = calls
    assert arguments == ("ROOT", "D") and options.pop("observers")
    assert options == {"operative": "OPERATIVE", "show": True}
    assert json.loads(capsys.readouterr().out) == {"loss": 2.0}


OPENING = {
    "input_length": None,
    "target_length": None,
    "dtype": None,
    "weights_dtype": None,
    "vocabulary": None,
    "allow_other_backbone": False,
}
EVALUATION = {
    "batch_size": 32,
    "max_examples": None,
    "shots": None,
    "shots_seed": None,
    "answering": Answering(),
    "journal": None,
}


def test_eval_calls_the_evaluation(callee, capsys):
    opened = callee("evaluate.opening", "opening", "OPENED")
    calls = callee(
        "evaluate.prompts", "evaluate_prompts", ({"accuracy": 91.25, "examples": 56}, [])
    )
    assert main([*EVAL]) == 0
    assert opened == [(("nano", []), OPENING)]
    assert calls == [(("OPENED", "cb", "validation"), EVALUATION)]
    table = capsys.readouterr().out
    assert "accuracy" in table
    assert "91.25" in table
    assert "cb, validation" in table


def test_eval_passes_every_option_on(callee, capsys, tmp_path):
    opened = callee("evaluate.opening", "opening", "OPENED")
    calls = callee("evaluate.prompts", "evaluate_prompts", ({"accuracy": 91.25}, [{"x": 1}]))
    numbers = ["--batch_size=4", "--max_examples=8", "--input_length=16", "--target_length=2"]
    others = ["--prompt=P", "--prompt=Q", "--dtype=float32", "--allow_other_backbone", "--json"]
    others += ["--weights_dtype=int8", "--journal=J", "--vocabulary=V"]
    how = ["--mode=rank", "--length_normalised", "--temperature=0.5", "--top_k=3", "--seed=2"]
    how += ["--shots=4", "--shots_seed=3"]
    predictions = tmp_path / "predictions.jsonl"
    told = [f"--predictions={predictions}"]
    assert main([*EVAL, *numbers, *others, *how, *told]) == 0
    assert predictions.read_text() == '{"x": 1}\n'
    assert json.loads(capsys.readouterr().out) == {"accuracy": 91.25}
    settings = {
        "input_length": 16,
        "target_length": 2,
        "dtype": "float32",
        "weights_dtype": "int8",
        "vocabulary": "V",
        "allow_other_backbone": True,
    }
    answering = Answering(
        mode="rank",
        length_normalised=True,
        sampling=Sampling(temperature=0.5, top_k=3),
        seed=2,
    )
    options = {
        "batch_size": 4,
        "max_examples": 8,
        "shots": 4,
        "shots_seed": 3,
        "answering": answering,
        "journal": "J",
    }
    assert settings.keys() == OPENING.keys() and options.keys() == EVALUATION.keys()
    assert opened == [(("nano", ["P", "Q"]), settings)]
    assert calls == [(("OPENED", "cb", "validation"), options)]


TASK = {
    "name": "cb",
    "source": "x",
    "splits": ["train"],
    "rows": {"train": 250},
    "present": [],
    "metrics": ["accuracy"],
    "choices": None,
}


def test_tasks_list(callee, capsys):
    callee("cli.task_list", "list_tasks", [TASK])
    assert main(["tasks", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [TASK]
    assert main(["tasks", "list"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["tasks", "list", "--family=cb"]) == 0
    assert "train: 250" in capsys.readouterr().out
    assert main(["tasks", "list", "--family=ca"]) == 2
    assert "--family=ca: no such family; did you mean cb?" in capsys.readouterr().err


def test_tasks_list_shows_families_at_80_columns(callee, capsys, monkeypatch):
    """No word is broken, whatever the width; a table that cannot hold its words becomes lines."""
    names = [f"xtreme_panx_in_language_{code}" for code in ("af", "ar", "de", "zh")]
    callee("cli.task_list", "list_tasks", [TASK, *({**TASK, "name": name} for name in names)])
    for columns in ("80", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["tasks", "list"]) == 0
        out = capsys.readouterr().out
        assert "xtreme_panx_in_language" in out and "accuracy" in out and names[0] not in out
        assert columns == "20" or max(map(len, out.splitlines())) <= 80
    assert main(["tasks", "list", "--family=xtreme_panx_in_language"]) == 0
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_tasks_show(callee, capsys):
    row = {"task": "cb", "inputs": "a [b] c", "targets": "neutral"}
    calls = callee("cli.task_list", "show_task", [row])
    loaded = callee("backbone.load", "load_backbone", "BACKBONE")
    assert main(["tasks", "show", "cb", "--split=validation", "--n=1"]) == 0
    assert "inputs: a [b] c\n" in capsys.readouterr().out
    assert main(["tasks", "show", "cb", "--backbone=nano", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [row]
    assert [args for args, _ in calls] == [
        ("cb", "validation", 1, None),
        ("cb", "train", 3, "BACKBONE"),
    ]
    assert loaded == [(("nano",), {})]


def test_tasks_check_of_a_good_file(callee, capsys):
    report = {"rows": 2, "labels": {"a": 2}, "errors": [], "named": ["f.jsonl:2: is blank"]}
    calls = callee("cli.task_check", "check_jsonl", report)
    callee("cli.task_check", "check_task", None)
    assert main(["tasks", "check", "f.jsonl", "--input_length=8", "--target_length=2"]) == 0
    assert calls == [(("f.jsonl", None, 8, 2), {})]
    out, err = capsys.readouterr()
    assert "a: 2" in out and out.endswith("f.jsonl:2: is blank\n")
    assert "errors" not in out
    assert err == ""


def test_tasks_check_of_a_bad_file(callee, capsys):
    report = {"rows": 1, "errors": ["f.jsonl:2: not JSON", "f.jsonl:3: no targets"], "named": []}
    callee("cli.task_check", "check_jsonl", report)
    callee("cli.task_check", "check_task", None)
    assert main(["tasks", "check", "f.jsonl"]) == 2
    assert capsys.readouterr().err == "f.jsonl:2: not JSON\nf.jsonl:3: no targets\n"
    assert main(["tasks", "check", "f.jsonl", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == report
    report["errors"] = [f"f.jsonl:{n}: bad" for n in range(90)]
    assert main(["tasks", "check", "f.jsonl"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[9:] == ["f.jsonl:9: bad", "and 80 more; --json gives them all"]


def test_tasks_check_of_a_task(callee, capsys, tmp_path):
    facts = {"task": "cb", "split": "train", "rows": 2, "named": ["cb train row 2 of f: blank"]}
    between = {"task": "cb", "splits": "train, test", "shared_inputs": 1, "first": "a = b"}
    report = {"splits": [facts], "between": [between], "absent": ["cb validation"], "errors": []}
    calls = callee("cli.task_check", "check_task", report)
    callee("cli.task_check", "check_jsonl", None)
    assert main(["tasks", "check", "cb", f"--data_dir={tmp_path}"]) == 0
    assert calls == [(("cb", None, None, None), {})]
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "cb train row 2 of f: blank",
        "cb train, test: 1 inputs in both, a = b",
        "cb validation: not at hand",
    ]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no backbone 'x'"), 2, "no backbone 'x'"),
        (RunError("the loss is NaN"), 1, "the loss is NaN"),
        (Preempted("saved at step 5"), 75, "saved at step 5"),
        (KeyError("a\nb"), 1, r"KeyError: 'a\nb' (--debug shows the traceback)"),
        (OSError("disk\nfull"), 1, "OSError: disk full (--debug shows the traceback)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(callee, loads, capsys, error, code, line):
    callee("run.stages", "run_recipe", error)
    assert fails(capsys, *TRAIN) == (code, line)


@pytest.mark.parametrize("error", [UserError("x"), RunError("x"), KeyError("x")])
@pytest.mark.parametrize("argv", [["--debug", *TRAIN], [*TRAIN, "--debug"]])
def test_debug_raises(callee, loads, error, argv):
    callee("run.stages", "run_recipe", error)
    with pytest.raises(type(error)):
        main(argv)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["train", "--model_dir=D"], "Missing option '--gin_file'"),
        (["train", "--gin_file=a.gin"], "Missing option '--model_dir'"),
        (["train", "--gin_file=a.gin", "--modle_dir=D"], "--model_dir"),
        (["trian"], "'train'"),
        (["tasks"], "Missing command"),
        (["tasks", "shwo", "x"], "'show'"),
        (["--debug", "trian"], "'train'"),
        ([*EVAL, "--batch_size=0"], "--batch_size"),
        ([*EVAL, "--batch_size=x"], "--batch_size"),
        (
            [*EVAL, "--gin.TASK=x"],
            "--gin.TASK=x: only train, pretrain, doctor, rehearse, fit, spot and migrate take",
        ),
        ([*EVAL, "--data_dir=/no/such"], "--data_dir=/no/such: no such folder"),
        ([*TRAIN, "--gin.TASK"], "--gin.TASK: has no value; write --gin.TASK=VALUE"),
        ([*TRAIN, "--gin.TASK", "--json"], "--gin.TASK: has no value"),
        ([*TRAIN, "stray"], "stray"),
        ([*TRAIN, "--gn.TASK=x"], "--gn.TASK"),
    ],
)
def test_the_users_mistakes(capsys, argv, part):
    code, line = fails(capsys, *argv)
    assert code == 2
    assert part in line


def test_a_missing_recipe_is_one_line(capsys, monkeypatch):
    registered = dict.fromkeys(("Stages", "Train"), "prompt_jax.errors:UserError")
    monkeypatch.setattr(config, "load", functools.partial(config.load, registered=registered))
    code, line = fails(capsys, "train", "--gin_file=no.gin", "--model_dir=D")
    assert code == 2
    assert line.startswith("--gin_file=no.gin: no such recipe")


def test_split_bindings():
    argv = ["train", "--gin_file=a", "--gin.A=1", "--gin.B", "x=y", "--gin.C='q'", "--json"]
    rest, bindings = split_bindings(argv)
    assert rest == ["train", "--gin_file=a", "--json"]
    assert bindings == ["A=1", "B=x=y", "C='q'"]


@pytest.mark.parametrize(
    "verb", ["train", "pretrain", "eval", "tasks list", "tasks show", "tasks check"]
)
def test_every_verb_shows_an_example(capsys, verb):
    assert main([*verb.split(), "--help"]) == 0
    assert f"prompt-jax {verb}" in capsys.readouterr().out.partition("Example:")[2]


def test_version_and_no_arguments(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("prompt-jax 0.")
    assert main([]) == 0
    assert "Usage: prompt-jax" in capsys.readouterr().out


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from prompt_jax.cli.main import main; code = main(['--help'])\n"
        "heavy = {'jax', 'numpy', 'tensorflow', 'seqio', 'gin', 'flax', 'rich'}\n"
        "found = sorted(heavy & set(sys.modules))\n"
        "sys.exit(str(found) if found else code)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage: prompt-jax" in done.stdout
    assert time.monotonic() - started < 3.0


def test_the_installed_program_answers():
    program = Path(sys.executable).with_name("prompt-jax")
    done = subprocess.run([program, "train"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("prompt-jax: error: Missing option '--gin_file'")


def test_eval_of_several_prompts_is_a_table(callee, capsys):
    table = {"t": {"yes": {"yes": 3, "no": 1}}}
    each = [{"prompt": "P", "accuracy": 50.0}, {"prompt": "Q", "accuracy": 70.0}]
    report = {"examples": 4, "prompts": each, "mean": {"accuracy": 60.0}}
    report |= {"vote": {"accuracy": 75.0}, "confusion": table}
    callee("evaluate.opening", "opening", "OPENED")
    callee("evaluate.prompts", "evaluate_prompts", (report, []))
    assert main([*EVAL, "--prompt=P", "--prompt=Q"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("P", "Q", "mean", "vote", "75", "t: rows by target"))


@pytest.mark.parametrize("group", [[], ["tasks"], ["spot"], ["gallery"]])
def test_the_list_of_commands_cuts_no_sentence(group, capsys):
    assert main([*group, "--help"]) == 0
    lines = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert lines and [line for line in lines if not line.endswith(".") or "..." in line] == []


def test_tables_that_are_too_wide_say_the_same_in_80_columns(capsys):
    labels = ["animal", "clothing", "economics", "military", "music", "plant", "religion", "sports"]
    none = {label: 0 for label in (*labels, "(not a label)")}
    print_confusion("t", {label: none | {label: 99} for label in labels})
    print_facts("facts", {"digest": "0" * 90})
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert "3 economics" in told and "none" in told and sum("99" in line for line in lines) == 8
    assert lines[-1] == "digest: " + "0" * 90 and max(map(len, lines[:-1])) <= 80


def test_tables_count_the_columns_of_wide_letters(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = "心情データセット" * 4
    print_table("t", [{"name": name, "metrics": "accuracy and f1 and more of them"}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80 and sum(name in line for line in lines) == 1


def test_eval_of_many_labels_tells_the_commonest_mistakes(callee, capsys):
    labels = [f"label{i}" for i in range(12)]
    table = {target: {output: 0 for output in labels} for target in labels}
    table["label3"] |= {"label3": 40, "label7": 31}
    callee("evaluate.opening", "opening", "OPENED")
    callee("evaluate.prompts", "evaluate_prompts", ({"confusion": {"t": table}}, []))
    assert main([*EVAL, "--prompt=P"]) == 0
    told = capsys.readouterr().out
    assert "t: the commonest mistakes" in told and "40" not in told
    assert [line.split()[1::2] for line in told.splitlines() if "label3" in line] == [
        ["label3", "label7", "31"]
    ]


def test_infer_calls_the_function(callee, capsys):
    calls = callee("evaluate.infer", "infer", {"rows": 3})
    argv = ["infer", "--backbone=nano", "--input=a.jsonl", "--output=b.jsonl", "--json"]
    assert main([*argv, "--mode=rank", "--choice=yes", "--choice=no", "--shard=1/2"]) == 0
    ((asked, rows, output), given) = calls[0]
    assert asked.backbone == "nano" and not asked.prompts
    assert (rows, output, given["shard"]) == ("a.jsonl", "b.jsonl", "1/2")
    assert (given["choices"], given["answering"]) == (["yes", "no"], Answering(mode="rank"))
    assert json.loads(capsys.readouterr().out) == {"rows": 3}
    assert main([*argv, "--mode=retrieve"]) == 2
    assert "infer has generate, rank and head" in capsys.readouterr().err


def test_several_seeds_are_a_farm_or_run_after_one_another(callee, tiny, tmp_path):
    farms = callee("run.farm", "train_farm", [])
    runs = callee("run.stages", "run_recipe", {"step": 1})
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}", "--seeds=4,7"]
    assert main(argv) == 0
    (members, folder, _), _ = farms[0]
    assert folder == str(tmp_path) and not runs
    assert [(m.settings.seed, m.folder) for m in members] == [(4, "seed_4"), (7, "seed_7")]
    assert json.loads((tmp_path / "seeds.json").read_text())["seeds"] == [4, 7]
    assert main([*argv, "--gin.Train.method=@FullTuning()"]) == 0
    assert len(farms) == 1
    assert [call[0][1] for call in runs] == [f"{tmp_path}/seed_4", f"{tmp_path}/seed_7"]
    assert [call[0][0].seed for call in runs] == [4, 7]
