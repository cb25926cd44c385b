"""Our vocabularies give the ids of transformers' tokenizers."""

import lzma
import re
import shutil

import pytest

from prompt_jax.backbone.vocabulary import Vocabulary

pytestmark = pytest.mark.parity
LINES = [
    "The quick brown fox jumps over the lazy dog; it's 12:45, isn't it?",
    "Das Mädchen fährt übers Wochenende mit 3,5 km/h nach Köln.",
    "L'été dernier, nous étions déjà à Besançon : « c'est où ? »",
    "Într-o zi, copiii și țăranii mergeau în pădure.",
    "Привет, мир! 日本語のテキスト 한국어 العربية",
    "ﬁnal ½ ① \uff46\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44\uff45 e\u0301",
    "  spaces   before, between and after \t",
    "x_1 = {a: [1, 2]} <b>tag</b> 100% #hash 🙂",
    "",
]
# Each followed by a space: where text is glued to a sentinel, as in "<extra_id_0>,", transformers 5
# puts a space between them, and SeqIO, whose ids ours are, does not.
SENTINELS = [
    "<extra_id_0> at the start",
    "a gap <extra_id_0> and another <extra_id_1> here",
    "at the end <extra_id_99>",
    "<extra_id_0> Zeit <extra_id_1> für <extra_id_2>",
]


@pytest.fixture(scope="module")
def t5(shared, tmp_path_factory):
    """T5's vocabulary, read by us and by transformers."""
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(shared / "data" / "spm" / "t5.spiece.model", folder / "spiece.model")
    ours = Vocabulary.from_file(str(folder / "spiece.model"))
    return ours, T5Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("line", LINES + SENTINELS)
def test_t5s_ids_are_those_of_transformers(t5, line):
    ours, theirs = t5
    assert [*ours.encode(line), ours.eos_id] == theirs(line).input_ids


def test_t5s_sentinels_are_those_of_transformers(t5):
    ours, theirs = t5
    names = [f"<extra_id_{number}>" for number in range(100)]
    assert [ours.sentinel(n) for n in range(100)] == theirs.convert_tokens_to_ids(names)
    assert ours.size == len(theirs)


@pytest.mark.parametrize("line", LINES[:4])
def test_t5s_text_is_that_of_transformers(t5, line):
    ours, theirs = t5
    ids = theirs(line).input_ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("line", LINES)
def test_bytes_are_those_of_byt5(line):
    from transformers import ByT5Tokenizer

    ours, theirs = Vocabulary.bytes(), ByT5Tokenizer()
    ids = theirs(line).input_ids
    assert [*ours.encode(line), ours.eos_id] == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


# A thousand lines of real text

LANGUAGES = (
    "ar",
    "de",
    "el",
    "en",
    "es",
    "fr",
    "hi",
    "ja",
    "ko",
    "ru",
    "sw",
    "th",
    "tr",
    "vi",
    "zh",
)


@pytest.fixture(scope="module")
def corpus(shared) -> list[str]:
    """1,005 lines in 15 languages, spread over each file; every third has sentinels among words."""
    lines = []
    for language in LANGUAGES:
        with lzma.open(shared / "data" / "corpus" / "multi" / language / "ntrex.txt.xz", "rt") as f:
            text = [line.strip() for line in f if line.strip()]
        lines += text[:: len(text) // 67][:67]
    for i in range(0, len(lines), 3):
        words = lines[i].split(" ")
        words.insert(len(words) // 2, f"<extra_id_{i % 100}>")
        lines[i] = " ".join([*words, f"<extra_id_{(i + 1) % 100}>"])
    assert len(lines) == 1005
    return lines


def test_t5s_ids_of_a_thousand_lines(t5, corpus):
    ours, theirs = t5
    expected = theirs(corpus).input_ids
    assert sum(len(ids) for ids in expected) > 30_000
    different = [
        line
        for line, ids in zip(corpus, expected, strict=True)
        if [*ours.encode(line), ours.eos_id] != ids
    ]
    assert different == []


def test_bytes_of_a_thousand_lines(corpus):
    """Without the sentinels, which transformers adds after the bytes: ids 259 and up."""
    from transformers import ByT5Tokenizer

    ours, theirs = Vocabulary.bytes(), ByT5Tokenizer()
    plain = [re.sub(r"<extra_id_\d+>", "", line) for line in corpus]
    expected = theirs(plain).input_ids
    assert [[*ours.encode(line), ours.eos_id] for line in plain] == expected
    assert [ours.decode(ids) for ids in expected] == theirs.batch_decode(
        expected, skip_special_tokens=True
    )
