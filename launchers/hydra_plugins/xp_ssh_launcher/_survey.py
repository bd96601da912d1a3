"""What experiments have left on the hosts, and its removal: what `xp task=gc` asks of this executor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient
from hydra_plugins.xp_ssh_launcher._hosts import Host
from hydra_plugins.xp_ssh_launcher._settings import Settings
from hydra_plugins.xp_ssh_launcher._ssh_errors import Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Link
from xp.errors import UserError
from xp.runs.executors.protocol import Leftover

_PARTS = (
    ("experiments", "experiment", "clear", "experiment"),
    ("placed", "data", "clear_placed", "path"),
    ("environments", "environment", "clear_environment", "path"),
)
"""(part of a survey's answer, kind of thing, request that removes one, the request's argument)."""
_LONG_S = 600.0
"""Patience while a node adds up the sizes of many files."""


@contextmanager
def agent_at(settings: Settings, host: Host) -> Iterator[AgentClient]:
    """A conversation with a host, of its own connection."""
    link = Link(host, python=host.python or settings.python, ssh_config=settings.ssh_config)
    agent = AgentClient(link)
    try:
        link.connect()
        agent.greet(workdir=host.workdir or settings.workdir, folders=[], marks={}, gpus_wanted=[], slots=1)
        yield agent
    finally:
        agent.close()
        link.close()


def survey(settings: Settings, experiment: Path) -> list[Leftover]:
    """One entry per thing; a host that cannot be asked gives a `fault`."""
    found: list[Leftover] = []
    for host in settings.hosts:
        try:
            with agent_at(settings, host) as agent:
                seen = agent.ask("survey", experiments=[str(experiment)], patience_s=_LONG_S)
        except (Unreachable, Refused) as error:
            found.append(
                Leftover(
                    kind="fault", host=host.name, path="", bytes=0, running=False, remove=lambda: 0, line=str(error)
                )
            )
            continue
        for part, kind, request, name in _PARTS:
            for item in seen[part]:
                path, running = str(item["path"]), bool(item.get("running", False))
                remove = _remover(settings, host, request, {name: path})
                found.append(
                    Leftover(kind=kind, host=host.name, path=path, bytes=item["bytes"], running=running, remove=remove)
                )
    return found


def _remover(settings: Settings, host: Host, request: str, what: dict[str, str]) -> Callable[[], int]:
    """A function that removes one thing and gives the bytes that it took; a `UserError` says why it stays."""

    def remove() -> int:
        try:
            with agent_at(settings, host) as agent:
                return int(agent.ask(request, **what, patience_s=_LONG_S)["bytes"])
        except (Unreachable, Refused) as error:
            raise UserError(str(error)) from None

    return remove
