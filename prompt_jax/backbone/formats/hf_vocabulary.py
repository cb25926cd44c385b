"""What a folder of transformers says of its tokenizer: tokenizer_config.json and what lies beside.

As of config.json, every field is used, compared with what is computed here, or known to change no
id; any other is refused by name, unless `hf:DIR?ignore=FIELD` says to go on without it.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from prompt_jax.backbone.formats.files import SPIECE, TOKENIZER, read_json
from prompt_jax.errors import UserError

CONFIG = "tokenizer_config.json"
ADDED_TOKENS, SPECIAL_TOKENS = "added_tokens.json", "special_tokens_map.json"
FILES = [SPIECE, TOKENIZER, CONFIG, ADDED_TOKENS, SPECIAL_TOKENS]  # what is read

_USUAL = re.compile(r"<pad>|</s>|<unk>|<s>|\u2581?<extra_id_\d+>")  # what every T5 has
_BYTES = "ByT5Tokenizer"
# Those that read a SentencePiece model as T5's.
_CLASSES = (
    None,
    "T5Tokenizer",
    "T5TokenizerFast",
    "MT5Tokenizer",
    "MT5TokenizerFast",
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
)
# Lists of tokens, or single ones, that transformers adds where the vocabulary has them not.
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_SINGLE = ("bos_token", "sep_token", "cls_token", "mask_token")
# Settings that other values of would change the ids, and those that are computed with here.
_FIXED: dict[str, tuple[Any, ...]] = {
    "eos_token": ("</s>", None),
    "pad_token": ("<pad>", None),
    "unk_token": ("<unk>", None),
    "eos_id": (1, None),
    "pad_id": (0, None),
    "unk_id": (2, None),
    "sp_model_kwargs": ({}, None),
    "do_lower_case": (False, None),
    "split_special_tokens": (False, None),
    "add_prefix_space": (True, None),
    "add_eos_token": (True, None),
    "add_bos_token": (False, None),
}
_USED = {"tokenizer_class", "added_tokens_decoder", *_LISTS, *_SINGLE, *_FIXED}
# Limits and sides of padding, which are a run's own here; provenance; how texts are cleaned.
_IRRELEVANT = frozenset(
    {
        "_commit_hash",
        "_from_auto",
        "auto_map",
        "backend",
        "cache_dir",
        "chat_template",
        "clean_up_tokenization_spaces",
        "device_map",
        "extra_ids",
        "from_slow",
        "full_tokenizer_file",
        "init_inputs",
        "is_local",
        "legacy",
        "local_files_only",
        "max_len",
        "max_length",
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "padding",
        "padding_side",
        "processor_class",
        "return_tensors",
        "return_token_type_ids",
        "revision",
        "spaces_between_special_tokens",
        "special_tokens_map_file",
        "stride",
        "subfolder",
        "token",
        "tokenizer_file",
        "transformers_version",
        "truncation",
        "truncation_side",
        "truncation_strategy",
        "trust_remote_code",
        "use_auth_token",
        "use_fast",
        "verbose",
        "vocab_file",
    }
)


def vocabulary_of(
    base: Path, settings: Mapping[str, Any], ignore: Collection[str] = ()
) -> str | None:
    """What the folder's tokenizer is read from: a SentencePiece model, a tokenizer.json, the
    folder itself where tokens were added to a SentencePiece model, "bytes", or None.

    `settings`: of config.json, which may name the tokenizer's class. `ignore`: fields that may be
    there although nothing is known of them.
    """
    details: dict[str, Any] = {"tokenizer_class": settings["tokenizer_class"]}
    details |= _fields(base / CONFIG, ignore)
    special = _fields(base / SPECIAL_TOKENS, ignore)
    added = [*_added_tokens(base, details), *_added_tokens(base, special)]
    kind = details["tokenizer_class"]
    if kind == _BYTES:
        if added:
            raise UserError(
                base / CONFIG,
                f"{added[0]!r} was added to ByT5's bytes, which are read here without added tokens",
                "bind VOCABULARY='bytes' to go on without them",
            )
        return "bytes"
    has_pieces = (base / SPIECE).is_file()
    known = kind in _CLASSES or "tokenizer_class" in ignore
    if has_pieces and not added and known:
        return str(base / SPIECE)
    if (base / TOKENIZER).is_file():
        return str(base / TOKENIZER)
    if has_pieces and not known:
        problem = f"tokenizer_class = {kind!r} is none of T5's, and there is no {TOKENIZER}"
        raise UserError(base / CONFIG, problem, "save the tokenizer again with transformers")
    return str(base) if has_pieces else None


def _fields(path: Path, ignore: Collection[str]) -> dict[str, Any]:
    """The fields of a file, each of them known; {} without one. UserError names the first other."""
    if not path.is_file():
        return {}
    fields = {name: value for name, value in read_json(path).items() if name not in ignore}
    remedy = "if it changes no id, give the backbone as hf:DIR?ignore={}"
    for name, value in fields.items():
        if name in _FIXED and _text(value) not in _FIXED[name]:
            problem = f"{name} = {value!r}, and only {_FIXED[name][0]!r} can be computed here"
            raise UserError(path, problem, remedy.format(name))
        if name not in _USED | _IRRELEVANT:
            problem = f"{name} = {value!r} is not a field known here, so it may change the ids"
            raise UserError(path, problem, remedy.format(name))
    return fields


def _added_tokens(base: Path, fields: Mapping[str, Any]) -> list[str]:
    """Tokens that were added to those that every T5 has."""
    names = _texts(fields.get("added_tokens_decoder"))
    for field in _LISTS:
        names += _texts(fields.get(field))
    names += [_text(fields[field]) for field in _SINGLE if fields.get(field) is not None]
    if (base / ADDED_TOKENS).is_file():
        names += list(read_json(base / ADDED_TOKENS))
    return [str(name) for name in names if not _USUAL.fullmatch(str(name))]


def _texts(tokens: Any) -> list[Any]:
    """The texts of a list of tokens, or of a dict of them."""
    if isinstance(tokens, Mapping):
        tokens = tokens.values()
    return [_text(token) for token in tokens] if isinstance(tokens, Iterable) else []


def _text(token: Any) -> Any:
    """A token's text; transformers writes some as an object with `content`."""
    return token.get("content") if isinstance(token, Mapping) and "content" in token else token
