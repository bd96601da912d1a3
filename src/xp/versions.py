"""What `xp --version` says: xp's own version and those of the packages that decide results. Nothing is imported."""

import platform

from xp.own_parts import DECIDING_PACKAGES as PACKAGES

DISTRIBUTION = "xp-robot-policies"
"""What xp is called where packages are named; in records it is `xp`."""


def version_text() -> str:
    """One line a package, `name version`: xp first, then Python, then PACKAGES; what is not installed says so."""
    from importlib.metadata import PackageNotFoundError, version

    def found(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    rows = [("xp", found(DISTRIBUTION)), ("python", platform.python_version())]
    rows += [(name, found(name)) for name in PACKAGES]
    return "\n".join(f"{name} {number}" for name, number in rows)
