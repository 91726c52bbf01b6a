"""Adam for comparing weights where float32 sums are taken in another order: processes, kernels, compilers.

Adam divides each gradient by its own size plus an epsilon of 1e-8. A gradient that is zero but for rounding
(1e-9 to 1e-7), as that of the keys' bias, becomes a step of random sign and full size. With an epsilon far
above rounding it becomes none, and all other weights can be compared more strictly.
"""

import pytest
import torch

EPSILON = 1e-3


def raise_epsilon(patch: pytest.MonkeyPatch) -> None:
    """Let every AdamW that is made from now on have it."""
    init = torch.optim.AdamW.__init__

    def init_with_epsilon(self, params, **settings):
        init(self, params, **settings | {"eps": EPSILON})

    patch.setattr(torch.optim.AdamW, "__init__", init_with_epsilon)


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Up to rounding: a thousandth of a step of these tests, whose learning rate is 1e-3."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
