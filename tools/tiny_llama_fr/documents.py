"""The documents of the pre-training corpus."""

from typing import NamedTuple


class Mark(NamedTuple):
    """A verdict about a word that the model has to predict at the character position `end` of the user's text."""

    end: int
    verdict: str


class Document(NamedTuple):
    """A text of the corpus: a chat, or a plain text that is only in `answer`.

    In addition to the answer, the model can be asked for predictions while it reads. They are targets of the loss, but
    not part of the text. `marks` are predicted at words of the user's text, and `closing` at the tokens that end the
    user's turn, in this order ("" for no target).
    """

    user: str
    answer: str
    system: str = ""
    marks: tuple[Mark, ...] = ()
    closing: tuple[str, ...] = ()

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The role and the text of each chat message, in order."""
        turns = [("system", self.system)] if self.system else []
        return [*turns, ("user", self.user), ("assistant", self.answer)]

    @property
    def lines(self) -> list[str]:
        """Every line of the texts."""
        return f"{self.system}\n{self.user}\n{self.answer}".split("\n")
