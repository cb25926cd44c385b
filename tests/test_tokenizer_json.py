"""Tokenizers that transformers saves: their ids are those of AutoTokenizer."""

import json
import lzma
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prompt_jax.backbone.convert import convert
from prompt_jax.backbone.formats.hf_tokenizer import CONFIG, with_bytes
from prompt_jax.backbone.load import load_backbone, open_checkpoint
from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError

NANO = Path(__file__).parents[1] / "prompt_jax" / "backbones" / "nano"
ODD = ["", "  two  spaces ", "an {x} <ORG> b", "x<extra_id_0>y <extra_id_99>", "Zürich 日本語\t🙂"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nano's tokenizer as transformers saves it: tokenizer.json, no spiece.model."""
    source = tmp_path_factory.mktemp("source")
    shutil.copy(NANO / "spiece.model", source)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (source / "config.json").write_text('{"model_type": "t5"}')
    folder = tmp_path_factory.mktemp("saved")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    assert not (folder / "spiece.model").exists()
    return folder


@pytest.fixture
def added(tmp_path: Path, shared: Path) -> Path:
    """A folder of transformers 4 with three tokens added to nano's vocabulary."""
    folder = tmp_path / "added"
    shutil.copytree(shared / "cases" / "added_tokens", folder)
    shutil.copy(NANO / "spiece.model", folder)
    return folder


def assert_same_ids(vocabulary: Vocabulary, folder: Path, texts: list[str]) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        assert vocabulary.encode(text) == theirs(text, add_special_tokens=False).input_ids, text


def test_a_tokenizer_json_gives_the_ids_of_transformers(saved: Path) -> None:
    vocabulary = Vocabulary.from_file(str(saved / "tokenizer.json"))
    assert_same_ids(vocabulary, saved, ODD)
    assert vocabulary.size == len(AutoTokenizer.from_pretrained(saved))
    first = vocabulary.sentinel(0)
    assert vocabulary.pieces([first, 1, vocabulary.size + 5]) == ["<extra_id_0>", "</s>", "<unk>"]
    assert vocabulary.decode([*vocabulary.encode("a red fox"), 1, 7]) == "a red fox"
    with pytest.raises(UserError, match="has no <extra_id_100>; it has 100 of them"):
        vocabulary.sentinel(100)


def test_a_thousand_lines_in_ten_languages(saved: Path, shared: Path) -> None:
    files = sorted((shared / "data" / "corpus").rglob("*.xz"))
    languages = {file.parent: file for file in files}
    assert len(languages) >= 10
    texts = []
    for file in list(languages.values())[:12]:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            texts += [line.strip() for line, _ in zip(lines, range(100), strict=False)]
    assert len(texts) >= 1000
    vocabulary = Vocabulary.from_file(str(saved / "tokenizer.json"))
    assert_same_ids(vocabulary, saved, texts)
    whole = saved / "whole"  # with bytes, as it is written for transformers
    whole.mkdir()
    (whole / "tokenizer.json").write_text(with_bytes((NANO / "spiece.model").read_bytes()) or "")
    (whole / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    plain = [text for text in texts if "<unk>" not in text]  # which transformers takes as one token
    assert len(plain) >= 1000
    assert_same_ids(Vocabulary.from_file(str(NANO / "spiece.model")), whole, plain)


def test_tokens_that_were_added_are_read(added: Path) -> None:
    backbone = load_backbone(f"hf:{added}", "float32")
    assert backbone.vocabulary is not None
    assert_same_ids(backbone.vocabulary, added, ODD)
    assert [i for i in backbone.vocabulary.encode(ODD[2]) if i >= 8100] == [8101, 8102, 8100]


@pytest.mark.parametrize("layout", ["files", "orbax", "t5x", "hf"])
def test_the_tokenizer_goes_along_when_a_backbone_is_converted(
    added: Path, tmp_path: Path, layout: str
) -> None:
    output = tmp_path / ("checkpoint_1" if layout == "t5x" else "output")
    convert(f"hf:{added}", layout, str(output))
    again = load_backbone(f"{layout}:{output}", "float32")
    assert again.vocabulary is not None
    assert again.vocabulary.encode(ODD[2]) == load_backbone(f"hf:{added}").vocabulary.encode(ODD[2])


def test_a_folder_of_transformers_5_brings_its_tokenizer(shared: Path) -> None:
    folder = shared / "cases" / "transformers5_folder"
    assert open_checkpoint(f"hf:{folder}").vocabulary == str(folder / "tokenizer.json")
    backbone = load_backbone(f"hf:{folder}")
    assert backbone.vocabulary is not None
    assert_same_ids(backbone.vocabulary, folder, ODD)


def test_bytes_stay_bytes_for_transformers(tmp_path: Path) -> None:
    """Its T5Tokenizer has no bytes; a converted folder is read with the ids of the prompts."""
    convert("nano", "hf", str(tmp_path / "nano"))
    again = open_checkpoint(f"hf:{tmp_path / 'nano'}")
    assert again.vocabulary == str(tmp_path / "nano" / "spiece.model")
    vocabulary = Vocabulary.from_file(again.vocabulary)
    texts = [*ODD, "\u00bd \u2026 \ufe5b 1\u2044 2", "\U0001f469\u200d\U0001f467 \ufb01n", "a\nb"]
    assert_same_ids(vocabulary, tmp_path / "nano", texts)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "nano")
    ids = theirs("Zürich 🙂").input_ids
    assert ids[-1] == theirs.eos_token_id == 1 and theirs.pad_token_id == 0
    assert theirs.decode(ids, skip_special_tokens=True) == vocabulary.decode(ids) == "Zürich 🙂"


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json: no tokenizer \(.*\); give the"):
        Vocabulary.from_file(str(path))
