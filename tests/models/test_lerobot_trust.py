"""What a LeRobot folder may name: known steps, and what LeRobot's own classes load by."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.errors import UserError
from xp.foreign.json_file import Fields
from xp.models.lerobot.trust import LOADED, STEPS, TOKENIZERS, check_config, check_processor

DEFAULTS = {"vlm_model_name": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "vision_encoder_name": None, "dim": 8}


def _config(**values):
    return Fields(values, "config.json")


def test_names_that_lerobot_itself_has_are_allowed_and_others_are_refused_by_field(monkeypatch):
    check_config(_config(type="smolvla", **DEFAULTS), DEFAULTS)
    check_config(
        _config(scheduler_name="linear", repo_id="me/mine", license="a/b", vision_backbone="resnet34"), DEFAULTS
    )
    for name, value in {
        "vlm_model_name": "stranger/model", "vision_encoder_name": "gpt2", "some_new_field": "stranger/model",
        "nested": {"deep": ["~/x"]}, "trust_remote_code": True, "dim": 10**12,
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"config.json: {name} is"):
            check_config(_config(**{name: value}), DEFAULTS)
    monkeypatch.setenv("XP_TRUSTED_NAMES", "mine/other, stranger/model")
    check_config(_config(vlm_model_name="stranger/model"), DEFAULTS)
    with pytest.raises(UserError, match="XP_TRUSTED_NAMES"):
        check_config(_config(vlm_model_name="stranger/models"), DEFAULTS)


def test_every_field_of_lerobots_configurations_by_which_something_is_loaded_is_known():
    """Fields of LeRobot's own policies whose default is a name on a hub are among those that are compared with it."""
    import dataclasses

    import lerobot.policies  # noqa: F401
    from lerobot.configs import PreTrainedConfig

    named = set()
    for name in PreTrainedConfig.get_known_choices():
        for field in dataclasses.fields(PreTrainedConfig.get_choice_class(name)):
            if isinstance(field.default, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", field.default):
                named.add(field.name)
    assert named and named <= LOADED


def test_no_known_step_has_a_field_that_trusts_code_or_loads_a_model():
    """Only the tokenizer's step loads by a name, and that name is compared."""
    import dataclasses

    import lerobot.policies  # noqa: F401
    from lerobot.processor import ProcessorStepRegistry

    for name in STEPS & set(ProcessorStepRegistry.list()):
        cls = ProcessorStepRegistry.get(name)
        fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
        assert not fields & {"trust_remote_code", "pretrained_path", "model_name", "processor_name"}, name
        assert "tokenizer_name" not in fields or name == "tokenizer_processor"


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["stranger/it", "../x", "/etc", "state.safetensors", "device_processor", "subprocess.Popen"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_steps = st.dictionaries(st.sampled_from(["registry_name", "class", "config", "state_file", "x"]), _values, max_size=4)
_SOME = sorted(LOADED)[:4]
_processors = st.fixed_dictionaries({}, optional={"name": _values, "steps": st.lists(_steps, max_size=3) | _values})


@settings(max_examples=300)
@given(_processors | _values)
def test_any_processor_file_is_known_steps_or_one_refusal(tmp_path_factory, content):
    folder = Path(tmp_path_factory.getbasetemp())
    (folder / "p.json").write_text(json.dumps(content), encoding="utf-8")
    try:
        check_processor(folder, "p.json", TOKENIZERS)
    except UserError as error:
        assert str(error).isprintable() and "p.json" in str(error)
    else:
        assert all(set(step) <= {"registry_name", "config", "state_file"} for step in content["steps"])
        assert all(step["registry_name"] in STEPS for step in content["steps"])


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*_SOME, "chunk_size", "input_features", "dim", "x"]), _values, max_size=4))
def test_any_configuration_loads_nothing_by_its_own_names_or_is_refused(values):
    try:
        check_config(_config(**values), DEFAULTS)
    except UserError as error:
        assert str(error).isprintable() and "config.json" in str(error)
    else:
        assert all(values.get(name) in (None, DEFAULTS.get(name)) for name in LOADED)
        assert not re.search(r"stranger/it|\.\./x|/etc", json.dumps(values))
