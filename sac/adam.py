"""Adam (Kingma and Ba 2015, arXiv:1412.6980) that `torch.compile` can trace.

At the sizes of these networks `torch.optim.Adam` spends more time in Python than in arithmetic, and its fused
form is not traced. This one calls the same fused kernel, and writes the equations out where it is compiled.
"""

from collections.abc import Iterable

import torch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the paper's


def corrections(step: int) -> tuple[float, float]:
    """What makes up for moments that began at zero: 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t) at step t.

    Python takes the powers: in float32, within the update, they are wrong enough to be seen.
    """
    return 1 / (1 - BETA1**step), (1 - BETA2**step) ** -0.5


class Adam:
    """Weights and the moments of their gradients.

    Args:
        weights: changed in place by `step`.
    """

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        self.weights = list(weights)
        self.means = [torch.zeros_like(weight) for weight in self.weights]
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        self.steps_done = torch.tensor(0.0, dtype=torch.float32, device=self.weights[0].device)

    @torch.no_grad()
    def step(
        self,
        gradients: list[torch.Tensor],
        lr: float | torch.Tensor,
        mean_correction: float | torch.Tensor,
        root_correction: float | torch.Tensor,
    ) -> None:
        """Move the weights down their gradients.

        Args:
            gradients: in the order of the weights.
            lr: learning rate; a () tensor where this is compiled, as the others.
            mean_correction, root_correction: `corrections` of this step.
        """
        self.steps_done += 1
        if not torch.compiler.is_compiling():
            torch._fused_adam_(  # pyright: ignore[reportCallIssue] it knows no tensors of rates
                self.weights,
                gradients,
                self.means,
                self.squares,
                [],
                [self.steps_done] * len(self.weights),
                lr=lr,
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
            return
        for weight, gradient, mean, square in zip(
            self.weights, gradients, self.means, self.squares, strict=True
        ):
            mean.lerp_(gradient, 1 - BETA1)
            square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            weight -= lr * mean_correction * mean / (square.sqrt() * root_correction + EPSILON)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The moments, under the names that `torch.optim.Adam` gives them."""
        state = {}
        for index, (mean, square) in enumerate(zip(self.means, self.squares, strict=True)):
            state |= {
                f"{index}.step": self.steps_done.clone(),
                f"{index}.exp_avg": mean,
                f"{index}.exp_avg_sq": square,
            }
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: the moments are not those of these weights, or not finite.
        """
        if not state:  # torch.optim, which wrote it once, had none before its first step
            return
        shapes, own = ({name: tensor.shape for name, tensor in s.items()} for s in (state, self.state_dict()))
        if shapes != own or not all(tensor.isfinite().all() for tensor in state.values()):
            raise ValueError("the optimiser's moments are not finite numbers for each of its weights")
        self.steps_done.copy_(state["0.step"])
        for index, (mean, square) in enumerate(zip(self.means, self.squares, strict=True)):
            mean.copy_(state[f"{index}.exp_avg"])
            square.copy_(state[f"{index}.exp_avg_sq"])
