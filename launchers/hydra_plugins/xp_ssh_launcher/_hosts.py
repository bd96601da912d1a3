"""Hosts as users write them: a name of ~/.ssh/config, a command line `ssh user@ip -p PORT`, or a mapping."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xp.errors import UserError, did_you_mean, join_names

_TAKES_VALUE = {"-p": "port", "-l": "user", "-i": "identity", "-J": "jump"}
_KEYS = ("host", "user", "port", "identity", "jump", "name", "gpus", "tags", "slots", "python", "workdir")
_MOST = 1024
"""GPUs or slots of one machine, at most."""
_UNFIT_HOST = re.compile(r"[\s'`\"$\\;&<>|(){}*?!#,/]|[^ -~\w]")
"""What no name of a machine contains; ssh refuses most of it too (valid_hostname in ssh.c), commas part jump hosts."""
_UNFIT_USER = re.compile(r"[\s'`\"$;&<>|(){}:]|\\$|[^ -~\w]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EXAMPLES = 'gpu1, "ssh root@1.2.3.4 -p 41234", or {host: 1.2.3.4, user: root, port: 41234, gpus: [0, 1], tags: [big]}'


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine that takes jobs, and what it offers."""

    host: str
    name: str = ""
    """What people see; the address as given by default."""
    user: str = ""
    port: int | None = None
    identity: str = ""
    jump: str = ""
    gpus: tuple[str, ...] | None = None
    """Indices to use; None: what nvidia-smi lists there. Empty: none, `slots` jobs share the processor."""
    tags: tuple[str, ...] = ()
    slots: int = 1
    """Jobs at a time where no GPU is used."""
    python: str = ""
    workdir: str = ""
    local: bool = False
    """This machine itself, without ssh."""

    @property
    def address(self) -> tuple[str, ...]:
        """Arguments of ssh that lead there."""
        options: list[str] = []
        for flag, value in (("-p", self.port), ("-l", self.user), ("-i", self.identity), ("-J", self.jump)):
            if value:
                options += [flag, str(value)]
        return (*options, "--", self.host)

    @property
    def command(self) -> str:
        """What to type to get there by hand."""
        return shlex.join(["ssh", *(each for each in self.address if each != "--")])

    @property
    def digest(self) -> str:
        """Eight hex digits that tell this address from others."""
        return hashlib.sha256("\0".join(self.address).encode()).hexdigest()[:8]


def parse_hosts(given: object) -> tuple[Host, ...]:
    """All hosts of `hydra.launcher.hosts`.

    Raises:
        UserError: none is given, one cannot be read, or two have one name.
    """
    if isinstance(given, str | Mapping):
        given = [given]
    if not given:
        raise UserError(f"hydra.launcher.hosts is empty: which machines? Give a list of {_EXAMPLES}.")
    if not isinstance(given, Sequence):
        raise UserError(f"hydra.launcher.hosts={given}: give a list of {_EXAMPLES}.")
    hosts = tuple(parse_host(each) for each in given)
    names = [host.name for host in hosts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"hydra.launcher.hosts names {name!r} twice. Give one of them another `name`.")
    return hosts


def parse_host(given: object) -> Host:
    """One host, see `Host`."""
    if isinstance(given, Host):
        return given
    if isinstance(given, Mapping):
        return _from_mapping(given)
    if not isinstance(given, str) or not given.strip():
        raise UserError(f"hydra.launcher.hosts has {given!r}, which is not a host. Give {_EXAMPLES}.")
    return _from_command(given)


def _from_command(given: str) -> Host:
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise UserError(f"hydra.launcher.hosts: {given!r} cannot be read ({error}). Give {_EXAMPLES}.") from None
    if words[:1] == ["ssh"]:
        words = words[1:]
    found: dict[str, object] = {}
    rest: list[str] = []
    while words:
        word = words.pop(0)
        flag, value = word[:2], word[2:]
        if flag in _TAKES_VALUE:
            found[_TAKES_VALUE[flag]] = value or (words.pop(0) if words else "")
        elif word.startswith("-"):
            raise UserError(
                f"hydra.launcher.hosts: {word!r} in {given!r} is not understood; {join_names(_TAKES_VALUE)} are. Put "
                "other options into ~/.ssh/config under a Host name, and give that name."
            )
        else:
            rest.append(word)
    if len(rest) != 1:
        raise UserError(f"hydra.launcher.hosts: {given!r} names {len(rest)} machines instead of one. Give {_EXAMPLES}.")
    return _from_mapping({"host": rest[0], **found})


