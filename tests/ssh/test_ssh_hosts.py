"""Hosts as users write them, and what ssh says when something is wrong with one."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_plugins.xp_ssh_launcher._hosts import parse_host, parse_hosts
from hydra_plugins.xp_ssh_launcher._settings import settings_of
from hydra_plugins.xp_ssh_launcher._ssh_errors import fault_of
from xp.errors import UserError


@pytest.mark.parametrize(
    ("shown", "address", "name"),
    [
        ("gpu1", ("--", "gpu1"), "gpu1"),
        ("ssh root@1.2.3.4 -p 41234", ("-p", "41234", "-l", "root", "--", "1.2.3.4"), "1.2.3.4:41234"),
        ("ssh -p41234 1.2.3.4", ("-p", "41234", "--", "1.2.3.4"), "1.2.3.4:41234"),
        ("root@1.2.3.4", ("-l", "root", "--", "1.2.3.4"), "1.2.3.4"),
        ("ssh -i '/a key' -J jump me@box", ("-l", "me", "-i", "/a key", "-J", "jump", "--", "box"), "box"),
        (
            {"host": "1.2.3.4", "user": "me", "port": 22, "name": "big"},
            ("-p", "22", "-l", "me", "--", "1.2.3.4"),
            "big",
        ),
        ({"host": "ssh root@1.2.3.4 -p 5", "gpus": [0]}, ("-p", "5", "-l", "root", "--", "1.2.3.4"), "1.2.3.4:5"),
        ({"host": "fe80::1", "user": "me"}, ("-l", "me", "--", "fe80::1"), "fe80::1"),
    ],
)
def test_a_host_is_read_as_it_is_shown_by_providers(shown, address, name):
    host = parse_host(shown)
    assert host.address == address and host.name == name
    assert parse_host({key: value for key, value in vars(host).items() if key != "local"}) == host


@pytest.mark.parametrize(
    ("wanted", "gpus"), [(None, None), (2, ("0", "1")), ([1, 3], ("1", "3")), ([], ()), (0, ()), (["0"], ("0",))]
)
def test_gpus_are_a_number_or_indices(wanted, gpus):
    assert parse_host({"host": "x", "gpus": wanted}).gpus == gpus


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([], "hosts is empty"),
        (["a", "a"], "names 'a' twice"),
        (["ssh -o Foo=1 a"], "'-o' in"),
        (["ssh a b"], "names 2 machines"),
        ([{"host": "a", "gpu": 1}], "no 'gpu' (did you mean 'gpus'?)"),
        ([{"user": "me"}], "no `host`"),
        ([{"host": "a", "port": 99999}], "none of 1..65535"),
        ([{"host": "a", "gpus": "all"}], "gpus='all'"),
        ([{"host": "-oProxyCommand=evil"}], "no `host`"),
        (["me@-oProxyCommand=evil"], "no `host`"),
        ([{"host": "a", "user": "-oProxyCommand=evil"}], "may not begin with '-'"),
        (["ssh -l -oProxyCommand=x a"], "may not begin with '-'"),
        (["-oProxyCommand=x@a"], "is not understood"),
        ([{"host": "a", "jump": "-oProxyCommand=evil"}], "may not begin with '-'"),
        ([{"host": "a", "jump": "b,-oProxyCommand=evil"}], "jump='b,-oProxyCommand=evil'"),
        ([{"host": "a", "jump": "me@-evil"}], "jump='me@-evil'"),
        ([{"host": "a", "jump": "b;touch x"}], "cannot be part of it"),
        ([{"host": "a", "identity": "-oX"}], "may not begin with '-'"),
        ([{"host": "a\nProxyCommand"}], "control characters"),
        ([{"host": "a", "user": "me\nroot"}], "control characters"),
        ([{"host": "a", "name": "x\x1b[2J"}], "control characters"),
        ([{"host": "a", "python": "py\n"}], "control characters"),
        ([{"host": "a", "workdir": "/x\0y"}], "control characters"),
        (["a$(x)"], "cannot be part of it"),
        (["a`x`"], "cannot be part of it"),
        ([{"host": "a", "user": "me;x"}], "cannot be part of it"),
        ([{"host": "a", "user": ["me"]}], "expected text"),
        (["ssh 'a"], "cannot be read"),
        (["''"], "no `host`"),
        (["ssh"], "names 0 machines"),
        ([{"host": "a", "port": "²"}], "none of 1..65535"),
        ([{"host": "a", "slots": 10**9}], "slots=1000000000"),
        ([{"host": "a", "slots": True}], "slots=True"),
        ([{"host": "a", "gpus": 10**9}], "gpus=1000000000"),
        ([{"host": "a", "gpus": [0, 0]}], "each once"),
        ([{"host": "a", "gpus": [True]}], "gpus=[True]"),
        ([{"host": "a", "slots": 0}], "slots=0"),
        ([7], "7, which is not a host"),
    ],
)
def test_a_host_that_cannot_be_read_is_refused_by_name(hosts, words):
    with pytest.raises(UserError, match="hydra.launcher.hosts") as error:
        parse_hosts(hosts)
    assert words in str(error.value)


def test_settings_have_bounds_and_unknown_ones_are_refused():
    assert settings_of(hosts=["a"], setup="make", here=None).setup == ("make",)
    assert settings_of(**settings_of(hosts=[{"host": "a", "gpus": [0]}]).to_json()) == settings_of(
        hosts=[{"host": "a", "gpus": [0]}]
    )
    for name, value, words in (("retry", 1, "did you mean 'retries'"), ("sync_every_s", 0, "at least 0.1"),
                               ("retries", "x", "a number"), ("retries", 0.5, "a whole number"),
                               ("lost_after_min", float("nan"), "a number"), ("grace_s", float("inf"), "a number"),
                               ("threads", 0, "at least 1"), ("ssh_config", "a\nb", "control characters"),
                               ("workdir", "-x", "begin with '-'"), ("env", {"A=B": "x"}, "a variable's name"),
                               ("env", {"A": "x\0"}, "a variable's name"),
                               ("env", ["A"], "expected {NAME: VALUE}")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            settings_of(hosts=["a"], **{name: value})


@pytest.mark.parametrize(
    ("stderr", "words", "passing"),
    [
        ("ssh: Could not resolve hostname gpu7: Name or service not known", "there is no machine 'gpu7'", False),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "ssh-keygen -R '[gpu7]:41'", False),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nOffending ED25519 key in /home/me/known hosts:3\r\n"
         "  remove with:\r\n  ssh-keygen -f \"/home/me/known hosts\" -R \"[1.2.3.4]:41\"\r\n",
         "anew: ssh-keygen -f \"/home/me/known hosts\" -R \"[1.2.3.4]:41\" ; then", False),
        ("Offending RSA key in /home/me/.ssh/known_hosts:12\nHost key verification failed.",
         "anew: sed -i 12d /home/me/.ssh/known_hosts ; then", False),
        ("No ED25519 host key is known for [gpu7]:41 and you have requested strict checking.\n"
         "Host key verification failed.", "accept it once: ssh -p 41 gpu7", False),
        ("root@gpu7: Permission denied (publickey).", "the login was refused", False),
        ("ssh: connect to host gpu7 port 41: Connection refused", "nothing listens at gpu7 port 41", True),
        ("ssh: connect to host gpu7 port 41: Connection timed out", "no connection to gpu7 port 41", True),
        ("kex_exchange_identification: Connection closed by remote host", "no connection to gpu7", True),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_one_line_with_host_and_remedy(stderr, words, passing):
    fault = fault_of(parse_host({"host": "gpu7", "port": 41, "name": "mine"}), stderr)
    assert fault.line.startswith("mine: ") and words in fault.line and fault.passing is passing
    assert "\n" not in fault.line


def test_the_locked_environment_is_made_by_uv_and_jobs_run_in_it_unless_another_python_is_named(checkout):
    made = settings_of(hosts=["a"], environment="uv", setup=["make"])
    fetch, sync, own = made.set_up(gpus=False)
    assert made.interpreter == "{workdir}/venv/bin/python" and own == "make" and made.prepares
    assert "uv sync" in sync and "--frozen" in sync and "{code}" in sync and "cuda" not in sync
    assert made.set_up(gpus=True) == (fetch, f"{sync} --extra cuda", own)
    assert "cuda" in tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert settings_of(hosts=["a"], environment="uv", python="/own/python").interpreter == "/own/python"
    assert not settings_of(hosts=["a"]).prepares and settings_of(hosts=["a"]).interpreter == "python3"
    with pytest.raises(UserError, match="allowed are uv and null"):
        settings_of(hosts=["a"], environment="conda")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["host", "user", "jump", "identity", "name", None]))
def test_whatever_a_host_is_called_it_is_refused_or_no_option_and_one_line(text, key):
    given_host = text if key is None else {"host": "a", key: text}
    try:
        host = parse_host(given_host)
    except UserError as error:
        assert "hydra.launcher.hosts" in str(error)
        return
    arguments = [each for each in (host.host, host.user, host.identity, host.jump, host.name) if each]
    assert not any(each.startswith("-") or "\n" in each or "\0" in each for each in arguments)
    assert host.address[-2:] == ("--", host.host)
