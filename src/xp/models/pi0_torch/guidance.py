"""The guidance of real-time chunking in torch; what it is for: `xp.models.pi0.real_time`."""

from collections.abc import Callable

import torch
from jaxtyping import Float


class Guide:
    """Stands where LeRobot's sampling asks its own processor for the velocity of a step.

    LeRobot's (0.6.1) computes the velocity before it asks for gradients, and so takes the expected actions to change
    one to one with the noisy ones. Here the velocity's own change is in it, as in the paper.
    """

    def __init__(
        self,
        plan: Float[torch.Tensor, "batch horizon dim"],
        mask: Float[torch.Tensor, "batch horizon"],
        most: Float[torch.Tensor, " batch"],
    ) -> None:
        """As in `xp.models.pi0.network.guidance.guided_velocity`."""
        self._plan, self._mask, self._most = plan, mask[..., None], most

    def is_debug_enabled(self) -> bool:
        """Nothing is kept of a step."""
        return False

    def denoise_step(
        self,
        x_t: Float[torch.Tensor, "batch horizon dim"],
        time: float,
        original_denoise_step_partial: Callable[[torch.Tensor], torch.Tensor],
        **_: object,
    ) -> Float[torch.Tensor, "batch horizon dim"]:
        """The velocity that leads nearer to the plan; see `guided_velocity`. The names are LeRobot's."""
        with torch.enable_grad():
            noisy = x_t.detach().requires_grad_()
            found = original_denoise_step_partial(noisy)
            expected = noisy - time * found
            error = ((self._plan - expected) * self._mask).detach()
            (pull,) = torch.autograd.grad(expected, noisy, error)
        largest = (time**2 + (1 - time) ** 2) / (time * (1 - time)) if 0 < time < 1 else float("inf")
        return found.detach() - self._most.clamp(max=largest)[:, None, None] * pull
