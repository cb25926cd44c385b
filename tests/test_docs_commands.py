"""Commands of README and docs: run, or (with a reason each) parsed and their recipes built."""

import json
import re
from pathlib import Path

import pytest
import typer.main
from documented import ROOT, Block, blocks, indented, inline, pages

from prompt_jax.backbone import weights
from prompt_jax.backbone.formats import files
from prompt_jax.cli.main import app, main, split_bindings
from prompt_jax.cli.options import import_methods
from prompt_jax.model import t5
from prompt_jax.recipe import config
from prompt_jax.recipe.registered import USERS

SHORT = ["--gin.TRAIN_STEPS=2", "--gin.EVAL_PERIOD=2", "--gin.CHECKPOINT_PERIOD=2"]
ROOTS = {"train": ("Stages", "Train"), "pretrain": "Pretrain"}
BLOCKS = [block for page in pages() for block in blocks(page)]
# Why a command is only parsed and its recipe built: a pattern of its arguments, and the reason.
NOT_RUN = {
    r"^fit ": "compiles for a TPU, minutes each; tests/test_fit_tpu.py does it",
    r"backbone=hf:|BACKBONE=hf:": "asks the Hugging Face hub",
    r"runs/superglue\.gin": "needs T5 base of the hub, SuperGLUE's files and an accelerator",
    r"cross_lingual_mnano\.gin --model_dir=runs/pos": "needs the Universal Dependencies treebanks",
    r"^train .*runs/(lora|ia3)_nano\.gin": "three seeds of minutes; tests/test_methods_battery.py",
    r"^train .*subspace_prompt\.py": "tests/test_docs_methods.py trains it",
    r"^spot ": "tests/test_spot_transfer.py runs the walk",
    r"--model_dir=runs/longer": "minutes; the same recipe as the quickstart's",
    r"^export .*--format=peft": "needs torch and PEFT; tests/parity",
    r"^import .*--format=peft": "needs torch and PEFT; tests/parity",
    r"^train .*EXPORT_TO='peft'": "needs torch and PEFT; tests/parity",
    r"quickstart_export": "minutes; tests/test_export.py exports a run of such a recipe",
    r"^export .*--merge": "tests/test_export_merge.py",
    r"^export .*--format=(stablehlo|saved_model)": "tests/test_export_programs.py",
    r"^eval --prompt=topic ": "tests/test_gallery.py",
    r"^eval .*runs/quickstart/prompt/best": "the quickstart's prompt; tests/test_evaluate.py",
    r"gin\.FARM=": "minutes; tests/test_farm.py",
    r"^convert ": "tests/test_convert.py",
    r"^tasks list": "tests/test_tasks_cli.py",
    r"^tasks check empath_topic": "tests/test_task_check.py",
    r"^tasks show": "tests/test_tasks_cli.py",
    r"--model_dir=run$": "the quickstart's recipe for minutes",
    r"^serve ": "runs until it is stopped; tests/test_serve_http.py",
    r" --dry_run": "tests/test_plan.py",
    r"^gallery ": "tests/test_gallery.py",
    r"^migrate ": "run by the test below",
    r"^report ": "tests/test_report.py",
    r"^watch ": "tests/test_watch.py; it ends with Ctrl-C",
    r"^inspect ": "tests/test_inspect.py",
    r"^untrained ": "tests/test_untrained.py",
    r"--prompt=D/|--model_dir=D/": "of a board; benchmarks/boards.py runs it",
}
# Commands of other programs, in blocks and within sentences, and why no test runs them.
OTHERS = {
    r"pip install|^python3 -m venv": "asks a package index; tests/test_install.py builds the wheel",
    r"^uvx ": "asks a package index",
    r"hf download": "asks the Hugging Face hub",
    r"^make ": "targets of the Makefile, which a test below looks up; CI runs test, lint and types",
    r"^curl ": "wants a running server; tests/test_serve_http.py sends such requests",
    r"run\.py ": "of an export; tests/test_export_programs.py runs it",
    r"^python benchmarks/": "minutes to hours; a test below looks the file up",
    r"^python docs/": "tests/test_docs.py checks what it writes",
    r"^python -c \"import jax": "shows the devices of the machine",
    r"^python -m t5x": "of T5X, in a table beside ours",
    r"^python -m prompt_jax": "tests/test_reading.py starts it so",
    r"^srun ": "wants a cluster; tests/test_launch.py has a stand-in; its flags are read below",
    r"^(mkdir|export) ": "a cluster's folders and variables",
}
WITHIN = [(page, command) for page in pages() for command in inline(page)]
IDS = [f"{block.page}: {' '.join(argv)}"[:90] for block in BLOCKS for argv in block.commands]
COMMANDS = [(block, argv) for block in BLOCKS for argv in block.commands]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone of random weights and bytes that stands in for nano and mnano."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    sizes = t5.T5Config(259, 16, 2, 8, 32, 1, 1)
    files.write(folder, sizes, weights.arrays_of(weights.init(sizes, 0)), "bytes")
    return f"files:{folder}"


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str):
    """Writes a page's example files into an empty folder; runs its commands of a name there."""
    monkeypatch.chdir(tmp_path)

    def run(page: str, *names: str) -> None:
        for block in blocks(page):
            if block.kind == "file":
                Path(block.name).write_text(block.text, encoding="utf-8")
        for name in names:
            (block,) = [b for b in blocks(page) if (b.kind, b.name) == ("commands", name)]
            for argv in block.commands:
                argv = [re.sub(r"=m?nano$", f"={tiny}", part) for part in argv]
                extra = [*SHORT, f"--gin.BACKBONE={tiny}"] if argv[0] == "train" else []
                assert main([*argv, *extra]) == 0, argv

    return run


