"""The loss of label tokens: torch's own, piece by piece."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from common.model import label_loss as module
from common.model.label_loss import label_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("places", [0, 1, 7, 10])
def test_loss_and_gradient_are_torchs(dtype: torch.dtype, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of three places; in half precision both round the same float32 gradient once."""
    monkeypatch.setattr(module, "PIECE", 3 * 11)
    generator = torch.Generator().manual_seed(1)
    logits = (4 * torch.randn(places, 11, generator=generator)).to(dtype)
    targets = torch.randint(11, (places,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = label_loss(ours, targets, 12)
    expected = cross_entropy(theirs.float(), targets, reduction="sum") / 12
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-7)
    torch.testing.assert_close(ours.detach(), logits, rtol=0, atol=0)


def test_a_gradient_is_made_once() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    loss = label_loss(logits, torch.tensor([0, 1, 4]), 3)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
