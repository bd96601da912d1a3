"""Which of a policy's own attempts it learns from. Pure numpy.

Without a choice a policy that is regressed onto its own actions stays where it is; the returns say what was better.
"""

import numpy as np
from jaxtyping import Float

from xp.errors import UserError, did_you_mean, join_names

RULES = ("all", "top_k", "advantage")


def attempt_weights(
    returns: Float[np.ndarray, " attempts"], rule: str, *, share: float = 0.2, temperature: float = 1.0
) -> Float[np.ndarray, " attempts"]:
    """How often each attempt is learnt from, relative to the others; the largest is 1.

    `top_k` keeps the best `share` (at least one; of equal ones the earlier), each as often (self-imitation of the best
    part: Emmons et al. 2021, "RvS", arXiv:2112.10751, section 4, %BC). `advantage` weighs by exp(z / temperature), z
    the return's distance from the mean in standard deviations (advantage-weighted regression: Peng et al. 2019,
    arXiv:1910.00177, with one advantage an attempt). `all` weighs none.

    Raises:
        UserError: an unknown rule, a share outside (0, 1], or a temperature that is not above 0.
    """
    if rule not in RULES:
        raise UserError(f"loop.select={rule}: allowed are {join_names(RULES)}{did_you_mean(rule, RULES)}")
    if not 0 < share <= 1 or temperature <= 0:
        raise UserError(
            f"loop.share={share:g} must be above 0 and at most 1, loop.temperature={temperature:g} above 0."
        )
    if rule == "top_k":
        kept = np.argsort(-returns, kind="stable")[: max(1, round(share * len(returns)))]
        return np.isin(np.arange(len(returns)), kept).astype(np.float64)
    if rule == "advantage":
        spread = returns.std()
        score = (returns - returns.max()) / spread if spread > 0 else np.zeros(len(returns))
        return np.exp(score / temperature)
    return np.ones(len(returns))
