"""Checks what a LeRobot folder from elsewhere names: only known processor steps, and nothing new to be loaded.

A `pretrained_model` folder is data, but LeRobot acts on its words: a step's `class` is any class of any module, which
is made with the step's `config`; some steps and policies hand names from their configuration to `from_pretrained`,
often with `trust_remote_code=True`, which runs what a hub or a folder holds (LeRobot 0.6.1: processor/pipeline.py
`_resolve_step_class` and `_load_step_state`, tokenizer_processor.py, hil_processor.py, policies/*/configuration_*.py).
The rule: registered steps of this list only; a name that something would be loaded by is the one that LeRobot's own
class has.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from xp.errors import join_names
from xp.foreign.json_file import Fields, is_shape, read_fields
from xp.foreign.paths import member
from xp.foreign.safetensors_header import Header, read_safetensors_header
from xp.foreign.text import printable
from xp.models.lerobot.catalog import config_class
from xp.models.lerobot.folder import weights_header
from xp.models.lerobot.sidecar import CONFIG, POSTPROCESSOR, PREPROCESSOR, Sidecar

STEPS = frozenset(
    {
        "rename_observations_processor", "to_batch_processor", "to_batch_processor_action", "device_processor",
        "to_batch_processor_observation", "to_batch_processor_complementary_data", "normalizer_processor",
        "unnormalizer_processor", "observation_processor", "relative_actions_processor", "absolute_actions_processor",
        "image_crop_resize_processor", "torch2numpy_action_processor", "numpy2torch_action_processor",
        "tokenizer_processor", "smolvla_new_line_processor", "pi0_new_line_processor",
        "pi05_prepare_state_tokenizer_processor_step", "pi0_fast_prepare_state_tokenizer_processor_step",
        "xvla_image_scale", "xvla_image_to_float", "xvla_imagenet_normalize", "xvla_add_domain_id",
        "xvla_rotation_6d_to_axis_angle", "evo1_pad_state_processor", "evo1_pad_action_processor",
        "evo1_action_processor", "vla_jepa_clip_actions", "vla_jepa_pre_snap_gripper", "vla_jepa_binarize_gripper",
        "fastwam_action_toggle_processor", "wall_x_task_processor", "molmoact2_masked_normalizer",
        "molmoact2_masked_unnormalizer", "molmoact2_clamp_normalized", "molmoact2_clamp_action",
        "molmoact2_state_frame_transform", "molmoact2_action_frame_transform", "eo1_conversation_template_processor",
        "observation_dropout", "relative_to_anchor", "absolute_from_anchor", "hold_action", "lanczos_resize",
        "xp_dataset_to_be_chosen",
    }
)  # fmt: skip
"""Registered steps that compute with what they are given: LeRobot's, and those of our plugin, act_smooth.

Not among them, since they load by names of the folder: action_tokenizer_processor, reward_classifier_processor,
eo1_qwen_processor, molmoact2_pack_inputs and groot's.
"""
TOKENIZERS = ("google/paligemma-3b-pt-224",)
"""Names that LeRobot's code gives to tokenizers itself (pi0, pi05); others are defaults of a policy's configuration."""
LOADED = frozenset(
    {
        "action_tokenizer_name", "action_tokenizer_path", "base_model_id", "base_model_path", "checkpoint_path",
        "checkpoint_revision", "dataset_paths", "discrete_action_tokenizer", "jepa_encoder_name", "model_id",
        "pretrained_name_or_path", "qwen_model_name", "text_encoder_model_id", "text_encoder_name",
        "text_tokenizer_name", "tokenizer_assets_repo", "tokenizer_model_id", "tokenizer_name", "vision_encoder_name",
        "vlm_base", "vlm_model_name", "wan_pretrained_path",
    }
)  # fmt: skip
"""Fields of the policies' configurations by whose value something is loaded."""
NOTES = frozenset(
    {
        "repo_id", "pretrained_path", "pretrained_revision", "license", "tags", "private", "push_to_hub", "type",
        "device",
    }
)  # fmt: skip
"""Fields that xp sets itself or that nothing reads."""
LONGEST_CHUNK = 65_536
"""Actions in a chunk, observed steps, dimensions of a state or action."""
LARGEST = 10_000_000
"""The largest whole number in a configuration; 100,000 in a step's."""
_FEATURES = ("input_features", "output_features")
_HORIZON_FIELDS = ("chunk_size", "horizon", "n_action_steps", "n_obs_steps")
_LAYERS = re.compile(r".*(layers|blocks|depth)")
_WIDTHS = re.compile(r"dim|width|hidden|embed|latent|feedforward|channels")
VOUCHED = "XP_TRUSTED_NAMES"
"""The environment variable in which a user lists names of models or tokenizers, with commas, that may be loaded."""
_VOUCH = f"Where you know that it is safe, type it into the environment: export {VOUCHED}=NAME"
_PROCESSOR, _STEP = ("name", "steps"), ("registry_name", "config", "state_file")


def check_folder(sidecar: Sidecar) -> None:
    """Check configuration, processors and the headers of a `pretrained_model` folder before anything is made of them.

    Raises:
        UserError: names file and field, what is there and what is allowed.
    """
    cls = config_class(sidecar.policy_type)
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    config = Fields(sidecar.config, printable(sidecar.folder / CONFIG))
    check_config(config, defaults)
    _check_sizes(config, weights_header(sidecar.folder))
    own = (value for key, value in defaults.items() if key in LOADED and isinstance(value, str))
    tokenizers = (*TOKENIZERS, *own, *_vouched())
    for name in (PREPROCESSOR, POSTPROCESSOR):
        if os.path.lexists(sidecar.folder / name):
            check_processor(sidecar.folder, name, tokenizers)


