"""`tokenizer.json` of a SentencePiece vocabulary that falls back to bytes, for transformers.

Its T5Tokenizer makes one unknown token of what such a vocabulary (mT5's, nano's, mnano's) writes in
bytes, so that a prompt would be used on other tokens than it was tuned on.
"""

from google.protobuf.message import DecodeError
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import Unigram

from prompt_jax.backbone.vocabulary import EOS, NUM_SENTINELS, UNK, ModelProto

UNIGRAM = 1  # ModelType of SentencePiece's TrainerSpec
SPECIAL = ("<pad>", "</s>", "<unk>")
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


def with_bytes(model: bytes) -> str | None:
    """The text of a `tokenizer.json` that gives the ids of a SentencePiece model and EOS.

    None where the model writes no bytes: transformers' T5Tokenizer reads it as it is.
    """
    proto = ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        return None
    if not proto.trainer_spec.byte_fallback or proto.trainer_spec.model_type != UNIGRAM:
        return None
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(NUM_SENTINELS))]
    own = {piece.piece for piece in proto.pieces}
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    pieces += [(name, 0.0) for name in sentinels if name not in own]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=UNK, byte_fallback=True))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"],
        pair=["$A", "</s>", "$B", "</s>"],
        special_tokens=[("</s>", EOS)],
    )
    names = [*SPECIAL, *sentinels]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    return tokenizer.to_str()
