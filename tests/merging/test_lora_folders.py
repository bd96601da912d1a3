"""Adapter folders from strangers: fields and arrays not honoured, bases elsewhere, sidecar files, hostile files."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merging_made_up import write_torch
from safetensors.numpy import load_file, save_file

from xp.checkpoints.open import open_checkpoint
from xp.errors import UserError
from xp.merging import merge

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"], "base_model_name_or_path": "base"}
A, B = "base_model.model.layers.0.q.lora_A.weight", "base_model.model.layers.0.q.lora_B.weight"
RNG = np.random.default_rng(0)
DRAWN = {A: RNG.standard_normal((2, 5)).astype(np.float32), B: RNG.standard_normal((6, 2)).astype(np.float32)}
BASE = {
    "layers.0.q.weight": RNG.standard_normal((6, 5)).astype(np.float32),
    "layers.0.q.bias": np.zeros(6, np.float32),
    "head.weight": np.ones((3, 6), np.float32),
    "head.bias": np.ones(3, np.float32),
    "step": np.array(3),
}


@pytest.fixture
def place(tmp_path):
    write_torch(tmp_path / "base", BASE)
    return tmp_path


def adapter(place, config=None, arrays=None, name="adapter"):
    folder = place / name
    folder.mkdir(exist_ok=True)
    save_file(DRAWN if arrays is None else arrays, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **(config or {})}))
    return folder


def q_of(folder, **options):
    reader = open_checkpoint(folder, **options).reader
    return np.array(reader.read("layers.0.q.weight", 0, 30)).reshape(6, 5)


FIELDS = [
    ({"peft_type": kind}, f"peft_type is '{kind}'")
    for kind in ("LOHA", "LOKR", "IA3", "ADALORA", "OFT", "VERA", "PREFIX_TUNING", "BONE", "XLORA", "HIRA")
] + [
    ({"peft_type": None}, "peft_type is 'missing'"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is.*some tokens only"),
    ({"arrow_config": {"top_k": 2}}, "arrow_config is"),
    ({"megatron_config": {"tp": 2}}, "megatron_config is"),
    ({"layer_replication": [[0, 1]]}, "layer_replication is"),
    ({"target_parameters": ["q.weight"]}, "target_parameters is"),
    ({"ensure_weight_tying": True}, "ensure_weight_tying is True"),
    ({"use_qalora": True}, "use_qalora is True"),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is"),
    ({"kasa_config": {}, "monteclora_config": {"num_samples": 2}}, "monteclora_config is"),
    ({"field_of_tomorrow": 3}, "field_of_tomorrow is 3.*not known"),
    ({"use_dora": True}, "use_dora is True.*no lora_magnitude_vector"),
    ({"lora_bias": True}, "lora_bias is True"),
    ({"r": 3}, ": r is 3.*rank 3"),
    ({"r": 10**12}, "r is 10000000"),
    ({"r": 0}, "r is 0"),
    ({"r": True}, "r is True"),
    ({"r": None}, "r is None"),
    ({"rank_pattern": {"q": 4}}, "rank_pattern is.*rank 4"),
    ({"rank_pattern": {"q": 0}}, "rank_pattern.q is 0"),
    ({"alpha_pattern": {"q": "many"}}, "alpha_pattern.q is 'many'"),
    ({"alpha_pattern": {"(": 4}}, r"alpha_pattern: .*'\('.* is no regular expression"),
    ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    ({"lora_alpha": 10**400}, "lora_alpha is"),
    ({"lora_alpha": "4"}, "lora_alpha is '4': expected a number"),
    ({"use_rslora": "yes"}, "use_rslora is 'yes': expected true or false"),
    ({"bias": "some"}, "bias is 'some'"),
    ({"target_modules": ["v"]}, "target_modules is.*skips layers.0.q"),
    ({"target_modules": r"layers\.1\..*"}, "target_modules is.*skips"),
    ({"target_modules": 3}, "target_modules is 3"),
    ({"exclude_modules": ["q"]}, "exclude_modules is"),
    ({"layers_to_transform": [1]}, "layers_to_transform is"),
    ({"layers_to_transform": [0], "layers_pattern": "blocks"}, "layers_to_transform is"),
    ({"modules_to_save": ["head"]}, "modules_to_save is.*no head.weight"),
    ({"modules_to_save": ["q"]}, "modules_to_save is"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'.*changed the base's weights"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), FIELDS)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_name(config, message, place):
    with pytest.raises(UserError, match=f"(?s)adapter_config.json.*{message}"):
        q_of(adapter(place, config))


EMPTY = {
    **dict.fromkeys(["alora_invocation_tokens", "layer_replication", "field_of_tomorrow", "use_dora"]),
    **{"use_qalora": False, "target_parameters": [], "exclude_modules": [], "loftq_config": {}, "rank_pattern": {}},
    **{"qalora_group_size": 16, "megatron_core": "megatron.core", "lora_dropout": 0.3, "inference_mode": True},
    **{"revision": "v2", "task_type": "CAUSAL_LM", "runtime_config": {"x": 1}},
    **{"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
}


def test_fields_that_are_empty_or_of_training_change_nothing(place):
    expected = BASE["layers.0.q.weight"] + 2 * DRAWN[B] @ DRAWN[A]
    np.testing.assert_allclose(q_of(adapter(place, EMPTY)), expected, rtol=1e-6)


EXTRA = "base_model.model."
ARRAYS = [
    ({A: DRAWN[A]}, "are not a complete update"),
    ({}, "no update and no trained copy"),
    (
        {**DRAWN, EXTRA + "v.lora_A.weight": DRAWN[A], EXTRA + "v.lora_B.weight": DRAWN[B]},
        "(target_modules|no v.weight)",
    ),
    ({**DRAWN, EXTRA + "layers.0.q.lora_magnitude_vector": np.ones(6, np.float32)}, "use_dora"),
    ({**DRAWN, EXTRA + "layers.0.q.lora_B.bias": np.ones(6, np.float32)}, "lora_bias"),
    ({**DRAWN, EXTRA + "layers.0.q.lora_diag": np.ones(2, np.float32)}, "lora_diag belongs to nothing"),
    ({**DRAWN, EXTRA + "head.weight": np.ones((4, 6), np.float32)}, r"\[4, 6\] is to replace head.weight \[3, 6\]"),
    ({**DRAWN, EXTRA + "step": np.ones((), np.float32)}, "step is int64"),
    ({**DRAWN, EXTRA + "layers.0.q.weight": BASE["layers.0.q.weight"]}, "an update are both for layers.0.q.weight"),
    ({**DRAWN, EXTRA + "layers.0.q.lora_A.default.weight": DRAWN[A]}, "are for the same weight"),
    ({A: np.ones((2, 7), np.float32), B: DRAWN[B]}, r"A \[2, 7\] and B \[6, 2\]"),
    ({A: np.ones(10, np.float32), B: DRAWN[B]}, r"A \[10\]"),
    ({A: np.ones((), np.float32), B: DRAWN[B]}, r"A \[\]"),
    ({A: DRAWN[A].astype(np.int8), B: DRAWN[B]}, "int8"),
    ({EXTRA + "other.lora_A.weight": DRAWN[A], EXTRA + "other.lora_B.weight": DRAWN[B]}, "other"),
]


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_an_array_that_belongs_to_nothing_or_does_not_fit_is_refused(arrays, message, place):
    with pytest.raises(UserError, match=f"(?s){message}"):
        q_of(adapter(place, {}, arrays))


def test_an_update_of_quantised_or_missing_weights_is_refused(tmp_path):
    quantised = {**BASE, "layers.0.q.weight": np.zeros((6, 5), np.uint8), "layers.0.q.SCB": np.ones(6, np.float32)}
    write_torch(tmp_path / "base", quantised)
    with pytest.raises(UserError, match="layers.0.q.weight is uint8.*not of quantised ones"):
        q_of(adapter(tmp_path))
    tied = {name: array for name, array in BASE.items() if name != "layers.0.q.weight"}
    write_torch(tmp_path / "tied", tied, ties={"layers.0.q.weight": "head.weight"})
    with pytest.raises(UserError, match="keeps layers.0.q.weight tied to head.weight"):
        q_of(adapter(tmp_path, {"base_model_name_or_path": "tied"}))


def test_a_folder_with_a_whole_model_and_an_adapter_says_neither(place):
    folder = adapter(place)
    save_file(BASE, folder / "model.safetensors")
    with pytest.raises(UserError, match="a whole model and an adapter"):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"There is no file .*adapter_model.safetensors.*\.bin are pickles"):
        open_checkpoint(folder)


@pytest.mark.parametrize("named", ["base", "../base", "{place}/base", "inner/base"])
def test_a_base_beside_the_adapter_is_found(named, place, monkeypatch):
    monkeypatch.chdir("/")
    named = named.format(place=place)
    folder = adapter(place, {"base_model_name_or_path": named})
    if named.startswith("inner"):
        (folder / "inner").mkdir()
        (place / "base").rename(folder / "inner/base")
    assert open_checkpoint(folder).base is not None


ELSEWHERE = ["lerobot/smolvla_base", "{far}", "../../{far.name}/base", "", ".", "..", "a\0b", "x" * 4000]


@pytest.mark.parametrize("named", [*ELSEWHERE, "/dev/zero", "/", "link", "ring"])
def test_a_base_elsewhere_or_on_a_hub_is_not_followed_unasked(named, place, tmp_path_factory, monkeypatch):
    far = tmp_path_factory.mktemp("far")
    write_torch(far / "base", BASE)
    monkeypatch.chdir(far)
    (far / "lerobot").mkdir()
    write_torch(far / "lerobot/smolvla_base", BASE)
    folder = adapter(place, {"base_model_name_or_path": named.format(far=far) if "\0" not in named else named})
    (folder / "link").symlink_to(far / "base")
    (folder / "ring").symlink_to(folder / "ring")
    with pytest.raises(UserError, match="is a LoRA adapter.*merge.base=FOLDER"):
        open_checkpoint(folder)
    assert np.isfinite(q_of(folder, base=far / "base")).all()


def test_a_base_that_is_an_adapter_is_refused_and_a_ring_of_them_ends(place):
    first = adapter(place, name="first")
    second = adapter(place, {"base_model_name_or_path": "first"}, name="second")
    with pytest.raises(UserError, match="is an adapter itself: .*first.*xp task=merge"):
        open_checkpoint(second)
    adapter(place, {"base_model_name_or_path": "second"}, name="first")
    with pytest.raises(UserError, match="is an adapter itself"):
        open_checkpoint(first)
    with pytest.raises(UserError, match="is an adapter itself"):
        open_checkpoint(adapter(place, {"base_model_name_or_path": "nowhere"}, name="third"), base=place / "third")


def test_a_given_base_and_another_one_beside_the_adapter_are_not_mixed_up(place):
    folder = adapter(place)
    write_torch(place / "other", {name: array * 2 for name, array in BASE.items()})
    with pytest.raises(UserError, match="was trained on .*base.*and merge.base is .*other.*Fold the adapter"):
        open_checkpoint(folder, base=place / "other")
    assert open_checkpoint(folder, base=f"{place}/base").base == place / "base"


def test_the_base_of_an_adapter_is_never_the_output(place):
    folder, before = adapter(place), (place / "base/model.safetensors").read_bytes()
    for output in (place / "base", place / "base/inner", folder, place):
        with pytest.raises(UserError, match="merging would destroy it"):
            merge([folder, folder], output=output, overwrite=True)
    assert (place / "base/model.safetensors").read_bytes() == before


def sidecar(folder, value, **config):
    """LeRobot's sidecar files with a mean of `value`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"type": "act", "chunk_size": value, **config}))
    for side in ("pre", "post"):
        state = f"policy_{side}processor_step_0_normalizer_processor.safetensors"
        steps = [{"registry_name": "normalizer_processor", "config": {}, "state_file": state}]
        (folder / f"policy_{side}processor.json").write_text(json.dumps({"name": side, "steps": steps}))
        save_file({"action.mean": np.full(2, value, np.float32), "action.std": np.ones(2, np.float32)}, folder / state)


