"""Relative actions by the names of dimensions: which stay absolute, and what is subtracted from what."""

from collections.abc import Sequence

from xp.data.dataset import Dataset
from xp.data.dimension_names import made_up_names
from xp.errors import UserError, did_you_mean, join_names


def excluded_dimensions(patterns: Sequence[str], action_names: Sequence[str]) -> list[int]:
    """The dimensions that stay absolute: those whose name contains one of `patterns`, in any case, as LeRobot's step.

    Raises:
        UserError: a pattern is empty or in no name: nothing would stay absolute because of it.
    """
    for pattern in patterns:
        if not str(pattern) or not any(str(pattern).lower() in name.lower() for name in action_names):
            raise UserError(
                f"action_space.exclude names {str(pattern)!r}, which is in the name of no action dimension"
                f"{did_you_mean(str(pattern), action_names)}. The dimensions are: "
                f"{join_names(action_names)}. Type one of them "
                "or a part, or leave it out: 'action_space.exclude=[]'"
            )
    wanted = [str(pattern).lower() for pattern in patterns]
    return [i for i, name in enumerate(action_names) if any(part in name.lower() for part in wanted)]


def check_anchor_names(dataset: Dataset, exclude: Sequence[int]) -> None:
    """Refuse to subtract a state from an action of another name: the steps that do it go by position.

    Names that only one side has say nothing (`shoulder` and `shoulder.pos`), nor do names that were made up.

    Raises:
        UserError: a dimension that is not excluded and whose name stands elsewhere on the other side, or that the
            state does not reach.
    """
    action, state = dataset.action_names, dataset.state_names
    beyond = [name for i, name in enumerate(action) if i >= len(state) and i not in exclude]
    if beyond:
        raise UserError(
            f"action_space=relative: the state of {dataset.root} has {len(state)} dimensions for {len(action)} of the "
            f"action, so nothing can be subtracted from {join_names(beyond)}. Leave it absolute, "
            f"'action_space.exclude=[{', '.join(beyond)}]', or type action_space=absolute."
        )
    if action == made_up_names("action", len(action)) or state == made_up_names("observation.state", len(state)):
        return
    for i, name in enumerate(action):
        if i in exclude:
            continue
        if name != state[i] and (name in state or state[i] in action):
            found = f"dimension {state.index(name)} of the state" if name in state else "no dimension of the state"
            raise UserError(
                f"action_space=relative: the state is subtracted from the action by position, and in {dataset.root} "
                f"the names say otherwise: dimension {i} of the action is '{name}', of the state '{state[i]}'; "
                f"'{name}' is {found}. Leave it absolute, 'action_space.exclude=[{name}]', put the state in the order "
                "of the actions, or type action_space=absolute."
            )
