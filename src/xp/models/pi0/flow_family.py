"""What the families of pi0 in both frameworks are alike in. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xp.json_types import JSONObject
from xp.models.family import Family


class FlowFamily(Family):
    """A family of pi0 and pi0.5; which of the two a folder holds is told by its weights."""

    load_options = {
        "asset_id": "whose statistics are used, where the folder has several",
        "unnorm_key": "the same; of a policy of a mixture the dataset whose cameras feed it too",
        "horizon": "actions in a chunk, where the folder does not say (default: 50)",
        "prompt_length": "tokens of a prompt, which openpi's folders do not say (default: 200 for pi0.5, 48 for pi0)",
        "tokenizer": "the folder of PaliGemma's tokenizer, where it does not lie beside the weights",
        "dtype": "float32 or bfloat16, which the weights are cast to while they are read",
    }
    takes_relative_actions = True
    takes_mixtures = True

    def camera_sizes(
        self, model_cfg: JSONObject, cameras: Mapping[str, Sequence[int]], pretrained: Path | None = None
    ) -> dict[str, tuple[int, int]]:
        """As stored: the policy fits pictures into its square itself, so that their shape is kept."""
        from xp.models.pi0.cameras import stored_sizes
        from xp.models.pi0.options import camera_options

        return stored_sizes(camera_options(model_cfg), cameras)