STATE = "policy_preprocessor_step_0_normalizer_processor.safetensors"


def test_the_outcome_has_the_sidecar_of_the_adapters_training(place):
    sidecar(place / "base", 1)
    folder = adapter(place)
    sidecar(folder, 7, use_peft=True, pretrained_path="/elsewhere/base")
    (folder / "train_config.json").write_text('{"peft": {"r": 2}}')
    record = merge([folder, folder], output=place / "out").record
    assert record["statistics"]["how"] == "equal"
    assert load_file(place / "out" / STATE)["action.mean"].tolist() == [7.0, 7.0]
    config = json.loads((place / "out/config.json").read_text())
    assert config == {"type": "act", "chunk_size": 7, "use_peft": False, "pretrained_path": None}
    assert not {"train_config.json", "adapter_config.json"} & {file.name for file in (place / "out").iterdir()}
    record = merge([folder, place / "base"], output=place / "both").record
    assert record["statistics"]["how"] == "pooled"
    assert load_file(place / "both" / STATE)["action.mean"].tolist() == [4.0, 4.0]


@pytest.mark.parametrize("missing", ["policy_preprocessor.json", "config.json", STATE])
def test_an_adapter_with_a_part_of_its_sidecar_is_refused(missing, place):
    sidecar(place / "base", 1)
    folder = adapter(place)
    sidecar(folder, 7)
    (folder / missing).unlink()
    with pytest.raises(UserError, match=f"only some of the files beside its weights: {missing} is missing"):
        open_checkpoint(folder)


