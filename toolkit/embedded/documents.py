"""What the pre-training corpus is made of."""

from typing import NamedTuple


class Mark(NamedTuple):
    """Something said about a word: `verdict` is to be told where the user's text has come to `end` (in characters)."""

    end: int
    verdict: str


class Document(NamedTuple):
    """Text to pre-train on: a chat, or one plain text in `answer` alone.

    Beside the answer a model may have to tell something while it reads, without writing it: `marks` about words of the
    user's text, `closing` at the tokens that end the user's turn, in their order ("" where nothing is asked).
    """

    user: str
    answer: str
    system: str = ""
    marks: tuple[Mark, ...] = ()
    closing: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Every line of its texts."""
        return f"{self.system}\n{self.user}\n{self.answer}".split("\n")
