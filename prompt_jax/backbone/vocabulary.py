"""Text to token ids and back: SentencePiece models, transformers' tokenizers, and ByT5's bytes.

Ids follow T5: 0 pads, 1 ends a sequence, 2 is unknown. Sentinels, written `<extra_id_N>` in text,
mark the gaps of span corruption; `<extra_id_0>` has the highest id and the others count down.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from prompt_jax.contents import refuse_pointer
from prompt_jax.errors import UserError
from prompt_jax.model.logprobs import EOS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNK = 0, 2
NUM_SENTINELS = 100
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_GLUED = re.compile(r"(?<=\S)(<extra_id_\d+>)")  # a sentinel without a space before it
ModelProto = sentencepiece_model_pb2.ModelProto  # pyright: ignore[reportAttributeAccessIssue]
_USER_DEFINED = ModelProto.SentencePiece.USER_DEFINED


class Vocabulary(ABC):
    """A tokenizer. `size` counts the sentinels; `digest` is a SHA-256; bytes have no `path`."""

    pad_id = PAD
    eos_id = EOS
    unk_id = UNK
    size: int
    digest: str
    path: str | None

    @staticmethod
    def from_file(path: str) -> "Vocabulary":
        """A SentencePiece model, a `tokenizer.json` of transformers, or a folder of transformers
        with a SentencePiece model to which tokens were added.

        Sentinels are appended to a SentencePiece model unless it holds its own.
        """
        if is_tokenizer(path):
            return _TokenizerVocabulary(path, _tokenizer(path))
        return _SentencePieceVocabulary(path)

    @staticmethod
    def bytes() -> "Vocabulary":
        """ByT5's: id 3 + b for every byte b of the UTF-8 text.

        The sentinels are the ids of the last hundred bytes, counted down from 258 (Xue et al.
        2022, section 3.2), so `decode` cannot tell them from text and renders bytes.

        >>> Vocabulary.bytes().encode("hi")
        [107, 108]
        """
        return _ByteVocabulary()

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, without EOS; `<extra_id_N>` becomes that sentinel."""

    @abstractmethod
    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One printable piece per id."""

    @abstractmethod
    def sentinel(self, number: int) -> int:
        """The id of `<extra_id_number>`; UserError where there is none."""

    @abstractmethod
    def _text(self, ids: list[int]) -> str: ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text before the first EOS; padding is dropped, ids out of range are unknown."""
        known = []
        for token in ids:
            if token == EOS:
                break
            if token != PAD:
                known.append(int(token) if 0 <= token < self.size else UNK)
        return self._text(known)


class _SentencePieceVocabulary(Vocabulary):
    def __init__(self, path: str):
        data = _read(path)
        model = ModelProto()
        refuse_pointer(path, data[:64])
        try:
            model.ParseFromString(data)
            self._sentinels = _sentinels_inside(model) or _append_sentinels(model)
            whole = model.SerializeToString()
            self._model = sentencepiece.SentencePieceProcessor(model_proto=whole)
        except (DecodeError, RuntimeError) as error:
            remedy = "give its .model file"
            raise UserError(path, "not a SentencePiece model", remedy) from error
        first = self._model.id_to_piece(next(iter(self._sentinels.values())))
        self._before_sentinel = r" \1" if first.startswith("▁") else r"\1"
        ids = (self._model.pad_id(), self._model.eos_id(), self._model.unk_id())
        if ids != (PAD, EOS, UNK):
            raise UserError(path, f"has pad, EOS, unknown = {ids}; T5 needs 0, 1, 2", "retrain it")
        self.size = self._model.get_piece_size()
        self.digest = hashlib.sha256(data).hexdigest()
        self.path = path

    def encode(self, text: str) -> list[int]:
        return self._model.encode(_GLUED.sub(self._before_sentinel, text))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        known = [int(i) if 0 <= i < self.size else UNK for i in ids]
        return [self._model.id_to_piece(i) for i in known]

    def sentinel(self, number: int) -> int:
        if number not in self._sentinels:
            sentinels = len(self._sentinels)
            raise UserError(self.path, f"has no <extra_id_{number}>", f"it has {sentinels} of them")
        return self._sentinels[number]

    def _text(self, ids: list[int]) -> str:
        return self._model.decode(ids)


