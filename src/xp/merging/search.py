"""Methods that choose mixing weights by an objective: inverse_loss, greedy, and the gradient methods.

All losses are over the whole validation set with its fixed draws, so any two of them compare. What is returned is a mix
whose own loss was measured, never one picked by losses of different batches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float64

from xp.errors import UserError
from xp.merging.candidate_evaluator import finite
from xp.merging.groups import Units
from xp.merging.rules import inverse_loss_weights
from xp.merging.shapes import Shares, Table

GRADIENT_TARGET = 0.05
"""The loss at which `adaptive=gradient` leaves the gradient as it is, where no target is given."""
STEP_BOUNDS = (0.1, 10.0)
"""How far `adaptive=step` may shrink or stretch an update."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
END_FACTOR = 0.01
"""The cosine ends at this share of the first learning rate."""


@runtime_checkable
class Evaluator(Protocol):
    """Gives the losses of weighted sums of checkpoints: `xp.merging.candidate_evaluator.CandidateEvaluator`."""

    count: int
    """Number of checkpoints."""
    units: Units

    def loss(self, weights: Table) -> float:
        """The loss of the mix with these weights."""
        ...

    def loss_and_slopes(self, weights: Table) -> tuple[float, Table]:
        """The loss, and the gradient's inner product with checkpoint minus mix, for each checkpoint in each unit."""
        ...


class Candidate(TypedDict):
    """A mix whose loss was measured, as merge.json tells it; `weights` has a row for each unit."""

    name: str
    weights: list[list[float]]
    loss: float


@dataclass
class Search:
    """What was tried, in order, and what was chosen."""

    weights: Table
    loss: float
    chosen: str
    """The name of the chosen candidate."""
    candidates: list[Candidate] = field(default_factory=list)


class Candidates:
    """Losses by name, kept for the record."""

    def __init__(self, evaluator: Evaluator, tick: Callable[[], None] = lambda: None) -> None:
        """`tick` is called after each measurement."""
        self._evaluator, self._tick = evaluator, tick
        self.tried: list[Candidate] = []
        self._weights: list[Table] = []

    def measure(self, name: str, weights: Table) -> float:
        """The loss of a mix."""
        loss = finite(self._evaluator.loss(weights), name)
        self.note(name, weights, loss)
        return loss

    def note(self, name: str, weights: Table, loss: float) -> None:
        """Keep a loss that was measured elsewhere."""
        self.tried.append({"name": name, "weights": weights.tolist(), "loss": loss})
        self._weights.append(weights)
        self._tick()

    def best(self) -> Search:
        """The lowest loss; of equal ones the first tried."""
        index = int(np.argmin([entry["loss"] for entry in self.tried]))
        entry = self.tried[index]
        return Search(self._weights[index], entry["loss"], entry["name"], self.tried)


def shares(evaluator: Evaluator, weights: Shares) -> Table:
    """The same weights in every unit."""
    return np.tile(np.asarray(weights, np.float64), (evaluator.units.count, 1))


def mix_of(evaluator: Evaluator, members: list[int]) -> Table:
    """Equal weights of the members, 0 of the others, in every unit."""
    weights = np.zeros(evaluator.count)
    weights[members] = 1.0 / len(members)
    return shares(evaluator, weights)


def singles(evaluator: Evaluator, tried: Candidates) -> list[float]:
    """The loss of each checkpoint alone."""
    return [tried.measure(f"checkpoint {k}", mix_of(evaluator, [k])) for k in range(evaluator.count)]


def inverse_loss(evaluator: Evaluator, tried: Candidates) -> Search:
    """Weights by the inverse squared losses; the uniform mix is measured beside it.

    Raises:
        UserError: a loss below zero: the squares would favour what is far from zero, not what is good.
    """
    losses = singles(evaluator, tried)
    low = int(np.argmin(losses))
    if losses[low] < 0:
        raise UserError(
            f"merge_method=inverse_loss: the loss of checkpoint {low} is {losses[low]:.4g}, and inverse losses are "
            "weights only while no loss is below zero (a log-likelihood, as of model.head.type=gaussian, can be). Take "
            "a method that compares losses: merge_method=greedy or merge_method=gradient_descent"
        )
    weights = shares(evaluator, inverse_loss_weights(losses))
    tried.measure("uniform", mix_of(evaluator, list(range(evaluator.count))))
    loss = tried.measure("inverse_loss", weights)
    return Search(weights, loss, "inverse_loss", tried.tried)


