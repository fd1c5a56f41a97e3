"""Examples as tokens, and how token ids with the spans to learn become them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # label that cross-entropy skips
Spans = tuple[list[int], list[tuple[int, int]]]
"""Token ids, and the parts of them that are learned: first place, and the place behind the last."""


@dataclass(frozen=True)
class TokenizedExamples:
    """Examples as tokens: ``input_ids``, ``attention_mask`` and ``labels``, each of shape ``[examples, length]``.

    ``labels`` repeats the tokens that are learned and is ``IGNORED`` on the prompt and on the padding.
    ``shortened``: how many texts were longer than they may be and have lost their start, told by no site of its own.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    shortened: int = 0

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def select(self, rows: Tensor) -> "TokenizedExamples":
        """The given rows, cut to the longest of them."""
        mask = self.attention_mask[rows]
        length = int(mask.sum(dim=1).max()) if len(rows) else 0
        return TokenizedExamples(self.input_ids[rows, :length], mask[:, :length], self.labels[rows, :length])

    def to(self, device: torch.device) -> "TokenizedExamples":
        """The same examples on another device."""
        return TokenizedExamples(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def cut(row: Spans, most: int) -> Spans:
    """A row without the start that is too much for ``most`` tokens."""
    ids, spans = row
    gone = max(0, len(ids) - most)
    kept = [(max(0, start - gone), end - gone) for start, end in spans if end > gone]
    return ids[gone:], kept


def is_bare(row: Spans) -> bool:
    """Whether nothing is learned of a row: a label counts where a token stands before it."""
    return all(end <= max(1, start) for start, end in row[1])


def packed(rows: Sequence[Spans], pad: int | None, most: int) -> TokenizedExamples:
    """All rows as one, padded at the right; of those with more than ``most`` tokens the last ones."""
    lengths = [len(ids) for ids, _ in rows]
    rows = [cut(row, most) for row in rows]
    shape = (len(rows), max((len(ids) for ids, _ in rows), default=0))
    input_ids = torch.full(shape, 0 if pad is None else int(pad), dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, (ids, spans) in enumerate(rows):
        input_ids[index, : len(ids)] = torch.tensor(ids)
        mask[index, : len(ids)] = 1
        for start, end in spans:
            labels[index, start:end] = torch.tensor(ids[start:end])
    return TokenizedExamples(input_ids, mask, labels, sum(length > most for length in lengths))
