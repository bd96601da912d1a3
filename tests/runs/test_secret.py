"""What is a secret, and that it is found wherever it stands."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.runs.jobs.secrets import REDACTED, is_secret, is_secret_name, redact, redact_overrides, restore, scrub


@pytest.mark.parametrize(
    "name",
    ["api_key", "WANDB_API_KEY", "hf_token", "HF_TOKEN", "auth", "passwd", "db.password", "credentials", "bearer",
     "private_key", "AWS_SECRET_ACCESS_KEY", "access_key", "apiKey", "accessToken", "GITHUB_PAT", "client_secret"],
)  # fmt: skip
def test_names_that_say_so(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["tokenizer", "repeat_task_tokens", "author", "path", "patterns", "key", "anchor", "model.language.tokenizer"],
)
def test_names_that_do_not(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter22@host/x",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "sk-abcdefghijklmnopqrstuvwxyz",
        "AKIAABCDEFGHIJKLMNOP",
        "Authorization: Bearer abcdefghijklmnop",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "export WANDB_API_KEY=abc123abc123",
        "curl --token abc123",
        "login --password=abc123",
        "db_password: abc123",
    ],
)
def test_texts_that_look_like_one_under_a_harmless_key(text):
    assert is_secret("note", text)


@pytest.mark.parametrize(
    "text",
    ["put the red cube on the target", "module load cuda/12", "export WANDB_API_KEY=$KEY", "https://host:8080/x",
     "${oc.env:HF_TOKEN}", "me@nas/run", "observation.images.top", "source ~/.bashrc", "git@host:group/name.git"],
)  # fmt: skip
def test_texts_that_do_not(text):
    assert not is_secret("note", text)


def test_the_value_of_a_secret_variable_is_found_under_any_key(monkeypatch):
    monkeypatch.setenv("XP_TEST_TOKEN", "quite-a-secret")
    clean, found = redact({"a": {"note": "x quite-a-secret y"}, "b": ["quite-a-secret"]})
    assert clean == {"a": {"note": REDACTED}, "b": [REDACTED]}
    assert found == {"a.note": "x quite-a-secret y", "b.0": "quite-a-secret"}
    assert scrub("failed with quite-a-secret") == f"failed with {REDACTED}"
    assert redact_overrides(["a.note=quite-a-secret"]) == [f"a.note={REDACTED}"]


def test_overrides_hide_what_the_configuration_hides():
    clean, found = redact({"logger": {"options": {"api_key": "S3cretValue"}}})
    overrides = ["+logger.options={api_key: S3cretValue}", "seed=1"]
    assert redact_overrides(overrides, found.values()) == [f"+logger.options={REDACTED}", "seed=1"]
    assert clean["logger"]["options"]["api_key"] == REDACTED


_KEYS = st.sampled_from(["a", "token", "api_key", "note", "list"])
_LEAVES = st.one_of(st.none(), st.integers(), st.booleans(), st.text(max_size=8), st.just("PLANTED-SECRET"))
_TREES = st.recursive(
    _LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner)), max_leaves=12
)


@given(st.dictionaries(_KEYS, _TREES))
def test_what_was_taken_out_goes_back_to_its_place(config):
    before = copy.deepcopy(config)
    clean, found = redact(config)
    assert config == before
    assert restore(copy.deepcopy(clean), found) == json.loads(json.dumps(before))
    assert "PLANTED" not in json.dumps([v for k, v in _leaves(clean, "") if is_secret_name(k)])


def _leaves(node, name):
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in _leaves(value, key)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in _leaves(value, name)]
    return [(name, node)]


def test_all_text_below_a_secret_key_is_hidden():
    clean, found = redact({"credentials": {"user": "me", "keys": ["one", 2]}, "seed": 3})
    assert clean == {"credentials": {"user": REDACTED, "keys": [REDACTED, 2]}, "seed": 3}
    assert found == {"credentials.user": "me", "credentials.keys.0": "one"}
