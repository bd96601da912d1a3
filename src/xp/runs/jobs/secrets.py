"""Secrets stay out of every file: replaced when a configuration is written, handed to the worker in memory.

What counts as a secret: text under a key whose name says so (`api_key`, `password`, `HF_TOKEN`), text that looks like
one (a key of a known service, `user:password@` in an address, `NAME_TOKEN=...` in a command), and text that holds the
value of an environment variable whose name says so, however it came there (an interpolation, for one).
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from xp.json_types import JSON, JSONObject

REDACTED = "(redacted)"
SHORTEST = 8
"""Characters: a shorter value of an environment variable is not looked for in other texts."""
_WORDS = (
    "token", "apikey", "password", "passwd", "passphrase", "pwd", "secret", "secrets", "auth", "authorization",
    "bearer", "credential", "credentials", "pat",
)  # fmt: skip
_PAIRS = ("api_key", "private_key", "access_key", "secret_key", "ssh_key", "auth_key", "signing_key", "encryption_key")
_NAME = r"[\w.-]*(?:token|api_?key|passw(?:or)?d|passphrase|secret|credentials?|private_key|access_key|authorization)"
_TOKEN_FORMS = r"""
    ://[^/\s:@]*:[^/\s@]+@                                      # an address with a password
    | \b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|sk-|r8_|nvapi-|AIza|ya29\.)[\w.-]{16,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY
    | \b(?:bearer|basic)\s+[\w.+/=-]{16,}
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.                               # a JSON web token
    """
_TOKENS = re.compile(_TOKEN_FORMS, re.VERBOSE | re.IGNORECASE)
_FORMS = re.compile(
    _TOKEN_FORMS
    + r"""
    | (?<![\w$])--?NAME[ =]['"]?[^\s'"$(]{4,}                   # an option of a command
    | (?<![\w$-])NAME["']?\s*[=:]\s*['"]?(?!\$|\(redacted\))[^\s'"$]{4,}   # an assignment
    """.replace("NAME", _NAME),
    re.VERBOSE | re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable by this name (last part of a dotted key) holds a secret."""
    return _is_secret_name(name.rpartition(".")[2])


@lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words = [part.lower() for part in parts]
    joined = f"_{'_'.join(words)}_"
    return any(word in _WORDS for word in words) or any(f"_{pair}_" in joined for pair in _PAIRS)


def is_secret(key: str, value: object) -> bool:
    """Whether a value under this key is a secret; numbers, empty values and references (`${...}`) are not."""
    if not isinstance(value, str) or value in ("", REDACTED) or re.fullmatch(r"\$\{[^}]*\}", value):
        return False
    return is_secret_name(key) or looks_secret(value)


def looks_secret(text: str) -> bool:
    """Whether a text holds a secret by its form, or the value of an environment variable that is one."""
    return bool(_FORMS.search(text)) or any(value in text for value in environment_secrets())


def holds_token(text: str) -> bool:
    """Whether a text holds something of a token's own form, or the value of a secret environment variable.

    Unlike `looks_secret` it takes no name for one: a tokenizer's files are full of "token".
    """
    return bool(_TOKENS.search(text)) or any(value in text for value in environment_secrets())


def environment_secrets() -> tuple[str, ...]:
    """The values of this process's environment variables whose names say that they are secret; paths are not."""
    return _environment_secrets(tuple(item for item in os.environ.items() if is_secret_name(item[0])))


@lru_cache(maxsize=8)
def _environment_secrets(items: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(value for _, value in items if len(value) >= SHORTEST and not value.startswith(("/", "~")))


def redact(config: JSONObject, prefix: str = "") -> tuple[dict[str, JSON], dict[str, str]]:
    """A copy of a nested configuration without its secrets, and {dotted key: secret}; places in lists are numbers.

    All text below a key that is secret by its name is (`credentials: {user: ..., key: ...}`).
    """
    found: dict[str, str] = {}
    above = prefix.rstrip(".")
    return _redacted_section(config, above, found, below=""), found


def _redacted_section(node: JSONObject, path: str, found: dict[str, str], *, below: str) -> dict[str, JSON]:
    clean: dict[str, JSON] = {}
    for key, value in node.items():
        name = str(key) if is_secret_name(str(key)) else below
        clean[key] = _redacted(value, f"{path}.{key}" if path else str(key), found, below=name)
    return clean


def _redacted(node: JSON, path: str, found: dict[str, str], *, below: str) -> JSON:
    """The copy; `below` is the nearest key on the way here that is secret by its name."""
    if isinstance(node, Mapping):
        return _redacted_section(node, path, found, below=below)
    if isinstance(node, list | tuple):
        return [_redacted(value, f"{path}.{index}", found, below=below) for index, value in enumerate(node)]
    if isinstance(node, str) and is_secret(below, node):
        found[path] = node
        return REDACTED
    return node


def redact_overrides(overrides: Sequence[str], secrets: Iterable[str] = ()) -> list[str]:
    """Command-line overrides without the secrets in them; `secrets` are values known to be secret."""
    known = [value for value in secrets if value]
    clean = []
    for override in overrides:
        key, equals, value = override.partition("=")
        hidden = bool(equals) and (is_secret(key.lstrip("+~"), value) or any(each in value for each in known))
        clean.append(f"{key}={REDACTED}" if hidden else override)
    return clean


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """A text (a message, a traceback) without the given secrets and those of the environment."""
    for value in (*secrets, *environment_secrets()):
        if len(value) >= SHORTEST:
            text = text.replace(value, REDACTED)
    return text


def restore(config: dict[str, JSON], secrets: Mapping[str, str]) -> dict[str, JSON]:
    """Put secrets back into a plain nested configuration (changed in place)."""
    for path, value in secrets.items():
        *parents, last = path.split(".")
        node: JSON = config
        for part in parents:
            node = _child(node, part)
        if isinstance(node, dict) and last in node:
            node[last] = value
        elif isinstance(node, list) and last.isdigit() and int(last) < len(node):
            node[int(last)] = value
    return config


def redacted_keys(node: JSON, path: str = "") -> list[str]:
    """The dotted keys of a configuration whose secrets were not put back."""
    if isinstance(node, Mapping):
        return [
            key for name, each in node.items() for key in redacted_keys(each, f"{path}.{name}" if path else str(name))
        ]
    if isinstance(node, list | tuple):
        return [key for index, each in enumerate(node) for key in redacted_keys(each, f"{path}.{index}")]
    return [path] if node == REDACTED else []


def _child(node: JSON, part: str) -> JSON:
    if isinstance(node, dict):
        return node.get(part, {})
    return node[int(part)] if isinstance(node, list) and part.isdigit() and int(part) < len(node) else {}
