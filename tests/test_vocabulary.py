"""Vocabularies: SentencePiece with T5's sentinels, and ByT5's bytes."""

import hashlib
import io

import pytest
import sentencepiece

from prompt_jax.backbone.vocabulary import Vocabulary
from prompt_jax.errors import UserError

LINES = [
    "Hello world, it's <extra_id_0> fine.",
    "  two  spaces and émigré ½ ",
    "<extra_id_3> a <extra_id_99>",
    "",
    "日本 text",
]


def train(path, **options):
    """A SentencePiece model of a few dozen pieces, written to `path`."""
    settings = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 40, **options}
    text = iter(["the cat sat on the mat", "a dog ate the red apple", "we met at ten"] * 20)
    with io.BytesIO() as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=text,
            model_writer=model,
            hard_vocab_limit=False,
            minloglevel=2,
            **settings,
        )
        path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Vocabulary:
    return Vocabulary.from_file(train(tmp_path_factory.mktemp("spm") / "small.model"))


def test_text_survives_the_way_to_ids_and_back(small):
    text = "the cat ate <extra_id_0> red <extra_id_12>"
    assert small.decode([*small.encode(text), small.eos_id, 5, 6]) == text
    assert small.decode([0, *small.encode("a mat"), 0]) == "a mat"


def test_sentinels_stand_at_the_top_and_count_down(small):
    assert small.sentinel(0) == small.size - 1
    assert small.sentinel(99) == small.size - 100
    assert small.pieces([small.sentinel(7)]) == ["▁<extra_id_7>"]
    with pytest.raises(UserError, match="has no <extra_id_100>; it has 100"):
        small.sentinel(100)


def test_a_sentinel_needs_no_space_before_it(small):
    ids = small.encode("cat<extra_id_1>dog<extra_id_2><extra_id_3>")
    assert [i for i in ids if i >= small.sentinel(99)] == [small.sentinel(n) for n in (1, 2, 3)]


def test_ids_out_of_range_are_unknown(small):
    assert small.pieces([small.size, -1]) == ["<unk>", "<unk>"]
    assert small.decode([small.size]) == small.decode([small.unk_id])


def test_the_digest_is_that_of_the_file(small):
    with open(small.path, "rb") as model:
        assert small.digest == hashlib.sha256(model.read()).hexdigest()


def test_sentinels_inside_the_model_are_used(tmp_path):
    own = [f"▁<extra_id_{n}>" for n in (2, 1, 0)]
    path = train(tmp_path / "own.model", user_defined_symbols=own)
    model = sentencepiece.SentencePieceProcessor(model_file=path)
    words = Vocabulary.from_file(path)
    assert words.size == model.get_piece_size()
    assert words.sentinel(0) == model.piece_to_id("▁<extra_id_0>")
    assert words.encode("<extra_id_1>") == [words.sentinel(1)]
    with pytest.raises(UserError, match="has no <extra_id_3>; it has 3"):
        words.sentinel(3)


def test_a_missing_file_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary '.*none.model': cannot be read"):
        Vocabulary.from_file(str(tmp_path / "none.model"))
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(UserError, match=r"text.model: not a SentencePiece model"):
        Vocabulary.from_file(str(tmp_path / "text.model"))
    (tmp_path / "empty.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.model: not a SentencePiece model"):
        Vocabulary.from_file(str(tmp_path / "empty.model"))


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    path = train(tmp_path / "odd.model", pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    with pytest.raises(UserError, match=r"pad, EOS, unknown = \(-1, 2, 0\); T5 needs 0, 1, 2"):
        Vocabulary.from_file(path)


def test_bytes_are_byt5s():
    words = Vocabulary.bytes()
    assert (words.size, words.path) == (259, None)
    assert words.encode("aé") == [3 + 97, 3 + 0xC3, 3 + 0xA9]
    assert words.decode([100, 3 + 0xC3, 3 + 0xA9, 300, 0, 1, 100]) == "aé"
    assert words.encode("a<extra_id_0>b<extra_id_2>") == [100, 258, 101, 256]
    assert words.pieces([0, 1, 2, 100, 3 + 0xC3, 259]) == (
        ["<pad>", "</s>", "<unk>", "a", "<0xC3>", "<unk>"]
    )
    with pytest.raises(
        UserError, match="<extra_id_100>: bytes have no such token; use one below 100"
    ):
        words.sentinel(100)


@pytest.mark.parametrize("text", LINES)
def test_t5s_own_vocabulary_encodes_as_seqio(shared, text):
    import seqio

    path = str(shared / "data" / "spm" / "t5.spiece.model")
    ours, theirs = Vocabulary.from_file(path), seqio.SentencePieceVocabulary(path, extra_ids=100)
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode([*ids, 1]) == theirs.decode(ids)
    assert ours.size == theirs.vocab_size == 32100


def test_t5s_own_vocabulary_encodes_as_transformers(shared, tmp_path):
    from transformers import T5Tokenizer

    path = shared / "data" / "spm" / "t5.spiece.model"
    (tmp_path / "spiece.model").write_bytes(path.read_bytes())
    ours, theirs = Vocabulary.from_file(str(path)), T5Tokenizer.from_pretrained(tmp_path)
    for text in LINES:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