def greedy(evaluator: Evaluator, tried: Candidates) -> Search:
    """Start from the best checkpoint; add the one whose equal-weight mix is best, while that is strictly better.

    Wortsman et al., arXiv 2203.05482 (greedy soup), with one change: every remaining checkpoint is tried each time,
    and none enters twice. At most N (N + 1) / 2 evaluations, and the uniform mix beside them, which the search may not
    get to: the answer is the best of all that was measured.
    """
    losses = singles(evaluator, tried)
    members, loss = [int(np.argmin(losses))], min(losses)
    while len(members) < evaluator.count:
        rest = [k for k in range(evaluator.count) if k not in members]
        found = [tried.measure(f"mix {sorted([*members, k])}", mix_of(evaluator, sorted([*members, k]))) for k in rest]
        if min(found) >= loss:
            break
        loss = min(found)
        members.append(rest[int(np.argmin(found))])
    tried.measure("uniform", mix_of(evaluator, list(range(evaluator.count))))
    return tried.best()


def gradient_descent(
    evaluator: Evaluator,
    tried: Candidates,
    *,
    iterations: int,
    learning_rate: float,
    adaptive: str | None = None,
    target: float | None = None,
) -> Search:
    """Descend the loss over softmax weights from the uniform mix: Adam, cosine from `learning_rate` to a hundredth.

    Candidates are every checkpoint, the uniform mix (iteration 0) and every iterate after it; all their losses are over
    the same set, so the lowest is chosen, and the result is no worse than any of them on that set.

    Args:
        evaluator: losses and slopes.
        tried: the record.
        iterations: updates; the mix after the last one is measured too.
        learning_rate: of the first update; an update moves a log-weight by about so much.
        adaptive: None; `gradient` multiplies the gradient by (loss / target)^2 before Adam, which, being
            scale-invariant, undoes that but for how its averages weigh the iterations; `step` multiplies what
            Adam gives, which stays: larger steps while the loss is high, smaller ones as it falls.
        target: the loss at which nothing is scaled; None: `GRADIENT_TARGET` for `gradient`, that of the uniform mix
            for `step`.
    """
    singles(evaluator, tried)
    logits = np.zeros((evaluator.units.count, evaluator.count))
    adam = Adam(logits.shape)
    for step in range(iterations):
        weights = softmax(logits)
        loss, slopes = evaluator.loss_and_slopes(weights)
        tried.note("uniform" if step == 0 else f"iteration {step}", weights, finite(loss, f"iteration {step}"))
        if target is None:
            target = GRADIENT_TARGET if adaptive == "gradient" else loss
        gradient = weights * (slopes - (weights * slopes).sum(axis=1, keepdims=True))
        factor = (loss / target) ** 2 if adaptive else 1.0
        rate = cosine(learning_rate, step, iterations)
        if adaptive == "gradient":
            logits -= rate * adam.update(gradient * factor)
        else:
            logits -= rate * (min(max(factor, STEP_BOUNDS[0]), STEP_BOUNDS[1])) * adam.update(gradient)
    tried.measure(f"iteration {iterations}", softmax(logits))
    return tried.best()


def softmax(logits: Table) -> Table:
    """Over the models."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def cosine(first: float, step: int, steps: int) -> float:
    """The learning rate of update `step` (from 0): from `first` towards `END_FACTOR * first`."""
    return first * (END_FACTOR + (1 - END_FACTOR) * 0.5 * (1 + math.cos(math.pi * step / steps)))


class Adam:
    """Kingma & Ba, arXiv 1412.6980, with optax's and torch's defaults."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._mean, self._square, self._count = np.zeros(shape), np.zeros(shape), 0

    def update(self, gradient: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """The direction for a learning rate of 1."""
        self._count += 1
        self._mean = BETA1 * self._mean + (1 - BETA1) * gradient
        self._square = BETA2 * self._square + (1 - BETA2) * gradient**2
        mean = self._mean / (1 - BETA1**self._count)
        square = self._square / (1 - BETA2**self._count)
        return mean / (np.sqrt(square) + EPSILON)
