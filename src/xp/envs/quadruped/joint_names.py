"""Which joint of a description is which: by the names that quadrupeds usually have, or by `env.mjcf_joints`."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import cast

from xp.envs.quadruped.robot import JOINTS, LEGS, PARTS
from xp.errors import UserError, did_you_mean, join_names, some
from xp.foreign.text import printable

_LEGS = {
    "FR": ("fr", "rf", "front_right", "right_front"),
    "FL": ("fl", "lf", "front_left", "left_front"),
    "RR": ("rr", "hr", "rh", "rear_right", "right_rear", "hind_right", "right_hind", "back_right", "right_back"),
    "RL": ("rl", "hl", "lh", "rear_left", "left_rear", "hind_left", "left_hind", "back_left", "left_back"),
}
_PARTS = (
    (("hip",), ("thigh",), ("calf",)),
    (("abad", "abduct", "abduction", "haa", "hip_x", "hx"), ("hip", "hfe", "hip_y", "hy"), ("knee", "kfe", "kn")),
)
"""Two ways to name hip, thigh and calf: `hip` is the first joint of one and the second of the other."""


def recognised(names: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...] | None:
    """Twelve joints of a description in canonical order; None where not each is known.

    Args:
        names: all joints of the description.
        given: {canonical name: name in the description} of those that somebody said.
    """
    words = {_words(name): name for name in names if name not in given.values()}
    for way in _PARTS:
        found = dict(given)
        for leg, (part, spellings) in product(LEGS, zip(PARTS, way, strict=True)):
            fits = {words[each] for each in _spelled(_LEGS[leg], spellings) if each in words}
            if f"{leg}_{part}" not in given and len(fits) == 1:
                found[f"{leg}_{part}"] = fits.pop()
        if len(set(found.values())) == len(JOINTS) == len(found):
            return tuple(found[joint] for joint in JOINTS)
    return None


def joint_map_of(given: object) -> dict[str, str]:
    """The map `env.mjcf_joints`: {canonical name: name in the file}.

    Raises:
        UserError: it is no map of names, or names a joint that a quadruped does not have.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"env.mjcf_joints={given}: expected names, such as {example()}")
    for joint, name in cast("Mapping[object, object]", given).items():
        if joint not in JOINTS:
            raise UserError(
                f"env.mjcf_joints.{joint}: a quadruped has no such joint{did_you_mean(str(joint), JOINTS)}. It has "
                f"{join_names(JOINTS)}."
            )
        if not isinstance(name, str):
            raise UserError(f"env.mjcf_joints.{joint}={name}: expected the name of a joint in the file.")
    return dict(cast("Mapping[str, str]", given))


def joints_of(names: Sequence[str], given: Mapping[str, str], path: object) -> tuple[str, ...]:
    """The joints of a description in canonical order.

    Args:
        names: of its twelve joints.
        given: {canonical name: name in the description}.
        path: the description, for the message.

    Raises:
        UserError: not each is known; names what there is and the map to type.
    """
    for joint, name in given.items():
        if name not in names:
            there = some(map(printable, names), 12)
            raise UserError(
                f"env.mjcf_joints.{joint}={name}: {path} has no such joint{did_you_mean(name, names)}. It has {there}."
            )
    found = recognised(names, given)
    if found is None:
        raise UserError(
            f"{path} has the joints {some(map(printable, names), 12)}, whose names do not say which of a quadruped's "
            f"each is. Say it (front or rear, right or left; hip, thigh, calf): {example(names)}"
        )
    return found


def example(names: Sequence[str] = ("NAME",)) -> str:
    """The map to type, with the names of a file in the file's order, which need not be the right one."""
    shown = [names[i] if len(names) == len(JOINTS) else "NAME" for i in range(len(JOINTS))]
    return "'env.mjcf_joints={" + ", ".join(f"{j}: {printable(n, 40)}" for j, n in zip(JOINTS, shown)) + "}'"


def _words(name: str) -> str:
    """A name in small letters with `_` between its words, without the word joint: `FR_hip_joint` is `fr_hip`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return "_".join(each for each in re.split(r"[^a-z0-9]+", parted.lower()) if each not in ("", "joint", "j"))


def _spelled(legs: Sequence[str], parts: Sequence[str]) -> list[str]:
    return [each for leg, part in product(legs, parts) for each in (f"{leg}_{part}", f"{part}_{leg}")]