class _TokenizerVocabulary(Vocabulary):
    """A tokenizer of the library `tokenizers`, as transformers saves T5's.

    Ids are those of transformers without special tokens around the text.
    """

    def __init__(self, path: str, tokenizer: "Tokenizer"):
        self._tokenizer = tokenizer
        names = {"<pad>": PAD, "</s>": EOS, "<unk>": UNK}
        ids = tuple(tokenizer.token_to_id(name) for name in names)
        if ids != tuple(names.values()):
            raise UserError(path, f"has pad, EOS, unknown = {ids}; T5 needs 0, 1, 2", "retrain it")
        self._sentinels = {}
        for name, i in tokenizer.get_vocab(with_added_tokens=True).items():
            if match := _SENTINEL.fullmatch(name.removeprefix("▁")):
                self._sentinels[int(match[1])] = i
        self.size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self.digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        self.path = path

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def pieces(self, ids: Iterable[int]) -> list[str]:
        names = [self._tokenizer.id_to_token(int(i)) for i in ids]
        return ["<unk>" if name is None else name for name in names]

    def sentinel(self, number: int) -> int:
        if number not in self._sentinels:
            count = len(self._sentinels)
            raise UserError(self.path, f"has no <extra_id_{number}>", f"it has {count} of them")
        return self._sentinels[number]

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


def is_tokenizer(path: str) -> bool:
    """Whether a vocabulary's path is one of transformers' tokenizers, a file or a folder."""
    return path.endswith(".json") or Path(path).is_dir()


def tokenizer_json(path: str) -> str:
    """A tokenizer of transformers, a file or a folder, as the text of one tokenizer.json."""
    return _tokenizer(path).to_str()


def _tokenizer(path: str) -> "Tokenizer":
    return _tokenizer_of_file(path) if path.endswith(".json") else _tokenizer_of_folder(path)


def _tokenizer_of_file(path: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    data = _read(path)
    refuse_pointer(path, data[:64])
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises the bare class
        remedy = "give the tokenizer.json that transformers saved"
        raise UserError(path, f"no tokenizer ({error})", remedy) from error


def _tokenizer_of_folder(path: str) -> "Tokenizer":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True).backend_tokenizer
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            path,
            f"transformers cannot open the tokenizer there ({reason})",
            "copy the folder again",
        ) from error


class _ByteVocabulary(Vocabulary):
    def __init__(self):
        self.size = 3 + 256
        self.digest = hashlib.sha256(b"3 special ids, then 256 bytes").hexdigest()
        self.path = None

    def encode(self, text: str) -> list[int]:
        ids, start = [], 0
        for match in _SENTINEL.finditer(text):
            ids += [3 + byte for byte in text[start : match.start()].encode()]
            ids.append(self.sentinel(int(match[1])))
            start = match.end()
        return ids + [3 + byte for byte in text[start:].encode()]

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [_byte_piece(i) for i in ids]

    def sentinel(self, number: int) -> int:
        if not 0 <= number < NUM_SENTINELS:
            raise UserError(
                f"<extra_id_{number}>", "bytes have no such token", f"use one below {NUM_SENTINELS}"
            )
        return self.size - 1 - number

    def _text(self, ids: list[int]) -> str:
        return bytearray(i - 3 for i in ids if i >= 3).decode(errors="ignore")


def _read(path: str) -> bytes:
    from prompt_jax.backbone.formats.store import read_file

    try:
        return read_file(path)
    except OSError as error:
        remedy = "give a SentencePiece file or 'bytes'"
        raise UserError(f"vocabulary '{path}'", "cannot be read", remedy) from error


def _sentinels_inside(model) -> dict[int, int]:
    """Sentinel number -> id, for models that were trained with theirs (mT5, umT5)."""
    names = [piece.piece.removeprefix("▁") for piece in model.pieces]
    hits = [(_SENTINEL.fullmatch(name), i) for i, name in enumerate(names)]
    return {int(match[1]): i for match, i in hits if match}


def _append_sentinels(model) -> dict[int, int]:
    """Add T5's hundred sentinels after the last piece; each takes in the space before it."""
    top = len(model.pieces) + NUM_SENTINELS - 1
    for number in reversed(range(NUM_SENTINELS)):
        model.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=_USER_DEFINED)
    return {number: top - number for number in range(NUM_SENTINELS)}


def _byte_piece(token: int) -> str:
    if token in (PAD, EOS, UNK):
        return ("<pad>", "</s>", "<unk>")[token]
    byte = token - 3
    if not 0 <= byte < 256:
        return "<unk>"
    return chr(byte) if 32 < byte < 127 else f"<0x{byte:02X}>"
