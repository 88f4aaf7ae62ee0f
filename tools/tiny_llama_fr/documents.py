"""The documents of the pre-training corpus."""

from typing import NamedTuple


class Mark(NamedTuple):
    """A verdict about a word, to be predicted where the user's text has reached `end` (in characters)."""

    end: int
    verdict: str


class Document(NamedTuple):
    """A text to pre-train on: a chat, or one plain text in `answer` alone.

    Besides the answer, a model may have to predict something while it reads, without writing it: `marks` about words of
    the user's text, `closing` at the tokens that end the user's turn, in their order ("" where nothing is asked).
    """

    user: str
    answer: str
    system: str = ""
    marks: tuple[Mark, ...] = ()
    closing: tuple[str, ...] = ()

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The role and the text of each message of a chat, in order."""
        turns = [("system", self.system)] if self.system else []
        return [*turns, ("user", self.user), ("assistant", self.answer)]

    @property
    def lines(self) -> list[str]:
        """Every line of the texts."""
        return f"{self.system}\n{self.user}\n{self.answer}".split("\n")
