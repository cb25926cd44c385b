"""Tokenizers that transformers saves: their ids are those of AutoTokenizer."""

import lzma
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prompt_jax.backbone.convert import convert
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


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json: no tokenizer \(.*\); give the"):
        Vocabulary.from_file(str(path))