@pytest.mark.parametrize(("block", "argv"), COMMANDS, ids=IDS)
def test_a_command_parses_and_its_recipe_builds(block: Block, argv, monkeypatch) -> None:
    before = dict(USERS)
    monkeypatch.chdir(ROOT / "docs")  # where the page's own method lies
    try:
        _parse(argv)
    finally:
        USERS.clear()
        USERS.update(before)


def _parse(argv: list[str]) -> None:
    rest, bindings = split_bindings(argv)
    command = typer.main.get_command(app)
    if rest[0].startswith("--"):  # of the program itself
        return
    while below := vars(command).get("commands"):
        command, name, *rest = below[rest[0]], *rest
    context = command.make_context(name, rest)
    recipes = context.params.get("gin_file")
    if not recipes:
        assert name == "migrate" or not bindings
        return
    import_methods(context.params.get("methods_module"))
    config.load(ROOTS.get(name, "Train"), recipes, bindings)


@pytest.mark.parametrize(("block", "argv"), COMMANDS, ids=IDS)
def test_a_command_is_run_or_there_is_a_reason(block: Block, argv) -> None:
    text = " ".join(argv)
    reasons = [reason for pattern, reason in NOT_RUN.items() if re.search(pattern, text)]
    assert block.kind == "commands" or reasons or text == "--install-completion"


def test_every_reason_is_needed() -> None:
    texts = [" ".join(argv) for block, argv in COMMANDS if block.kind != "commands"]
    unused = [p for p in NOT_RUN if not any(re.search(p, text) for text in texts)]
    assert unused == []


def test_the_readmes_three_commands(walk, capsys) -> None:
    walk("README.md", "readme_data")
    assert "billing: 2, fault: 2" in capsys.readouterr().out
    assert Path("tickets.npy").is_file()
    manifest = json.loads(Path("runs/tickets/prompt/last/manifest.json").read_text())
    assert manifest["step"] == 2


@pytest.mark.slow
def test_the_tutorial_on_your_own_data(walk, capsys) -> None:
    page = "docs/tutorials/own_data.md"
    (module,) = [block.text for block in blocks(page) if block.name == "my_tasks.py"]
    assert len([line for line in module.splitlines() if line]) <= 5
    walk(page, "module")
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["examples"]) == ("tickets", 2)
    manifest = json.loads(Path("runs/tickets_module/prompt/last/manifest.json").read_text())
    assert manifest["task"] == "tickets"


@pytest.mark.slow
def test_the_rest_of_the_tutorial_on_your_own_data(walk) -> None:
    walk("docs/tutorials/own_data.md", "own_data", "own_answers")
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [set(answer) >= {"prediction", "score"} for answer in answers] == [True, True]


def test_other_columns_of_the_tutorial(walk, capsys) -> None:
    walk("docs/tutorials/own_data.md", "own_columns")
    assert "5: 2, 2: 1, 1: 1" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_of_the_quickstart(walk) -> None:
    walk("docs/quickstart.md", "quickstart")


@pytest.mark.slow
def test_the_cross_lingual_tutorial(walk) -> None:
    walk("docs/tutorials/cross_lingual.md", "cross_lingual")


def test_the_migrations_of_the_docs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    migrations = [argv for block, argv in COMMANDS if argv[0] == "migrate"]
    assert migrations
    for argv in migrations:
        assert main(argv) == 0, capsys.readouterr().err


def _others() -> list[str]:
    """The commands of other programs on all pages."""
    within = [command for _, command in WITHIN if not command.startswith("prompt-jax ")]
    every = [*BLOCKS, *(block for page in pages() for block in indented(page))]
    return [*within, *(command for block in every for command in block.others)]


def test_commands_of_other_programs_have_a_reason() -> None:
    commands = _others()
    assert [c for c in commands if not any(re.search(p, c) for p in OTHERS)] == []
    assert [p for p in OTHERS if not any(re.search(p, c) for c in commands)] == []


def test_targets_and_scripts_of_the_docs_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in _others():
        program, what, *_ = command.split()
        if program == "make":
            assert what in targets, command
        if program == "python" and what.startswith(("benchmarks/", "docs/")):
            assert (ROOT / what).is_file(), command


def test_commands_within_sentences_have_the_verbs_and_flags_that_there_are() -> None:
    ours = [command for _, command in WITHIN if command.startswith("prompt-jax ")]
    on_clusters = [c for c in _others() if c.startswith("srun ") and "prompt-jax " in c]
    assert ours and on_clusters
    for text in [*ours, *(c.partition("/bin/")[2] for c in on_clusters)]:
        words = [word for word in text.split()[1:] if not word.startswith("--gin.")]
        command = typer.main.get_command(app)
        while words and (below := vars(command).get("commands")):
            assert words[0] in below, text
            command, *words = below[words[0]], *words[1:]
        known = {name for parameter in command.params for name in parameter.opts}
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, (text, flags - known)
