"""What `spot rank` reports."""

from typing import Any

from prompt_jax.prompt.library import Entry, Library
from prompt_jax.transfer import similarity


def similarities(library: str, target: str | None, by: similarity.Kind) -> dict[str, Any]:
    """Every two entries of a library, or each with `target`, the most similar first.

    `entries` (names) and `matrix` (float64 [N, N]) are those that can be compared with the target,
    or with the first entry; `left_out` says why each other one cannot.
    """
    entries = Library(library).entries()
    first = entries[0] if target is None else Library(library).read(target)
    why = {entry.name: entry.differs(first.facts) for entry in entries}
    compared = [entry for entry in entries if why[entry.name] is None]
    if target is None:
        ranking = pairs_of(compared, by)
    else:
        others = [entry for entry in compared if entry.name != target]
        ranking = similarity.rank(first.embedding().array, others, by)
    return {
        "target": target,
        "similarity": by,
        "ranking": ranking,
        "left_out": [{"entry": name, "why": reason} for name, reason in why.items() if reason],
        "entries": [entry.name for entry in compared],
        "matrix": similarity.matrix(compared, by),
    }


def pairs_of(entries: list[Entry], by: similarity.Kind) -> list[dict[str, Any]]:
    """Each two entries once, with both similarities, the most similar first."""
    rows = [entry.embedding().array for entry in entries]
    pairs = [
        {
            "source": a.name,
            "other": b.name,
            **similarity.similarity_of(rows[i], rows[j]),
        }
        for i, a in enumerate(entries)
        for j, b in enumerate(entries[:i])
    ]
    return sorted(pairs, key=lambda row: (-row[by], row["source"], row["other"]))
