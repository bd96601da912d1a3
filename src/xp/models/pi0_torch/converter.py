"""The formats of pi0 and pi0.5 and the ways between them, for `task=convert`. Imports nothing heavy."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xp.models.converter import Advance, Converter, Convertible
from xp.models.family import LoadRequest

if TYPE_CHECKING:
    from xp.models.pi0_torch.policy import Pi0TorchPolicy


class Pi0Converter(Converter):
    """openpi in JAX, openpi in torch, LeRobot."""

    formats = {
        "openpi_jax": "openpi's JAX layout: STEP/params and STEP/assets",
        "openpi_torch": "openpi's layout in torch: model.safetensors and assets",
        "lerobot": "LeRobot's pretrained_model: model.safetensors, config.json and processors",
    }

    def converts(self, folder: Path) -> bool:
        """See `Converter.converts`."""
        from xp.models.pi0.convert import is_convertible

        return is_convertible(folder)

    def open(self, folder: Path, step: int | None, options: Mapping[str, str]) -> Convertible:
        """See `Converter.open`."""
        from xp.models.pi0.convert import open_source

        return open_source(folder, step, options)

    def convert(
        self, source: Convertible, to: str, output: Path, *, dtype: str | None = None, advance: Advance = lambda _: None
    ) -> None:
        """See `Converter.convert`."""
        from xp.models.pi0.convert import Source, convert

        assert isinstance(source, Source)
        convert(source, to, output, dtype=dtype, advance=advance)

    def load(self, folder: Path, step: int | None, options: Mapping[str, str]) -> "Pi0TorchPolicy | None":
        """LeRobot's folders, in xp's own way in and out: LeRobot's needs its tokeniser from the hub."""
        from xp.models.pi0.io.torch_folder import is_lerobot_pi0

        if not is_lerobot_pi0(folder):
            return None
        from xp.models.pi0_torch.build import load

        return load(LoadRequest(folder, options=options))


CONVERTER = Pi0Converter()
