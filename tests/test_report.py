"""The page of runs: what it says of folders that runs left, and how a browser takes it."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from etils import epath
from run_folders import LABELS, write_run, write_seeds

from prompt_jax.cli.main import main
from prompt_jax.inspect import charts, compare
from prompt_jax.inspect.observers import Report
from prompt_jax.inspect.runs import differing, find_runs, grouped
from prompt_jax.model.sizes import SIZES
from prompt_jax.run.observe import Opened

SIDES = ("inputs", "targets")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """Three seeds of two methods."""
    place = tmp_path_factory.mktemp("runs")
    soft, lora = (
        write_seeds(place / "soft", "SoftPrompt", 20),
        write_seeds(place / "lora", "Lora", 35),
    )
    return str(soft), str(lora)


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "new" / "two.html"
    assert main(["report", *folders, f"--output={path}"]) == 0
    return path


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text()
    assert len(text) < 400_000
    addresses = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'> ]+)", text)
    assert [a for a in addresses if not a.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in text
    assert "Copyright (c) 2022 Leon Sorokin" in text, "the licence of uPlot goes with it"


def test_the_page_has_every_section(page):
    text = page.read_text()
    sections = re.findall(r'<h2 id="(\w+)"', text)
    expected = "runs scores tests curves labels examples data prompt machine settings commands"
    assert sections == expected.split()
    assert "soft minus lora" in text and "@Lora()" in text
    assert "do not explain a prompt" in text and "2112.08348" in text
    plain = re.sub(r"</?span[^>]*>", "", text)
    assert "prompt-jax train --gin_file=a.gin --model_dir=seed_2" in plain


def test_texts_of_a_task_cannot_break_the_page(page):
    text = page.read_text()
    assert "&lt;/script&gt;&lt;b&gt;example 1&lt;/b&gt;" in text
    assert text.count("</script>") == 3


def test_one_run_gets_its_report_beside_it(tmp_path):
    run = write_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "Settings that differ" not in text and "Paired tests" not in text
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == text, "the same run gives the same bytes"


def test_a_run_that_was_never_evaluated_has_a_page(tmp_path):
    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "predictions")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in lines if json.loads(line)["kind"] != "eval"]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in steps))
    assert main(["report", str(run)]) == 0
    assert "prompt" in (run / "report.html").read_text()


def test_a_file_goes_by_its_name_and_not_by_that_of_its_task(tmp_path):
    run = write_run(tmp_path / "run")
    manifest = run / "prompt" / "best" / "manifest.json"
    facts = json.loads(manifest.read_text()) | {"task": "data/rows.csv?inputs=a&targets=b"}
    manifest.write_text(json.dumps(facts))
    lengths = {side: {"percentiles": [1, 2, 3], "limit": 8, "truncated": 0} for side in SIDES}
    facts = {"lengths": {"jsonl:rows:0a1b2c3d": {"examples": 3, **lengths}}}
    (run / "facts.json").write_text(json.dumps(facts))
    assert main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "<td>rows.csv</td>" in text and "jsonl:rows" not in text


def test_a_board_is_rows_by_columns_with_tests_between_rows(tmp_path, capsys):
    file = tmp_path / "board.jsonl"
    scores = {"soft": [[60, 62], [70, 71], [50, 52]], "lora": [[64, 66], [75, 75], [53, 57]]}
    cells = [
        {"row": row, "column": f"c{n}", "seed": seed, "value": value, "command": f"train {row}"}
        for row, columns in scores.items()
        for n, seeds in enumerate(columns)
        for seed, value in enumerate(seeds)
    ]
    file.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    assert main(["report", str(file)]) == 0
    text = (tmp_path / "board.html").read_text()
    assert re.findall(r'<h2 id="(\w+)"', text) == ["board", "tests", "commands"]
    assert "61.0 ± 1.4" in text and "soft minus lora" in text and "-4.167" in text
    assert main(["report", str(file), str(tmp_path), "--output=x.html"]) == 2
    file.write_text('{"row": 1}\n')
    assert main(["report", str(file)]) == 2
    assert "board.jsonl:1: is not a cell of a board" in capsys.readouterr().err


def test_the_members_of_a_farm_are_listed_with_what_became_of_them(tmp_path, capsys):
    write_run(tmp_path / "farm" / "members" / "a")
    row = {"name": "a", "settings": {"LEARNING_RATE": 0.3}, "status": "halved at step 20"}
    row |= {"step": 20, "metric": "accuracy", "best": 41.5, "best_step": 20}
    (tmp_path / "farm" / "farm.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["report", str(tmp_path / "farm")]) == 0
    text = (tmp_path / "farm" / "report.html").read_text()
    assert "halved at step 20" in text and "best accuracy" in text and "LEARNING_RATE" in text
    (tmp_path / "farm" / "farm.jsonl").write_text(json.dumps(row) + '\n{"name": "b"}\n')
    assert main(["report", str(tmp_path / "farm")]) == 2
    assert "farm.jsonl:2: is not a member of a farm: it needs name, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}"], "holds no run; give the --model_dir of one"),
        (["{folder}", "{folder}"], "2 folders: give --output=FILE.html"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    given = [argument.format(folder=tmp_path) for argument in arguments]
    assert main(["report", *given]) == 2
    assert message in capsys.readouterr().err


def test_seeds_are_one_group_and_methods_are_two(folders):
    soft, lora = grouped(folders)
    assert (soft.label, [run.seed for run in soft.runs]) == ("soft", [0, 1, 2])
    assert differing([soft, lora]) == [("Train.method", ["@SoftPrompt()", "@Lora()"])]


def test_members_of_a_farm_are_groups_by_their_settings(tmp_path):
    for name, method in (("a", "SoftPrompt"), ("b", "Lora")):
        write_run(tmp_path / "farm" / "members" / name, method=method)
    found = [group.label for group in grouped([str(tmp_path / "farm")])]
    assert found == ["farm/a", "farm/b"]
    assert len(find_runs(str(tmp_path / "farm"))) == 2


def test_curves_are_means_with_bands(folders):
    groups = grouped(folders)
    drawn = {chart["title"]: chart for chart in charts.charts(groups, ["accuracy"])}
    curve = drawn["accuracy"]["series"][0]
    values = [run.evaluations[-1]["accuracy"] for run in groups[0].runs]
    assert drawn["accuracy"]["x"] == [0, 20, 40, 60]
    assert (curve["low"][-1], curve["high"][-1]) == (min(values), max(values))
    assert curve["y"][-1] == pytest.approx(np.mean(values))
    assert drawn["Training loss"]["log"] and drawn["Throughput"]["machine"]


def test_a_long_run_is_thinned_to_its_ends():
    steps = charts.thinned(list(range(0, 100_000, 10)))
    assert len(steps) == charts.MOST_POINTS and (steps[0], steps[-1]) == (0, 99_990)


def test_paired_tests_agree_with_scipy_and_with_equal_runs(folders):
    from scipy import stats

    soft, lora = grouped(folders)
    (pair,) = compare.tests([soft, lora], "accuracy")
    x, y = (group.values("accuracy") for group in (soft, lora))
    assert pair["seeds"]["p"] == pytest.approx(stats.ttest_rel(x, y).pvalue)
    assert pair["seeds"]["difference"] == pytest.approx(np.mean(x) - np.mean(y))
    assert pair["examples"]["n"] == 120 and pair["examples"]["difference"] < 0
    (same,) = compare.tests([soft, soft], "accuracy")
    assert same["seeds"]["difference"] == 0 and same["examples"]["p"] == 1


def test_confusion_counts_what_is_no_label():
    pairs = [("joy", "joy"), ("joy", "fear"), ("fear", "dunno"), ("fear", "fear")]
    rows = [{"targets": target, "prediction": said} for target, said in pairs]
    table = compare.confusion(rows, ["joy", "fear"])
    assert table.tolist() == [[1, 1, 0], [0, 1, 1]]
    joy, fear = compare.by_label(table, ["joy", "fear"])
    assert (joy["precision"], joy["recall"]) == (100, 50)
    assert (fear["precision"], fear["recall"], fear["rows"]) == (50, 50, 2)
    assert [compare.verdict(row, set(LABELS)) for row in rows] == [
        "right",
        "wrong",
        "not a label",
        "right",
    ]


PROBE = """<script>
document.querySelector('button[data-kind="wrong"]').click();
const wrong = [...document.querySelectorAll(".examples tbody tr")].filter((r) => !r.hidden);
document.body.dataset.wrong = wrong.length + " " + new Set(wrong.map((r) => r.dataset.kind)).size;
document.body.dataset.wide = String(document.documentElement.scrollWidth > innerWidth);
document.body.dataset.canvases = String(document.querySelectorAll("canvas").length);
document.body.dataset.requests = performance.getEntriesByType("resource").map((r) => r.name).join();
</script>"""


def test_a_runs_facts_are_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    folder = epath.Path(tmp_path)
    (folder / "facts.json").write_text('{"commands": ["one"]}')
    backbone = SimpleNamespace(vocabulary=None, config=SIZES["nano"])
    none: Any = None
    report = Report("two")
    report.start(Opened(none, folder, 0, "", [{"step": 1}], print, backbone, {}, dict))

    def full(self, text):
        self.write_bytes(text.encode()[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(folder), "write_text", full)
    report.finished()
    assert "report.html is not written: OSError" in capsys.readouterr().out
    assert json.loads((folder / "facts.json").read_text()) == {"commands": ["one"]}


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_chromium_draws_it_without_an_error_or_a_request(page, tmp_path, width):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install Debian's chromium"
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=2000"]
    command += [f"--window-size={width},900", "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    body = re.search(r"<body ([^>]*)>", done.stdout)[1]
    assert re.search(r'data-wrong="[1-9]\d* 1"', body), body
    assert 'data-wide="false"' in body, "the page is wider than the screen"
    assert 'data-canvases="10"' in body
    assert 'data-requests=""' in body
    assert json.loads(re.search(r'id="charts">(.*?)</script>', page.read_text())[1])


@pytest.mark.slow
def test_a_run_that_trains_the_model_has_its_page(tiny, tmp_path, capsys):
    argv = ["train", f"--gin_file={tiny}/run.gin", f"--model_dir={tmp_path}/run"]
    assert main([*argv, "--gin.Train.method=@FullTuning()", "--gin.Backbone.dtype='float32'"]) == 0
    assert "is not written" not in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").is_file()
