"""What stands between ssh and the agent: talkative or greedy login shells, few sessions, long paths."""

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from ssh_nodes import PORT, SESSIONS
from ssh_site import expected

from hydra_plugins.xp_ssh_launcher import _channel
from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient
from hydra_plugins.xp_ssh_launcher._files import FileSync
from hydra_plugins.xp_ssh_launcher._hosts import parse_host
from hydra_plugins.xp_ssh_launcher._ssh_errors import NoSession, Refused, Unreachable
from hydra_plugins.xp_ssh_launcher._transport import Link, agent_script, socket_folder

pytestmark = pytest.mark.timeout(300)

NOISE = {
    "a line": "echo welcome to the cluster",
    "no end of line": "printf 'welcome'",
    "binary": r"printf '\000\377\033[2J{\"ok\": 1}\n\r\n'; head -c 300000 /dev/urandom",
    "json": "echo '{\"ok\": {}}'",
    "a question": 'read -r -p "press enter to go on " answer; echo "thank you $answer"',
    "three questions": "read -r a; read -r b; read -r c; echo $a$b$c done",
    "an exit trap": "trap 'echo bye' EXIT; echo hello",
    "errors": "echo oops >&2; nosuchcommand; stty -ixon; false",
    "tracing": "set -x; echo traced",
    "a motd": "for i in $(seq 500); do echo '*** message of the day ***'; done",
}


@pytest.fixture
def link(pair):
    """A function that gives a link to the first node, by a port of its own."""
    made = []

    def connect(port: int = PORT) -> Link:
        host = parse_host({"host": pair["node1"].address, "user": "root", "port": port, "identity": str(pair.key)})
        made.append(Link(host, python=sys.executable, ssh_config=str(pair.config)))
        made[-1].connect()
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def bashrc(pair):
    """The first node's ~/.bashrc, which is gone after the test."""
    path = pair["node1"].home / ".bashrc"
    yield path
    path.unlink(missing_ok=True)


def greeted(link: Link) -> AgentClient:
    agent = AgentClient(link)
    agent.greet(workdir="~/.xp", folders=[], marks={}, gpus_wanted=[], slots=1)
    return agent


def carried(link: Link, agent: AgentClient, tmp_path: Path, site) -> None:
    """Large and small files arrive there and come back."""
    here, back, there = tmp_path / "here", tmp_path / "back", Path("/tmp") / f"xp-carried-{os.getpid()}-{tmp_path.name}"
    here.mkdir(), (here / "large.bin").write_bytes(os.urandom(5_000_000)), (here / "small.txt").write_text("x")
    files = FileSync(link, agent, rsync=True)
    try:
        files.push(here, there)
        assert files.pull(back, tmp_path / "staging", source=there)
        assert all((back / name).read_bytes() == (here / name).read_bytes() for name in ("large.bin", "small.txt"))
        assert abs((back / "large.bin").stat().st_mtime_ns - (here / "large.bin").stat().st_mtime_ns) <= 1000
    finally:
        shutil.rmtree(there, ignore_errors=True)


@pytest.mark.parametrize("what", NOISE)
def test_what_a_login_shell_prints_or_reads_is_skipped(link, bashrc, what):
    bashrc.write_text(NOISE[what] + "\n")
    agent = greeted(link())
    assert agent.ask("list", path="/proc/self/status")["exists"]
    agent.close()


def test_files_are_carried_past_a_talkative_shell(link, bashrc, tmp_path, site):
    bashrc.write_text("echo hello; read -r -p 'go on? ' x\n")
    there = link()
    agent = greeted(there)
    assert there.noisy
    carried(there, agent, tmp_path, site)
    agent.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo no logins today; exit 5", "ended (5) before xp's command; it printed 'no logins today'"),
        ("cat >/dev/null", "it printed nothing"),
        ("echo wait; sleep 60", "did not get to xp's command in time; it printed 'wait'"),
        ("while :; do echo y; done", "did not get to xp's command in time; it printed 'y y"),
    ],
)
def test_a_login_shell_that_lets_nothing_through_is_named_with_what_to_try(link, bashrc, monkeypatch, text, words):
    monkeypatch.setattr(_channel, "GREETING_S", 3.0)
    bashrc.write_text(text + "\n")
    there = link()
    with pytest.raises(Unreachable) as error:
        greeted(there)
    line = str(error.value)
    assert words in line and "~/.bashrc" in line and "echo ok" in line and "\n" not in line


@pytest.mark.parametrize("sessions", [1, 2])
def test_a_connection_with_one_or_two_sessions_carries_everything(link, tmp_path, site, sessions):
    there = link(SESSIONS[sessions])
    work, others = greeted(there), []
    for _ in range(sessions - 1):
        others.append(greeted(there))
    with pytest.raises(NoSession, match="MaxSessions"):
        greeted(there)
    carried(there, work, tmp_path, site)
    for each in (work, *others):
        each.close()


def test_jobs_run_on_a_host_that_allows_one_session(site, pair):
    one = f"{{host: {pair['node1'].address}, user: root, port: {SESSIONS[1]}, identity: {pair.key}, name: one}}"
    none = f"{{host: {pair['node1'].address}, user: root, port: {SESSIONS[0]}, identity: {pair.key}, name: none}}"
    code, output = site.run("seed=1,2", "work.blob_kb=400", "hydra.launcher.detach=false", hosts=(one, none))
    assert code == 0, output + site.log()
    assert site.results() == {"seed_1": expected(1, 3), "seed_2": expected(2, 3)}
    assert "one: sshd allows one session there (MaxSessions)" in site.log()
    assert any("none: " in line and "MaxSessions 10" in line for line in output.splitlines()), output


@pytest.mark.parametrize("name", ["x" * 100, "with space", "100%/d", 'a"b', "ä"])
def test_the_control_socket_has_a_path_that_ssh_can_use_whatever_tmpdir_is(tmp_path, monkeypatch, link, name):
    place = tmp_path / name
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folder = Path(socket_folder())
    assert len(str(folder)) <= 90 and folder.stat().st_mode & 0o777 == 0o700 and place not in folder.parents
    folder.rmdir()
    agent = greeted(link())
    agent.close()


def test_without_any_place_for_the_control_socket_it_is_said_what_to_name(monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(13, "Permission denied")))
    with pytest.raises(Refused, match="control socket.*XDG_RUNTIME_DIR="):
        socket_folder()


def test_the_command_that_starts_the_agent_is_one_plain_line_for_any_login_shell():
    """csh takes neither a line break nor `!` inside quotes."""
    host = parse_host({"host": "a"})
    for mode in ("serve", "send", "receive"):
        code = _channel.start_code(mode, agent_script(), _channel.token())
        assert code.isprintable() and "!" not in code and "`" not in code and "$" not in code
        compile(code, "x", "exec")
        line = Link(host, python="my python")._agent_command(mode, b"xp-0")[-1]
        assert line.isprintable() and "!" not in line
        assert shlex.split(line)[:3] == ["exec", "sh", "-c"]


def test_a_control_folder_that_was_cleaned_away_is_made_again(link):
    there = link()
    there.close()
    there.connect()
    shutil.rmtree(there._folder)
    assert not there.connected
    there.connect()
    agent = greeted(there)
    agent.close()


def test_a_broken_python_environment_of_the_shell_does_not_reach_the_agent(link, bashrc, tmp_path):
    bashrc.write_text("export PYTHONPATH=/nowhere PYTHONHOME=/nowhere PYTHONSTARTUP=/nowhere PYTHONINSPECT=1\n")
    agent = greeted(link())
    assert agent.ask("list", path="/proc/self/status")["exists"]
    agent.close()
