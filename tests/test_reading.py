"""What is damaged or odd in users' files comes out as one line: the file, the line, a remedy."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prompt_jax.answer.output import Output
from prompt_jax.cli.main import main
from prompt_jax.cli.options import use_stop_signals
from prompt_jax.data import token_cache
from prompt_jax.errors import RunError, Setting, UserError, reading
from prompt_jax.export import npy
from prompt_jax.hosts import meet
from prompt_jax.jsonl import read_jsonl
from prompt_jax.run.log import read_metrics
from prompt_jax.tasks.text import load_examples

ENTRY = {"premise": "p", "hypothesis": "h", "label": "entailment"}


def test_one_rule_composes_the_line():
    assert str(UserError("f.txt", "no rows", "write some")) == "f.txt: no rows; write some"
    setting = UserError(Setting("Data", "task", "t" * 100), remedy="give another")
    assert str(setting) == f"Data.task = '{'t' * 76}...: give another"
    assert (str(UserError("f.txt", "no rows")), UserError("a", "b", "c").fault) == (
        "f.txt: no rows",
        "a: b",
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TypeError("odd"), "TypeError: odd"),
        (EOFError("of gzip"), "cut short"),
        (KeyError("idx"), "no field 'idx'"),
        (RecursionError("deep"), "nested too deeply"),
        (ValueError("label 3"), "label 3"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "not UTF-8 at byte 0"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_the_frame_names_file_line_and_remedy(error, text):
    with pytest.raises(UserError) as caught, reading("f.jsonl", "copy it again") as place:
        place.line = 7
        raise error
    assert str(caught.value) == f"f.jsonl:7: {text}; copy it again"


@pytest.mark.parametrize("error", [UserError("x"), RunError("x"), MemoryError(), EOFError])
def test_what_the_frame_leaves_alone(error):
    kept = UserError if error is EOFError else type(error)
    with pytest.raises(kept), reading("f"):
        raise error


def refusal(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_truncated_gzip_is_not_an_interrupt(tmp_path: Path, capsys):
    path = tmp_path / "superglue" / "CB" / "val.jsonl.gz"
    path.parent.mkdir(parents=True)
    rows = "".join(json.dumps({**ENTRY, "idx": i}) + "\n" for i in range(500))
    path.write_bytes(gzip.compress(rows.encode())[:-40])
    show = ("tasks", "show", "super_glue_cb", "--split=validation", f"--data_dir={tmp_path}")
    assert f"{path}: cut short; get the file again from https://" in refusal(capsys, *show)


ODD = {
    "cb null": ("super_glue_cb", "CB", {**ENTRY, "idx": None}),
    "cb object": ("super_glue_cb", "CB", {**ENTRY, "idx": {"a": 1}}),
    "wsc null": ("super_glue_wsc", "WSC", {"text": None, "target": None, "idx": 0}),
    "record null": (
        "super_glue_record",
        "ReCoRD",
        {"passage": {"text": "t", "entities": []}, "qas": [{"query": "q", "answers": None}]},
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_fields_of_another_type_name_file_and_line(tmp_path: Path, capsys, case: str):
    task, folder, row = ODD[case]
    path = tmp_path / "superglue" / folder / "val.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(row) + "\n")
    show = ("tasks", "show", task, "--split=validation", f"--data_dir={tmp_path}")
    assert f"{path}:1: " in refusal(capsys, *show)


def test_deep_json_names_its_line(tmp_path: Path, capsys):
    path = tmp_path / "deep.train.jsonl"
    path.write_text('{"inputs": "a", "targets": "b"}\n' + "[" * 200_000 + "\n")
    assert f"{path}:2: nested too deeply; " in refusal(capsys, "tasks", "show", str(path))


ROW = b'{"inputs": "a", "targets": "b"}\n'
TABLE = b"inputs,targets\na,b\n"
NOT_TEXT = {
    "packed.jsonl.gz": (gzip.compress(ROW) + b"more", ": Not a gzipped file .*; copy it again"),
    "crc.jsonl.gz": (gzip.compress(ROW)[:-8] + bytes(8), ": CRC check failed .*; copy it again"),
    "sheet.csv": (b"PK\x03\x04", ": a zip file, as Excel .*; save it as CSV in UTF-8"),
    "packed.jsonl": (b"\xfd7zXZ\x00", ": packed by xz, not text; unpack it"),
    "wide.tsv": (TABLE.decode().encode("utf-32"), ": UTF-32; save the file as UTF-8"),
    "hole.csv": (TABLE + b"\0\0,c\n", ":3: holds a zero byte; save the file as text"),
    "hole.jsonl": (ROW + b"\0\0\n" + ROW, ":2: holds a zero byte; save the file as text"),
    "twice.jsonl": (b'{"inputs": "a", "inputs": "c", "targets": "b"}', ":1: has 'inputs' twice"),
    "digits.jsonl": (b'{"inputs": "a", "n": ' + b"9" * 5000 + b"}", ":1: a number of thousands"),
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_rows_that_are_not_text_name_file_and_cause(tmp_path: Path, name: str):
    content, line = NOT_TEXT[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name) + line):
        read_jsonl(str(tmp_path / name))
    with pytest.raises(UserError, match=re.escape(name) + line):
        load_examples(str(tmp_path / name), "train")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_is_read_whatever_the_file_is_called(tmp_path: Path, indent: int | None):
    rows = [{"inputs": "a", "targets": "b"}, {"inputs": "c", "targets": "d"}]
    (tmp_path / "list.jsonl").write_text(json.dumps(rows, indent=indent))
    assert read_jsonl(str(tmp_path / "list.jsonl")) == rows


def test_what_is_no_file_of_rows_is_named(tmp_path: Path):
    (tmp_path / "d.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "sheet.xlsx").write_bytes(b"PK")
    lines = {
        "d.csv": "a folder without files of rows; it wants",
        "link.csv": "a link that leads nowhere",
        "pipe.csv": "a pipe or a device, not a file; write it to a file first",
        "sheet.xlsx": "a file of a kind that is not read; give .jsonl, .ndjson, .csv",
    }
    for name, line in lines.items():
        with pytest.raises(UserError, match=f"{name}: {line}"):
            load_examples(str(tmp_path / name), "train")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "rows.jsonl").write_bytes(ROW)
    asked = ("eval", "--backbone=nano", "--task=vader_polarity", "--split=validation")
    for below in (".", "file/p.jsonl"):
        line = refusal(capsys, *asked, f"--predictions={tmp_path}/{below}")
        assert f"--predictions={tmp_path}/{below}: cannot be written (" in line
        with pytest.raises(UserError, match=r"--output=.*: cannot be written \("):
            Output(f"{tmp_path}/{below}", {}, "--output").__enter__()


def test_a_damaged_log_names_its_line(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "kind": "eval"}\n\0\0{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: .*; remove that line"):
        read_metrics(tmp_path)


def program(*arguments: str, env: dict[str, str], stdout=subprocess.PIPE) -> subprocess.Popen:
    command = [sys.executable, "-m", "prompt_jax", *arguments]
    return subprocess.Popen(
        command, env=os.environ | env, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_locale_of_ascii_shows_any_text(tmp_path: Path):
    path = tmp_path / "uni.train.jsonl"
    rows = [{"inputs": f"größe 漢字 {i}", "targets": "b"} for i in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    started = program("tasks", "show", str(path), env=ascii_only)
    out, err = started.communicate()
    assert (started.returncode, "prompt-jax: error" in err) == (0, False) and "größe" in out


@pytest.mark.slow
def test_head_may_close_the_pipe():
    with program("tasks", "list", "--json", env={}) as started:
        assert started.stdout is not None and started.stderr is not None
        started.stdout.readline()
        started.stdout.close()
        said = started.stderr.read()
        assert "prompt-jax: error" not in said and "BrokenPipe" not in said
    assert started.returncode == 0


STEP = {"SLURM_STEP_NODELIST": "node01", "SLURM_JOB_ID": "1"}


@pytest.mark.parametrize(
    ("flags", "environ", "line"),
    [
        ((None,) * 3, STEP | {"SLURM_NTASKS": ""}, "SLURM_NTASKS: '' is not a whole number"),
        ((None,) * 3, STEP | {"SLURM_NTASKS": "4(x2)"}, "SLURM_NTASKS: '4(x2)' is not a whole"),
        ((None,) * 3, STEP | {"SLURM_NTASKS": "2"}, "SLURM_PROCID: is not set; give --coord"),
        ((None,) * 3, {"OMPI_COMM_WORLD_SIZE": ""}, "OMPI_COMM_WORLD_SIZE: '' is not a whole"),
        (("h:1", 2, None), {"SLURM_PROCID": "x"}, "SLURM_PROCID: 'x' is not a whole number"),
    ],
)
def test_odd_variables_of_a_scheduler_are_named(flags, environ, line):
    with pytest.raises(UserError) as caught:
        meet.find(*flags, environ=environ)
    assert str(caught.value).startswith(line)


def test_without_a_temporary_folder_tokens_are_made_anew(monkeypatch):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert token_cache.folder() is None


def test_a_npy_of_bfloat16_is_refused(tmp_path: Path):
    np.save(tmp_path / "p.npy", np.zeros((4, 8), np.dtype("V2")))
    with pytest.raises(UserError, match=r"how numpy writes bfloat16; save it as float32"):
        npy.read(str(tmp_path / "p.npy"))


def test_a_npy_of_the_other_byte_order_is_read_and_an_empty_one_named(tmp_path: Path):
    rows = np.arange(8.0).reshape(2, 4)
    np.save(tmp_path / "p.npy", rows.astype(">f4"))
    array = npy.read(str(tmp_path / "p.npy")).array
    assert array.dtype.isnative and (array == rows).all()
    (tmp_path / "p.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"p\.npy': cannot be read as \.npy"):
        npy.read(str(tmp_path / "p.npy"))


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_signal_of_the_scheduler_stops_as_sigterm_does(name):
    number = signal.Signals[f"SIG{name}"]
    seen = []
    before = (
        signal.signal(signal.SIGTERM, lambda got, _: seen.append(got)),
        signal.getsignal(number),
    )
    try:
        use_stop_signals([name])
        signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(number, before[1])
    assert seen == [signal.SIGTERM]


def test_an_unknown_stop_signal_is_refused():
    with pytest.raises(UserError, match="--stop_signal=KILL: give USR1 or USR2"):
        use_stop_signals(["KILL"])
