"""The options of a LeRobot policy: xp's keys of the `model` section, typed, and the policy's fields as given."""

from collections.abc import Mapping
from dataclasses import dataclass

from xp.json_types import JSON, JSONObject
from xp.models.section import Section

XP_KEYS = ("name", "family", "lr_peak", "type", "cameras", "image_size", "allow_fps_change", "frozen_norms")
"""Keys of the section that are xp's, not the policy's."""


@dataclass(frozen=True, kw_only=True)
class LeRobotOptions:
    """The `model` section with `family: lerobot`.

    `cameras` maps names of the policy's cameras to the dataset's, or lists the dataset's; `image_size` is [height,
    width] in pixels; `frozen_norms` says how those of a backbone start that is drawn at random; `fields` are those of
    the policy's own configuration class. None, of any: not said.
    """

    name: str | None = None
    policy_type: str | None = None
    cameras: JSON = None
    image_size: JSON = None
    allow_fps_change: bool = False
    frozen_norms: str | None = None
    fields: Mapping[str, JSON]

    @classmethod
    def from_config(cls, model_cfg: JSONObject) -> "LeRobotOptions":
        """Read the `model` section; the values are checked where they are used.

        Raises:
            UserError: a key of xp's with a value of another type.
        """
        section = Section(model_cfg)
        return cls(
            name=section.text("name"),
            policy_type=section.text("type"),
            cameras=section.get("cameras"),
            image_size=section.get("image_size"),
            allow_fps_change=bool(section.flag("allow_fps_change")),
            frozen_norms=section.text("frozen_norms"),
            fields={key: value for key, value in model_cfg.items() if key not in XP_KEYS},
        )