def test_an_adapter_of_another_type_of_policy_is_refused(place):
    sidecar(place / "base", 1)
    folder = adapter(place)
    sidecar(folder, 1, type="diffusion")
    with pytest.raises(UserError, match='type is "diffusion".*is "act": they are different models'):
        open_checkpoint(folder)


def test_an_adapter_without_a_configuration_adds_its_tokenizer_to_the_bases(place):
    (place / "base/tokenizer.json").write_text('"old"')
    folder = adapter(place)
    (folder / "tokenizer.json").write_text('"new"')
    (folder / "trainer_state.json").write_text("{}")
    merge([folder, folder], output=place / "out")
    assert (place / "out/tokenizer.json").read_text() == '"new"'
    assert (place / "out/config.json").read_text() == (place / "base/config.json").read_text()
    assert not (place / "out/trainer_state.json").exists()


def test_a_policy_is_not_loaded_from_an_adapters_folder(place):
    import xp

    folder = adapter(place)
    sidecar(folder, 7)
    for path in (folder, place / "run"):
        (place / "run/final").mkdir(parents=True, exist_ok=True)
        (place / "run/final/adapter_config.json").write_text("{}")
        with pytest.raises(UserError, match=r"holds a PEFT adapter.*xp task=merge .*merge.checkpoints=\["):
            xp.load_policy(path)
    save_file(BASE, folder / "model.safetensors")
    with pytest.raises(UserError, match="holds a PEFT adapter"):
        xp.load_policy(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_in_an_adapters_folder_is_refused(name, place):
    folder = adapter(place)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=f"{name} is a named pipe"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "field",
    ["target_modules"]  # the limit of CPU time is used up in each
    + [
        pytest.param(field, marks=pytest.mark.slow)
        for field in ("alpha_pattern", "rank_pattern", "exclude_modules", "layers_pattern")
    ],
)
def test_a_pattern_that_never_ends_is_refused_in_time(field, place):
    pattern = "(a+)+b"
    long = "layers.0." + "a" * 40 + ".q"
    write_torch(place / "long", {f"{long}.weight": BASE["layers.0.q.weight"]})
    arrays = {f"{EXTRA}{long}.lora_A.weight": DRAWN[A], f"{EXTRA}{long}.lora_B.weight": DRAWN[B]}
    values = {"alpha_pattern": {pattern: 1}, "rank_pattern": {pattern: 2}, "layers_pattern": [".*" + pattern]}
    config = {
        field: values.get(field, ".*" + pattern),
        "layers_to_transform": [0] if field == "layers_pattern" else None,
    }
    config["base_model_name_or_path"] = "long"
    started = time.process_time()
    with pytest.raises(UserError, match=f"{field}"):
        q_of(adapter(place, config, arrays))
    assert time.process_time() - started < 5


