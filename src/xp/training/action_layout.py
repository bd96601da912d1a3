"""What each dimension of an action means, read from its name: position, rotation or gripper."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

GRIPPER = ("gripper", "finger", "claw", "jaw")
_POSITION = re.compile(r"(d|delta|eef|ee|pos|position|tcp)*(x|y|z)")
_ROTATION = re.compile(
    r"(d|delta)?(roll|pitch|yaw|rx|ry|rz|qx|qy|qz|qw)|(axisangle|axis|angle|rot|rotation|euler|quat|rpy)\d*"
)
_TURN = re.compile(r"turn|rot|angle|orient")
"""In what stands before an axis: turn.x is no position."""


@dataclass(frozen=True)
class ActionLayout:
    """Which action dimensions are positions, rotations and grippers.

    `state_dims` gives for each position dimension the index in `observation.state` that it is a target for, or None
    when actions are relative: movement is then the action itself, otherwise the action minus the present state.
    """

    position: tuple[int, ...]
    rotation: tuple[int, ...] = ()
    grippers: tuple[int, ...] = ()
    state_dims: tuple[int, ...] | None = None

    @classmethod
    def from_names(
        cls, action_names: Sequence[str] | None, action_dim: int, state_names: Sequence[str] | None = None
    ) -> "ActionLayout":
        """Read the layout from a dataset's names.

        - A name with gripper, finger, claw or jaw in it is a gripper.
        - With x, y and z among the names the action is Cartesian, as in Bridge and LIBERO (0-2 position, 3-5 rotation,
          6 gripper): roll/pitch/yaw, rx/ry/rz, quaternions and axis angles are rotations. Such actions are
          taken as relative (deltas), which is what those datasets hold.
        - Otherwise every dimension but the grippers is a joint, and joints count as positions. Where the state has
          entries of the same names the actions are joint targets (as teleoperated datasets have them), so movement is
          measured from the present state.
        - Without names nothing is known: all dimensions count as relative positions, and there is no gripper.
        """
        if not action_names or len(action_names) != action_dim:
            return cls(position=tuple(range(action_dim)))
        grippers = tuple(i for i, name in enumerate(action_names) if any(word in name.lower() for word in GRIPPER))
        rest = [i for i in range(action_dim) if i not in grippers]
        kinds = {i: _kind(action_names[i]) for i in rest}
        axes = {_axis(action_names[i]) for i in rest if kinds[i] == "position"}
        if axes >= {"x", "y", "z"}:
            position = tuple(i for i in rest if kinds[i] == "position")
            return cls(position, tuple(i for i in rest if kinds[i] == "rotation"), grippers)
        position, names = tuple(rest), list(state_names or ())
        if position and all(action_names[i] in names for i in position):
            return cls(position, (), grippers, tuple(names.index(action_names[i]) for i in position))
        return cls(position, (), grippers)


def _words(name: str) -> str:
    """'action.delta_pos_x' -> 'deltaposx': the last dotted part without separators."""
    part = re.sub(r"\.(pos|position|vel|value)$", "", name.lower()).split(".")[-1]
    return re.sub(r"[^a-z0-9]", "", part)


def _kind(name: str) -> str | None:
    word, before = _words(name), name.lower().rpartition(".")[0]
    if _ROTATION.fullmatch(word) or (_POSITION.fullmatch(word) and _TURN.search(before)):
        return "rotation"
    return "position" if _POSITION.fullmatch(word) else None


def _axis(name: str) -> str:
    return _words(name)[-1]
