# ruff: noqa: RUF001
"""Text that would become other text: stand-ins, quoting, prefixes, marks, padding, fewer rows."""

import gzip

import pyarrow
import pytest
from pyarrow import parquet

from prompt_jax import textfiles
from prompt_jax.backbone.formats.files import SafeTensors, read_json
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.cli.main import main
from prompt_jax.cli.task_check import check_task
from prompt_jax.contents import read_bytes, read_lines
from prompt_jax.errors import UserError
from prompt_jax.jsonl import read_jsonl
from prompt_jax.metrics.generation import bleu_intl, bleu_of, bleu_signatures
from prompt_jax.prompt.artefact import load_prompt
from prompt_jax.tasks import text, text2text, xtreme_forms
from prompt_jax.tasks.layouts import (
    CONLLU,
    SQUAD,
    TAGGED,
    TSV,
    comma_separated,
    named_tags,
    quoted,
    without_header,
)
from prompt_jax.tasks.questions import answer_of_context

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
ROW = b'{"inputs": "a", "targets": "b"}\n'
MARK = b"\xef\xbb\xbf"


def records(layout, content):
    return [r for _, unit in layout.units(content) for r in layout.records(unit, ())]


@pytest.fixture
def xtreme(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_JAX_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("PROMPT_JAX_ALLOW_DOWNLOAD", raising=False)
    return tmp_path / "xtreme"


def test_pointers_of_git_lfs_are_no_data(tmp_path, xtreme):
    for name in ("p.jsonl", "p.parquet"):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(UserError, match=rf"{name}: a pointer of Git LFS.*git lfs pull"):
            read_jsonl(str(tmp_path / name))
    (xtreme / "tatoeba").mkdir(parents=True)
    for side in ("deu", "eng"):
        (xtreme / "tatoeba" / f"tatoeba.deu-eng.{side}").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"deu-eng\.deu: a pointer of Git LFS"):
        text.load_examples("xtreme_tatoeba_de", "test")


def test_pointers_in_place_of_weights_and_vocabularies(tmp_path):
    def refused(name, read):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(UserError, match=rf"{name}: a pointer of Git LFS.*git lfs pull"):
            read(tmp_path / name)

    refused("model.safetensors", SafeTensors)
    refused("config.json", read_json)
    refused("spiece.model", lambda path: Vocabulary.from_file(str(path)))
    refused("tokenizer.json", lambda path: Vocabulary.from_file(str(path)))
    refused("prompt.npy", lambda path: load_prompt(str(path)))
    refused("corpus.txt", lambda path: list(textfiles.read_lines(path)))