def check_config(config: Fields, defaults: Mapping[str, object]) -> None:
    """Refuse a policy's configuration whose values would load something or that no policy can be made with.

    Args:
        config: config.json.
        defaults: {field: default} of the policy's configuration class.

    Raises:
        RefusedError: names the field and what is allowed.
    """
    for name, value in config.content.items():
        if name in NOTES:
            continue
        if name == "trust_remote_code" and value:
            raise config.refusal(name, "false: code that a folder brings is not run")
        loads = (name in LOADED and value is not None) or any(map(_is_place, _texts(value)))
        if loads and value != defaults.get(name) and not _is_vouched(value):
            own = f"{defaults[name]!r}, which LeRobot itself has" if defaults.get(name) is not None else "null"
            raise config.refusal(name, f"{own}, since something would be loaded by it. {_VOUCH}")
        if name not in _FEATURES and any(abs(number) > LARGEST for number in _integers(value)):
            raise config.refusal(name, f"whole numbers up to {LARGEST:,}")
    for name in _HORIZON_FIELDS:
        if name in config:
            config.integer(name, low=1, high=LONGEST_CHUNK)
    for key in _FEATURES:
        for _, feature in config.object(key, Fields({}, config.source)).objects():
            _check_feature(feature)


def _check_sizes(config: Fields, weights: Header) -> None:
    """Refuse more layers than the weights beside the configuration have tensors, or wider ones than any of them."""
    layers = max(len(weights.tensors), 64)
    width = max([4096, *(axis for tensor in weights.tensors.values() for axis in tensor.shape)])
    for name, value in config.content.items():
        numbers = list(_integers(value)) if name not in _FEATURES else []
        most = (
            layers if _LAYERS.fullmatch(name) else width if _WIDTHS.search(name) or name in _HORIZON_FIELDS else LARGEST
        )
        if any(number > most for number in numbers) or (isinstance(value, list) and len(value) > layers):
            raise config.refusal(name, f"at most {most:,}, by the weights beside it")


def check_processor(folder: Path, name: str, tokenizers: tuple[str, ...]) -> None:
    """Refuse a processor that names a class, an unknown step, a tokenizer of its own or a state outside the folder.

    Args:
        folder: a `pretrained_model` folder.
        name: the processor's file.
        tokenizers: names by which a step may load one.

    Raises:
        RefusedError: names file, step and field.
    """
    processor = read_fields(member(folder, name, "a policy's processor"), "a policy's processor")
    processor.refuse_others(_PROCESSOR)
    processor.text("name", "")
    for step in processor.list_of_objects("steps", most=100):
        _check_step(step, folder, tokenizers)


def _check_step(step: Fields, folder: Path, tokenizers: tuple[str, ...]) -> None:
    if "class" in step.content:
        raise step.refusal("class", "a registered step by its registry_name: classes that a file names are not made")
    step.refuse_others(_STEP)
    name = step.text("registry_name")
    if name not in STEPS:
        raise step.refusal(
            "registry_name", f"a step that is known to load and run nothing: {join_names(sorted(STEPS))}"
        )
    config = step.object("config", Fields({}, step.source))
    for key, value in config.content.items():
        if key == "trust_remote_code":
            raise config.refusal(key, "nothing: code that a folder brings is not run")
        if key == "tokenizer_name" and value not in tokenizers:
            allowed = join_names(tokenizers)
            raise config.refusal(key, f"a tokenizer that LeRobot names for this policy type: {allowed}. {_VOUCH}")
        if key != "tokenizer_name" and any(map(_is_address, _texts(value))):
            raise config.refusal(key, "no path and no address")
        if any(abs(number) > LARGEST // 100 for number in _integers(value)):
            raise config.refusal(key, f"whole numbers up to {LARGEST // 100:,}")
    if "features" in config and isinstance(config.content["features"], dict):
        for _, feature in config.object("features").objects():
            _check_feature(feature)
    if "state_file" in step:
        state = step.text("state_file", pattern=r"[\w.-]+\.safetensors")
        read_safetensors_header(member(folder, state, step.place("state_file")), "a processor's state")


def _check_feature(feature: Fields) -> None:
    feature.text("type", most=64)
    shape = feature.shape("shape", low=1)
    if not is_shape(shape) or math.prod(shape) > (LONGEST_CHUNK if len(shape) < 3 else LARGEST * 10):
        raise feature.refusal("shape", f"at most {LONGEST_CHUNK:,} numbers, or a picture")


def _vouched() -> tuple[str, ...]:
    """Names that the user has said are safe to load by."""
    return tuple(name.strip() for name in os.environ.get(VOUCHED, "").split(",") if name.strip())


def _is_vouched(value: object) -> bool:
    return isinstance(value, str) and value in _vouched()


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _texts(child)


def _integers(value: object) -> Iterator[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _integers(child)


def _is_place(text: str) -> bool:
    """Whether a text may be an address, a path or a name on a hub."""
    return "/" in text or "\\" in text or text.startswith(("~", "."))


def _is_address(text: str) -> bool:
    return "://" in text or text.startswith(("/", "~", ".."))
