"""Evaluation rows in forward passes of bounded size: by tokens and by scored places, not by rows.

Memory of a pass grows with its tokens, and where words are scored with places times the vocabulary. Both are bounded
here, so that neither long rows nor a wide vocabulary decides whether a machine is large enough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.data import IGNORED, TokenizedExamples

TOKENS = 4_096
"""Most tokens of a pass, padding included; a longer row goes alone."""
LOGITS = 1 << 25
"""Most logits of a pass, 128 MiB in float32; a row with more goes alone."""


@dataclass(frozen=True)
class Batch:
    """One forward pass: inputs ``[sequences, length]``, and of every scored token its place and its example.

    ``rows`` and ``columns`` say where its logits are, ``targets`` which word it is, ``examples`` to which row of the
    tokenized examples it belongs; each has shape ``[scored tokens]``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    examples: Tensor


def batches_of(tokens: TokenizedExamples, words: int, most_rows: int) -> list[Batch]:
    """All examples in passes of at most ``most_rows`` sequences; ``words``: width of the vocabulary.

    Options of one question that differ in their last token only share their inputs, so each distinct input is run once
    and read at several labels. Rows of like length go together.
    """
    unique, inverse = _unique_inputs(tokens.input_ids, tokens.labels)
    scored, columns = (tokens.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    owner = inverse[scored]
    widths = tokens.attention_mask[unique].sum(dim=1) - 1
    counts = torch.bincount(owner, minlength=len(unique))
    order = widths.argsort(stable=True)
    local = torch.full((len(unique),), -1)
    found = []
    for members in _packed(order.tolist(), widths.tolist(), counts.tolist(), max(1, LOGITS // words), most_rows):
        chosen = torch.tensor(members)
        local[chosen] = torch.arange(len(members))
        served = (local[owner] >= 0).nonzero().flatten()
        width = int(widths[chosen].max())
        found.append(
            Batch(
                input_ids=tokens.input_ids[unique[chosen], :width],
                attention_mask=tokens.attention_mask[unique[chosen], :width],
                rows=local[owner[served]],
                columns=columns[served],
                targets=tokens.labels[scored[served], columns[served] + 1],
                examples=scored[served],
            )
        )
        local[chosen] = -1
    return found


def _packed(
    order: Sequence[int], widths: Sequence[int], counts: Sequence[int], most_labels: int, most_rows: int
) -> Iterator[list[int]]:
    """The rows of ``order``, of growing width, in groups within all three bounds."""
    members: list[int] = []
    labels = 0
    for row in order:
        full = len(members) == most_rows or (len(members) + 1) * widths[row] > TOKENS
        if members and (full or labels + counts[row] > most_labels):
            yield members
            members, labels = [], 0
        members.append(row)
        labels += counts[row]
    if members:
        yield members


def _unique_inputs(input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with distinct inputs up to their last token, and for every row the number of its representative."""
    last = (labels != IGNORED).int().cumsum(dim=1).argmax(dim=1)
    inputs = input_ids.clone()
    inputs[torch.arange(len(inputs)), last] = -1
    seen: dict[tuple[int, ...], int] = {}
    representatives: list[int] = []
    inverse: list[int] = []
    for row, key in enumerate(map(tuple, inputs.tolist())):
        if key not in seen:
            seen[key] = len(representatives)
            representatives.append(row)
        inverse.append(seen[key])
    return torch.tensor(representatives, dtype=torch.long), torch.tensor(inverse, dtype=torch.long)
