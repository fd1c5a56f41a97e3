"""What a question moved: messages and their bytes, as ``metrics.jsonl`` and ``events.jsonl`` have them."""

from dataclasses import dataclass

from server_app.rounds.cohort import Instruction, Replies


@dataclass(frozen=True)
class Traffic:
    """Messages both ways, those of a second leg among them.

    Attributes:
        asked: instructions sent.
        answered: replies that are counted in ``bytes_up``.
        bytes_up: of their records, serialized.
        bytes_down: of the instructions' records, serialized.

    """

    asked: int = 0
    answered: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @classmethod
    def of(cls, sent: Instruction, came: Replies) -> "Traffic":
        """Of one leg."""
        return cls(len(sent.messages), came.answered, came.bytes_up, sent.bytes_down)

    def __add__(self, other: "Traffic") -> "Traffic":
        """Of both."""
        return Traffic(
            self.asked + other.asked,
            self.answered + other.answered,
            self.bytes_up + other.bytes_up,
            self.bytes_down + other.bytes_down,
        )