def test_plain_text_is_read_packed_and_without_a_mark(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(MARK + b"one \r\ntwo\n"))
    assert list(textfiles.read_lines(tmp_path / "a.txt.gz")) == ["one", "two"]
    (tmp_path / "b.txt").write_bytes(b"one\n\xff\n")
    with pytest.raises(UserError, match=r"b\.txt:2: not UTF-8"):
        list(textfiles.read_lines(tmp_path / "b.txt"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_marks_are_dropped_and_gzip_is_known_by_its_bytes(tmp_path, pack):
    path = tmp_path / "x.jsonl"
    path.write_bytes(pack(MARK + ROW.replace(b"\n", b"\r\n") * 2))
    assert read_jsonl(str(path)) == [{"inputs": "a", "targets": "b"}] * 2
    assert b"".join(read_lines(path)) == read_bytes(path)
    path.write_bytes(gzip.compress(ROW * 900)[:-9])
    with pytest.raises(UserError, match=r"x\.jsonl: cut short; copy it again"):
        read_jsonl(str(path))
    path.write_bytes("x".encode("utf-16"))
    with pytest.raises(UserError, match=r"x\.jsonl: UTF-16; save the file as UTF-8"):
        read_jsonl(str(path))


@pytest.mark.parametrize(
    ("layout", "content", "key", "value"),
    [
        (TAGGED, b"Marie\tB-PER\n", "words", ["Marie"]),
        (CONLLU, b"1\tCe\tce\tPRON\t_\t_\t_\t_\t_\t_\n", "words", ["Ce"]),
        (comma_separated(), b"label,title\n1,x\n", "label", "1"),
        (TSV, b"label\ttitle\n1\tx\n", "label", "1"),
        (
            SQUAD,
            b'{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "i", "question": "q",'
            b'"answers": []}]}]}]}',
            "context",
            "c",
        ),
    ],
)
def test_every_reader_drops_a_mark(tmp_path, layout, content, key, value):
    (tmp_path / "f").write_bytes(MARK + content)
    (record,) = records(layout, read_bytes(tmp_path / "f"))
    assert record[key] == value


def test_binary_columns_of_parquet_are_text_or_refused(tmp_path):
    path = str(tmp_path / "b.parquet")
    parquet.write_table(
        pyarrow.table({"inputs": [b"a", "ä".encode()], "targets": [b"x"] * 2}), path
    )
    assert [row["inputs"] for row in read_jsonl(path)] == ["a", "ä"]
    parquet.write_table(pyarrow.table({"inputs": ["a"], "targets": [b"\xff"]}), path)
    with pytest.raises(UserError, match=r"b\.parquet:1: the binary column 'targets' is not UTF-8"):
        read_jsonl(path)
    days = pyarrow.array([1], pyarrow.date32())
    parquet.write_table(pyarrow.table({"inputs": days, "targets": ["x"]}), path)
    with pytest.raises(UserError, match=r"b\.parquet:1: 'inputs' is a date, not a string"):
        read_jsonl(path)


def test_withheld_sentences_are_left_out(xtreme):
    rows = [("_", "_"), ("_", "x"), ("x\u200cy", "1 000"), ("_", "x", "y")]
    lines = [
        "".join(f"{n}\t{word}" + "\t_\tNOUN" + "\t_" * 6 + "\n" for n, word in enumerate(row, 1))
        for row in rows
    ]
    found = [record["words"] for record in records(CONLLU, "\n".join(lines).encode())]
    assert found == [["xy", "1000"], ["_", "x", "y"]]
    bank = xtreme.parent / "ud-treebanks-v2.5" / "UD_French-FTB"
    bank.mkdir(parents=True)
    (bank / "fr_ftb-ud-dev.conllu").write_text(lines[0])
    with pytest.raises(UserError, match=r"fr_ftb-ud-dev\.conllu: none of its 1 entries is a row"):
        text.load_examples("xtreme_udpos_fr", "validation")


def test_prefixes_of_wikiann_are_cut(xtreme):
    (xtreme / "panx").mkdir(parents=True)
    (xtreme / "panx" / "dev-en.tsv").write_text("en:Marie\tB-PER\nen::\tO\n\nen:x\tO\ny\tO\n")
    rows = text.load_examples("xtreme_panx_en", "validation")["xtreme_panx_en"]
    assert [row["inputs"] for row in rows] == ["tag: Marie :", "tag: en:x y"]
    assert rows[0]["targets"] == "PER: Marie"
    assert records(named_tags("de:"), b"en:x\tO\n")[0]["words"] == ["en:x"]


@pytest.mark.parametrize(
    ("times", "cell", "text"),
    [
        (1, '"the ""inner"" words"', 'the "inner" words'),
        (1, 'said "so" twice', 'said "so" twice'),
        (1, '"so" he said', '"so" he said'),
        (1, '""', ""),
        (1, '"""so"" he said"', '"so" he said'),
        (2, '"""the """"inner"""" words"""', 'the "inner" words'),
        (2, '"the ""inner"" words"', 'the "inner" words'),
    ],
)
def test_quoted_cells_are_the_text_that_was_quoted(times, cell, text):
    layout = quoted(without_header("one", "label"), times)
    rows = records(layout, f"plain\t0\n{cell}\t1\n".encode())
    assert [row["one"] for row in rows] == ["plain", text]


def test_pawsx_is_the_same_from_either_file(xtreme):
    official, prepared = xtreme / "pawsx/x-final/de", xtreme / "pawsx"
    official.mkdir(parents=True)
    (official / "dev_2k.tsv").write_text('id\tsentence1\tsentence2\tlabel\n7\ta\t"b ""c"""\t1\n')
    rows = text.load_examples("xtreme_pawsx_de", "validation")["xtreme_pawsx_de"]
    assert rows[0]["inputs"] == 'paws sentence1: a sentence2: b "c"'
    (prepared / "dev-de.tsv").write_text('a\t"""b """"c"""""""\t1\n')
    assert text.load_examples("xtreme_pawsx_de", "validation")["xtreme_pawsx_de"] == rows


CONTEXTS = (
    ("zh", "他说：“3，500人（约）”。", ["3，500人", "约", "“3，500人（约）”", "“3，50", "0人（约"]),
    ("en", "It's $3,500.50 (approx.) for the U.S. 'A-B'.", ["$3,500.50 (approx.)", "U.S."]),
    ("ar", "قال: «٣٫٥٠٠» شخص، نعم.", ["«٣٫٥٠٠»", "شخص، نعم."]),
)


@pytest.mark.parametrize("pad", [xtreme_forms.pad_punctuation, text2text.pad_punctuation])
@pytest.mark.parametrize(("language", "context", "answers"), CONTEXTS)
def test_answers_are_scored_as_their_context_has_them(pad, language, context, answers):
    post = answer_of_context(pad)
    example = {"context": context, "answers": answers}
    assert post("any", example=example, is_target=True) == answers
    for answer in answers:
        assert post(pad(answer), example=example) == answer
    assert post("3 , 500 nowhere", {"context": "a 3,500 b", "answers": []}) == "3,500 nowhere"
    assert post("3 , 5000", {"context": "a 3,500 b", "answers": []}) == "3, 5000"
    assert post("", example) == ""


def test_marks_that_sentencepiece_rewrites_are_the_contexts():
    post = answer_of_context(xtreme_forms.pad_punctuation)
    example = {"context": "人（约）", "answers": []}
    assert post("( 约 )", example) == "（约）"
    assert post("(约)", example) == "(约)"  # one word, which is not there


def test_fewer_rows_than_published_are_said(xtreme, capsys):
    (xtreme / "tatoeba").mkdir(parents=True)
    for side in ("deu", "eng"):
        (xtreme / "tatoeba" / f"tatoeba.deu-eng.{side}").write_text("one\ntwo\nthree\n")
    (split,) = check_task("xtreme_tatoeba_de")["splits"]
    assert split["named"] == ["xtreme_tatoeba_de test: 3 of 1000 published rows"]
    (xtreme / "panx").mkdir()
    (xtreme / "panx" / "dev-en.tsv").write_text("Marie\tB-PER\nCurie\tI-PER\n")
    checked = check_task("xtreme_panx_token_en")["splits"][0]
    assert checked["named"] == ["xtreme_panx_token_en validation: 1 of 10000 published rows"]
    assert main(["tasks", "check", "xtreme_tatoeba_de"]) == 0
    assert "3 of 1000 published rows" in capsys.readouterr().out


def test_both_bleus_are_offered_and_named():
    pair = (["l’été, à 3.5 € — oui"], ["l’été , à 3.5 € — non"])
    assert bleu_intl(*pair)["bleu_intl"] == bleu_of("intl")(*pair)["bleu"]
    signed = bleu_signatures(["rouge1", "bleu_intl", "bleu"], references=2)
    assert list(signed) == ["bleu", "bleu_intl"]
    assert "tok:intl" in signed["bleu_intl"] and signed["bleu"].startswith("nrefs:2|")
