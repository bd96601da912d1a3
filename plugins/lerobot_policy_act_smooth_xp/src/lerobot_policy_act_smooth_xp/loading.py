"""Loading an ACT-smooth: every weight accounted for, and what stands beside config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lerobot_policy_act_smooth_xp.configuration_act_smooth import BESIDE


class HubOptions(TypedDict, total=False):
    """How a policy is fetched from a hub, as LeRobot's `from_pretrained` names it."""

    force_download: bool
    resume_download: bool | None
    proxies: dict[str, str] | None
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    revision: str | None


def load_checked(model: nn.Module, file: str, device: str) -> None:
    """Load weights key by key.

    Raises:
        ValueError: a name, a shape or a window (`_indices_target`) that differs.
    """
    found, wanted = load_file(file, device=device), model.state_dict()
    problems = _differences(found, wanted)
    if problems:
        listed = "\n  ".join(problems[:12] + ([f"... {len(problems) - 12} more"] if len(problems) > 12 else []))
        raise ValueError(f"act_smooth: the weights in {file} do not fit its config.json:\n  {listed}")
    model.load_state_dict(found)


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    problems = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"not known: {name}" for name in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{name} is {tuple(found[name].shape)} in the file, {tuple(wanted[name].shape)} by config.json"
        for name in sorted(found.keys() & wanted.keys())
        if found[name].shape != wanted[name].shape
    ]
    indices = found.get("_indices_target")
    if not problems and indices is not None and not torch.equal(indices.cpu(), wanted["_indices_target"].cpu()):
        own, given = (int(x[0, 0]) - 1 for x in (wanted["_indices_target"], indices))
        problems = [f"the file's windows have K = {given} past actions, config.json says {own}"]
    return problems


def folder_of(place: str | Path, **options: Unpack[HubOptions]) -> Path | None:
    """The local folder that holds a pretrained policy's `BESIDE`; None where there is none."""
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        found = hf_hub_download(
            str(place),
            BESIDE,
            force_download=options.get("force_download", False),
            token=options.get("token"),
            cache_dir=options.get("cache_dir"),
            local_files_only=options.get("local_files_only", False),
            revision=options.get("revision"),
        )
    except (EntryNotFoundError, OSError):
        return None
    return Path(found).parent
