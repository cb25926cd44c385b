"""Which paragraphs of a corpus share a run of eight words with a text that backbones are tested on.

    PROMPT_JAX_DATA_DIR=DATA python tests/overlap.py > prompt_jax/backbones/left_out.txt

prints the digests of those in DATA/corpus. The tested texts are the inputs, targets and answers of
every split but `train` of every registered task that DATA holds, and every text of the sets that
`test_nano_mixture.downstream` lists.
"""

import lzma
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

RUN = 8
UNTESTED = ("taskless_", "nano_", "mnano_", "unlabelled_")
UNREAD = ("english", "lexicon", "parallel")  # folders that no recipe trains on
HELD_OUT = ("bitcoin_org", "en_wikitext2")  # files that are for held-out loss, not for training


def words_of(line: str) -> list[str]:
    """Lower-case runs of letters, marks and digits."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in line.lower())
    return "".join(kept).split()


def runs_of(line: str) -> set[int]:
    words = words_of(line)
    return {hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1)}


def tested_texts(known: Iterable[str] = ()) -> set[str]:
    """The texts of the tasks in the data folder, but for their train splits; and `known`."""
    import seqio

    from prompt_jax.cli.task_list import list_tasks
    from prompt_jax.errors import UserError
    from prompt_jax.tasks import text

    found, mixtures = set(known), seqio.MixtureRegistry.names()
    for facts in list_tasks():
        name = facts["name"]
        # A mixture's tasks are listed themselves; nobody is tested on the unlabelled text.
        if name.startswith(UNTESTED) or name in mixtures or not facts["present"]:
            continue
        for split in set(facts["present"]) - {"train"}:
            try:
                by_task = text.load_examples(name, split)
            except UserError as error:  # a prepared TFDS folder may lack a split
                print(error, file=sys.stderr)
                continue
            for row in by_task[name]:
                found |= {row["inputs"], row["targets"], *row.get("answers", ())}
    return found


def shared_paragraphs(corpus: Path, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(file, paragraph) of those that share a run with one of `texts`."""
    tested: set[int] = set()
    for line in texts:
        tested |= runs_of(line)
    for path in sorted(corpus.rglob("*.xz")):
        folder = path.relative_to(corpus).parts[0]
        if folder in UNREAD or any(part in path.name for part in HELD_OUT):
            continue
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                if runs_of(line) & tested:
                    yield str(path.relative_to(corpus)), line.strip()


def main() -> None:
    from prompt_jax.textfiles import paragraph_digest

    data = Path(os.environ["PROMPT_JAX_DATA_DIR"])
    from test_nano_mixture import downstream

    texts = tested_texts(downstream(data))
    found = {paragraph_digest(line) for _, line in shared_paragraphs(data / "corpus", texts)}
    print("\n".join(sorted(found)))


if __name__ == "__main__":
    main()