def _from_mapping(given: Mapping[str, object]) -> Host:
    fields = dict(given)
    for key in fields:
        if key not in _KEYS:
            raise UserError(
                f"hydra.launcher.hosts: a host has no '{key}'{did_you_mean(str(key), _KEYS)}. Its "
                f"keys: {join_names(_KEYS)}."
            )
    address = str(fields.pop("host", "") or "").strip()
    if " " in address:
        return _from_mapping({**vars_of(_from_command(address)), **fields})
    user, _, host = address.rpartition("@")
    if not host or host.startswith("-"):
        raise UserError(f"hydra.launcher.hosts: {dict(given)!r} has no `host`. Give {_EXAMPLES}.")
    _check_texts({**given, "host": host, "user": fields.get("user") or user})
    port = _port(fields.pop("port", None), given)
    gpus = _gpus(fields.pop("gpus", None), given)
    name = str(fields.pop("name", "") or (f"{host}:{port}" if port else host))
    tags, slots = _words(fields.pop("tags", ())), fields.pop("slots", 1)
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= _MOST:
        raise UserError(f"hydra.launcher.hosts: slots={slots!r} of {name}: expected a whole number from 1 to {_MOST}.")
    texts = {key: str(value) for key, value in fields.items() if value not in (None, "")}
    user = str(texts.pop("user", user))
    return Host(host=host, name=name, port=port, gpus=gpus, tags=tags, slots=slots, user=user, **texts)  # type: ignore[arg-type]


def _check_texts(fields: Mapping[str, object]) -> None:
    """Refuse what ssh would take for an option, or what cannot be part of a name.

    Raises:
        UserError: names the field and what was given.
    """
    for key in ("host", "user", "port", "identity", "jump", "name", "python", "workdir"):
        value = fields.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, Mapping | list | tuple | bool):
            raise UserError(f"hydra.launcher.hosts: {key}={value!r}: expected text. Give {_EXAMPLES}.")
        text = str(value)
        if text.startswith("-") or _CONTROL.search(text):
            raise UserError(
                f"hydra.launcher.hosts: {key}={text!r} of {str(fields['host'])!r}: it may not begin with '-' (ssh "
                "would take it for an option) nor hold line breaks or other control characters."
            )
        if not text.isascii() and any(0xD800 <= ord(each) < 0xE000 for each in text):
            raise UserError(f"hydra.launcher.hosts: {key}={text!a} is not text. Give {_EXAMPLES}.")
    _check_names("host", _UNFIT_HOST, str(fields["host"]))
    _check_names("user", _UNFIT_USER, str(fields.get("user") or ""))
    for place in filter(None, str(fields.get("jump") or "").removeprefix("ssh://").split(",")):
        user, _, host = place.rpartition("@")
        if place.startswith("-") or host.startswith("-") or not host:
            raise UserError(
                f"hydra.launcher.hosts: jump={fields['jump']!r}: [USER@]HOST[:PORT], or several with commas."
            )
        _check_names("jump", _UNFIT_HOST, host.removeprefix("ssh://").rstrip("/"))
        _check_names("jump", _UNFIT_USER, user)


def _check_names(key: str, unfit: re.Pattern[str], text: str) -> None:
    found = unfit.search(text)
    if found or text.startswith("-"):
        odd = found.group() if found else "-"
        raise UserError(
            f"hydra.launcher.hosts: {key}={text!r}: {odd!r} cannot be part of it. Put a machine whose way is written "
            "otherwise into ~/.ssh/config under a plain Host name, and give that name."
        )


def vars_of(host: Host) -> dict[str, object]:
    """The address of a host as a mapping that `parse_host` takes."""
    pairs = {key: getattr(host, key) for key in ("host", "user", "port", "identity", "jump")}
    return {key: value for key, value in pairs.items() if value}


def _port(value: object, given: object) -> int | None:
    if value is None:
        return None
    if not (str(value).isascii() and str(value).isdigit() and len(str(value)) < 6 and 0 < int(str(value)) < 65536):
        raise UserError(f"hydra.launcher.hosts: port {value!r} of {given!r} is none of 1..65535.")
    return int(str(value))


def _gpus(value: object, given: object) -> tuple[str, ...] | None:
    """`[0, 2]`: these; `2`: the first two; None: all there are; `[]` or 0: none."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return tuple(map(str, range(value)))
    if isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_index, value)):
        named = tuple(str(int(str(each))) for each in value)
        if len(set(named)) == len(named):
            return named
    raise UserError(
        f"hydra.launcher.hosts: gpus={value!r} of {given!r}: give a number or a list of indices, [0, 1], each once."
    )


def _is_index(value: object) -> bool:
    text = str(value)
    return (
        not isinstance(value, bool) and text.isascii() and text.isdigit() and int(text) < _MOST
        if len(text) < 5
        else False
    )


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(each) for each in value) if isinstance(value, Iterable) else ()
