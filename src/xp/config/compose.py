"""Composing: where conf/ is, the Hydra object, and configurations from overrides."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from xp.config import resolvers

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.config_search_path import ConfigSearchPath

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
_OWN_PROVIDERS = ("hydra", "main")
"""Of Hydra's search path: its own options, and conf/."""


def conf_folder() -> Path:
    """The folder of option groups: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parents[1] / "conf"


def group_options(group: str) -> dict[str, tuple[DictConfig, list[str]]]:
    """{option: (its own keys, the options of the group that it builds on)} of a group.

    Those that installed packages add to Hydra's search path are among them.
    """
    from hydra._internal.config_repository import ConfigRepository
    from hydra.core.default_element import ConfigDefault
    from hydra.core.object_type import ObjectType

    repository = ConfigRepository(_search_path())
    found = {}
    for name in repository.get_group_options(group, ObjectType.CONFIG):
        loaded = repository.load_config(f"{group}/{name}")
        if loaded is not None:
            built_on = [str(each.path) for each in loaded.defaults_list or () if isinstance(each, ConfigDefault)]
            found[name] = (loaded.config, [other for other in built_on if other != "_self_"])
    return found


def _search_path() -> "ConfigSearchPath":
    """conf/ and what installed packages add to it.

    Raises:
        UserError: a package adds a folder that Hydra would stumble over.
    """
    from importlib.util import find_spec

    from hydra._internal.utils import create_config_search_path

    from xp.errors import UserError

    search_path = create_config_search_path(f"file://{conf_folder()}")
    for added in search_path.get_path():
        package = (added.path or "").removeprefix("pkg://")
        if package == added.path or added.provider in _OWN_PROVIDERS:
            continue
        try:
            found = find_spec(package)
        except ImportError:
            found = None
        if found is None or found.origin is None:
            raise UserError(
                f"The installed package {added.provider} adds the options in {added.path}, and there is no Python "
                f"package {package}: the folder has to be there, with an empty __init__.py. Mend the package, or "
                "uninstall it."
            )
    return search_path


def open_hydra(config_dir: str | None = None) -> "Hydra":
    """Hydra's own machinery over conf/, and over `config_dir` (`--config-dir`) before it."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    from xp.errors import UserError

    resolvers.register()
    version.setbase(VERSION_BASE)
    search_path = _search_path()
    if config_dir is not None:
        folder = Path(config_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder. Give a folder that holds option groups.")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name="xp", config_search_path=search_path)


def compose(overrides: list[str]) -> DictConfig:
    """The configuration of one run, without the `hydra` section; Hydra's errors become `UserError`s."""
    return without_hydra(compose_with_hydra(overrides))


def compose_with_hydra(overrides: list[str], *, sweep: bool = False) -> DictConfig:
    """The whole configuration of one run, or of a sweep; Hydra's errors become `UserError`s."""
    from hydra.types import RunMode

    from xp.config.hydra_errors import hydra_errors_as_user_errors

    hydra, mode = open_hydra(), RunMode.MULTIRUN if sweep else RunMode.RUN
    with hydra_errors_as_user_errors(hydra, overrides, CONFIG_NAME):
        return hydra.compose_config(CONFIG_NAME, overrides, run_mode=mode, with_log_configuration=False)


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a composed configuration that has no `hydra` section."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain = OmegaConf.create(OmegaConf.to_container(own, resolve=False))
    assert isinstance(plain, DictConfig)
    return plain
