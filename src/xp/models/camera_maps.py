"""Which camera feeds which of a policy's: a user's map, and what names tell. Imports nothing heavy."""

from collections.abc import Collection, Mapping, Sequence

from xp.errors import UserError, did_you_mean, join_names

_ON_HAND = ("wrist", "hand", "gripper")
_MAIN = ("primary", "top", "front", "oblique", "agent", "base")


def on_hand(cameras: Sequence[str]) -> list[str]:
    """Those whose names say that they move with the hand."""
    return [camera for camera in cameras if any(word in camera.lower() for word in _ON_HAND)]


def main_camera(cameras: Sequence[str]) -> str | None:
    """The one that sees the scene: by its name, else the first that is not on the hand; None where all are."""
    others = [camera for camera in cameras if camera not in on_hand(cameras)]
    named = (camera for word in _MAIN for camera in others if word in camera.lower())
    return next(named, others[0] if others else None)


def format_map(cameras: Mapping[str, str]) -> str:
    """A map as it is typed: `{front: top, wrist: wrist}`."""
    return "{" + ", ".join(f"{name}: {camera}" for name, camera in cameras.items()) + "}"


def check_map(given: Mapping[str, str | None], names: Collection[str], what: str) -> None:
    """Refuse a map that names a camera which the policy does not have.

    Args:
        given: {the policy's own name of a camera: the camera that feeds it}.
        names: the policy's own names.
        what: what such a name stands for, for the message: `camera of the policy in FOLDER`.

    Raises:
        UserError: what was given, and the names there are.
    """
    for name, camera in given.items():
        if name not in names:
            raise UserError(
                f"The map of cameras names '{name}', which is no {what}{did_you_mean(name, names)}. There are "
                f"{join_names(names)}; the map gives each the camera that feeds it, for instance "
                f"{format_map({next(iter(names), 'ITS_CAMERA'): camera or 'null'})}"
            )


def mismatch(key: str, fed: Mapping[str, str], cameras: Collection[str], where: str | None = None) -> str:
    """Both sets of cameras, and the override `key` that maps the policy's to those at hand.

    Args:
        key: the configuration key.
        fed: {the policy's own name of a camera: the camera that was to feed it}.
        cameras: those that there are.
        where: who has them; None for `here`.
    """
    free = [camera for camera in cameras if camera not in fed.values()]
    pairs = {name: fit if fit in cameras else (free.pop(0) if free else "CAMERA") for name, fit in fed.items()}
    others = {name: fit for name, fit in fed.items() if fit != name}
    asked = f" (fed by {join_names(f'{fit} for {name}' for name, fit in others.items())})" if others else ""
    here = f"{where} has" if where else "here are"
    return (
        f"The policy's cameras are {join_names(fed)}{asked}; {here} {join_names(cameras)}. Say which feeds which (the "
        f"policy's name first): '{key}={format_map(pairs)}'"
    )