WORDS = st.sampled_from(["q", "layers", ".*q", "(", "pissa", "all-linear"]) | st.text(max_size=8)
KEYS = st.sampled_from(["q", ".*", "[", "layers.0.q"]) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)


def names():
    from xp.checkpoints.peft_config import HONOURED, REFUSED, WITHOUT_EFFECT

    return sorted(HONOURED | REFUSED.keys() | WITHOUT_EFFECT) + ["unknown"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(names()), VALUES, max_size=4))
def test_any_configuration_is_read_or_refused(place, fields):
    folder = adapter(place, {**fields, "base_model_name_or_path": fields.get("base_model_name_or_path", "base")})
    try:
        assert q_of(folder, base=place / "base").shape == (6, 5)
    except UserError as error:
        assert len(str(error)) < 1500 and str(error).isprintable()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.builds(lambda depth: b'{"r":' * depth, st.integers(1, 100_000)))
def test_any_bytes_as_a_configuration_are_refused(place, data):
    folder = adapter(place)
    (folder / "adapter_config.json").write_bytes(data)
    with pytest.raises(UserError):
        open_checkpoint(folder)


def test_a_hostile_adapter_reaches_no_host_and_starts_nothing_of_its_own(place):
    """Under limits, with sockets refused: a hub id, and a base that is a device."""
    script = """
import resource, socket, subprocess, sys
from xp.errors import UserError
from xp.checkpoints.open import open_checkpoint
def refused(*words, **options):
    raise AssertionError("a socket or a process was asked for")
socket.socket = socket.create_connection = subprocess.Popen = refused
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
for path in sys.argv[1:]:
    try:
        open_checkpoint(path)
    except UserError as error:
        print(error)
"""
    paths = [
        adapter(place, {"base_model_name_or_path": named}, name=f"h{i}")
        for i, named in enumerate(("meta/model", "https://host/model", "/dev/stdin", "file:///etc", "hf://x/y"))
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.count("merge.base=FOLDER") == len(paths)
