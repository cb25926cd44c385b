"""Pretraining from scratch: a vocabulary, then ordinary runs of the trainer, in turn."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
from etils import epath

from prompt_jax import hosts
from prompt_jax.backbone.formats import files
from prompt_jax.backbone.load import digest, open_checkpoint, read_arrays
from prompt_jax.backbone.vocabulary import Vocabulary, is_tokenizer
from prompt_jax.data.corpus import Corpus
from prompt_jax.errors import Setting, UserError
from prompt_jax.run.counted_embeddings import CountedEmbeddings
from prompt_jax.run.folder import once
from prompt_jax.run.log import read_metrics
from prompt_jax.run.observe import Observer
from prompt_jax.run.settings import Train
from prompt_jax.run.stages import PassWeights, Stage, Stages, stage_folder, train_stages
from prompt_jax.settings import at_least, settings


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

    def check(self):
        at_least("NewVocabulary", 1, {"size": self.size, "sentences": self.sentences})

    def make(self, path: Path) -> None:
        """Writes the model file."""
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

    def facts(self) -> str:
        """A line of the card."""
        return (
            f"SentencePiece, {self.size} pieces with byte fallback, learned on "
            f"{', '.join(self.corpus.files)}; 100 sentinels"
        )


@settings
class BackboneVocabulary:
    """The SentencePiece model of a backbone that pretraining goes on from.

    Attributes:
      backbone: its string.
    """

    backbone: str

    def make(self, path: Path) -> None:
        """Writes the model file."""
        source = open_checkpoint(self.backbone).vocabulary
        if source is None or is_tokenizer(source) or source == "bytes":
            raise UserError(
                Setting("BackboneVocabulary", "backbone", self.backbone),
                "has no SentencePiece model",
                "name one that has",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(epath.Path(source).read_bytes())

    def facts(self) -> str:
        """A line of the card."""
        return f"that of `{self.backbone}`"


@settings
class Pretrain:
    """A backbone from nothing: what `prompt-jax pretrain --gin_file` builds.

    Attributes:
      vocabulary: `NewVocabulary`, or `BackboneVocabulary` to go on from a finished backbone.
      embeddings: `CountedEmbeddings`, or None: random ones.
      stages: runs in order; each starts from the weights that the one before ended with.
    """

    vocabulary: NewVocabulary | BackboneVocabulary
    stages: tuple[Train, ...]
    embeddings: CountedEmbeddings | None = None

    def check(self):
        if not self.stages:
            raise UserError(Setting("Pretrain", "stages", ()), remedy="give at least one Train")


def pretrain(
    run: Pretrain,
    model_dir: str,
    *,
    operative: str = "",
    observers: Sequence[Observer] = (),
    show: bool = False,
) -> dict[str, Any]:
    """Runs what is left of the stages, then writes `model_dir/backbone`: bfloat16, with its card.

    Call it again to go on after a stop. Of several processes one makes the vocabulary, the start
    and the backbone. Returns the last metrics of the last stage.
    """
    folder = Path(model_dir)
    spiece = folder / "spiece.model"
    once(spiece, lambda: run.vocabulary.make(spiece))
    begin = start(run, folder)
    stages = []
    for stage in run.stages:
        backbone = dataclasses.replace(stage.backbone, name=begin, vocabulary=str(spiece))
        stages.append(
            Stage(run=dataclasses.replace(stage, backbone=backbone), on_end=(PassWeights(),))
        )
    program, place = Stages(stages=tuple(stages)), epath.Path(model_dir)
    options = {"operative": operative, "observers": observers, "show": show}
    metrics = train_stages(program, model_dir, **options)
    name = f"files:{stage_folder(place, len(stages)) / 'prompt' / 'last'}"
    if hosts.writes():
        write_backbone(run, folder, name)
    return metrics


def start(run: Pretrain, folder: Path) -> str:
    """The backbone that the first stage begins with; counted embeddings make it a folder."""
    name = run.stages[0].backbone.name
    if run.embeddings is None:
        return name
    target, spiece = folder / "start", folder / "spiece.model"
    counted = run.embeddings

    def make() -> None:
        config, arrays = read_arrays(name)
        arrays = counted.start(arrays, Vocabulary.from_file(str(spiece)))
        files.write(str(target), config, arrays, str(spiece))

    once(target / "config.json", make)  # which is written last
    return f"files:{target}"


def write_backbone(run: Pretrain, folder: Path, name: str) -> None:
    """`folder/backbone` from the backbone `name`, rounded to bfloat16, and a README beside it."""
    config, arrays = read_arrays(name)
    rounded = {key: value.astype(ml_dtypes.bfloat16) for key, value in arrays.items()}
    target = folder / "backbone"
    files.write(str(target), config, rounded, str(folder / "spiece.model"))
    count = sum(value.size for value in rounded.values())
    lines = [
        f"- parameters: {count:,}; digest `{digest(rounded)}`",
        f"- vocabulary: {run.vocabulary.facts()}",
    ]
    for number, stage in enumerate(run.stages, start=1):
        lines += _stage_facts(number, stage, read_metrics(folder / f"stage_{number}"))
    (target / "README.md").write_text("# Facts of this backbone\n\n" + "\n".join(lines) + "\n")


def _stage_facts(number: int, stage: Train, records: list[dict[str, Any]]) -> list[str]:
    """What one stage saw, for how long, and the held-out loss along the way."""
    data, seconds, step = stage.data, 0.0, 0
    for record in (r for r in records if r["kind"] == "train"):
        seconds += record["seconds_per_step"] * (record["step"] - step)
        step = record["step"]
    curve = [(r["step"], r["held_out_loss"]) for r in records if r["kind"] == "eval"]
    tokens = stage.steps * data.batch_size * data.input_length
    facts = [
        f"- stage {number}: {data.title()}: {stage.steps} steps of "
        f"{data.batch_size} rows, {data.input_length} encoder columns each ({tokens:,} in all), "
        f"{seconds / 60:.0f} minutes",
        "  - held-out loss per target token (nats), by step: "
        + ", ".join(f"{at}: {loss:.3f}" for at, loss in curve),
    ]
    last = next((r for r in reversed(records) if r["kind"] == "eval"), {})
    if languages := [name for name in last if name.startswith("held_out_loss/")]:
        losses = ", ".join(f"{name.partition('/')[2]} {last[name]:.3f}" for name in languages)
        facts.append(f"  - by language, at step {last['step']}: {losses}")
    return facts
