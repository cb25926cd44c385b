"""The answers of a long evaluation on disk: a killed `eval` goes on where it stopped."""

import json
from collections.abc import Callable, Sequence

from prompt_jax.answer.answerer import Answer, Answerer, Model, Question
from prompt_jax.answer.output import Output
from prompt_jax.errors import reading


class Journal:
    """Answers batch by batch, as lines {"part", "question", "text", "score", "scores"}.

    A part is one call of `complete`; the parts of an evaluation come in the same order each time.
    """

    def __init__(self, out: Output):
        self.out, self.part = out, 0
        self.kept: dict[tuple[int, int], Answer] = {}
        with reading(out.path, f"give another {out.flag}") as place:
            for place.line, line in enumerate(out.lines, start=1):
                row = json.loads(line)
                answer = Answer(row["text"], row["score"], row["scores"])
                self.kept[row["part"], row["question"]] = answer

    def complete(
        self,
        answerer: Answerer,
        model: Model,
        questions: Sequence[Question],
        between: Callable[[], None],
    ) -> list[Answer]:
        """The answers in the order of the questions; those that are on disk are not asked again."""
        part, self.part = self.part, self.part + 1
        left = [i for i in range(len(questions)) if (part, i) not in self.kept]
        asked = [questions[i] for i in left]
        for rows, some in answerer.stream(model, asked, between):
            numbers = [left[row] for row in rows]
            self.out.append(
                [
                    {"part": part, "question": i, **answer._asdict()}
                    for i, answer in zip(numbers, some, strict=True)
                ]
            )
            self.kept |= {(part, i): a for i, a in zip(numbers, some, strict=True)}
        return [self.kept[part, i] for i in range(len(questions))]
