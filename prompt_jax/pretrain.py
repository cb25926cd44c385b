"""Pretraining from scratch: a vocabulary, then ordinary runs of the trainer, one after the other."""

import dataclasses
from pathlib import Path
from typing import Any

from prompt_jax.corpus import Corpus
from prompt_jax.errors import UserError
from prompt_jax.settings import settings
from prompt_jax.train import Train, train


@settings
class NewVocabulary:
    """A SentencePiece model learned from a corpus (unigram, nmt_nfkc, T5's special ids).

    Attributes:
      corpus: whose text is used.
      size: number of pieces, the 100 sentinels not among them.
      sentences: how many lines are drawn at random.
    """

    corpus: Corpus
    size: int
    sentences: int = 200_000

    def make(self, path: Path) -> None:
        """Writes the model file; nothing is done where it exists."""
        if path.exists():
            return
        import sentencepiece

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(line for line in self.corpus.lines() if line),
                model_writer=file,
                vocab_size=self.size,
                input_sentence_size=self.sentences,
                shuffle_input_sentence=True,
                byte_fallback=True,
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=-1,
                character_coverage=0.9995,
                minloglevel=2,
            )
        partial.rename(path)


@settings
class Pretrain:
    """A backbone from nothing: what `prompt-jax pretrain --gin_file` builds.

    Attributes:
      vocabulary: `NewVocabulary`.
      stages: runs in order; each starts from the weights that the one before ended with.
    """

    vocabulary: NewVocabulary
    stages: tuple[Train, ...]

    def check(self):
        if not self.stages:
            raise UserError("Pretrain.stages is empty: give at least one Train")


def pretrain(
    run: Pretrain, model_dir: str, *, operative: str = "", show: bool = False
) -> dict[str, Any]:
    """Runs what is left of the stages; the backbone is `model_dir/stage_N/prompt/last`.

    Call it again to go on after a stop. Returns the last metrics of the last stage.
    """
    folder = Path(model_dir)
    spiece = folder / "spiece.model"
    run.vocabulary.make(spiece)
    metrics: dict[str, Any] = {}
    name = None
    for number, stage in enumerate(run.stages, start=1):
        backbone = dataclasses.replace(
            stage.backbone, name=name or stage.backbone.name, vocabulary=str(spiece)
        )
        stage_dir = folder / f"stage_{number}"
        stage = dataclasses.replace(stage, backbone=backbone)
        metrics = train(stage, str(stage_dir), operative=operative, show=show)
        name = f"files:{stage_dir / 'prompt' / 'last'}"
    return metrics
