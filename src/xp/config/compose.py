"""Composing: where conf/ is, the Hydra object, and configurations from overrides."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from xp.config import resolvers

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

CONFIG_NAME = "config"
VERSION_BASE = "1.3"


def conf_folder() -> Path:
    """The folder of option groups: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parents[1] / "conf"


def open_hydra(config_dir: str | None = None) -> "Hydra":
    """Hydra's own machinery over conf/, and over `config_dir` (`--config-dir`) before it."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    from xp.errors import UserError

    resolvers.register()
    version.setbase(VERSION_BASE)
    search_path = create_config_search_path(f"file://{conf_folder()}")
    if config_dir is not None:
        folder = Path(config_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder. Give a folder that holds option groups.")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name="xp", config_search_path=search_path)


def compose(overrides: list[str]) -> DictConfig:
    """The configuration of one run, without the `hydra` section; Hydra's errors become `UserError`s."""
    from hydra.types import RunMode

    from xp.config.hydra_errors import hydra_errors_as_user_errors

    hydra = open_hydra()
    with hydra_errors_as_user_errors(hydra, overrides, CONFIG_NAME):
        config = hydra.compose_config(CONFIG_NAME, overrides, run_mode=RunMode.RUN, with_log_configuration=False)
    return without_hydra(config)


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration that has no `hydra` section."""
    from omegaconf import open_dict

    with open_dict(config):
        hydra = config.pop("hydra", None)
    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    if hydra is not None:
        with open_dict(config):
            config["hydra"] = hydra
    assert isinstance(plain, DictConfig)
    return plain
