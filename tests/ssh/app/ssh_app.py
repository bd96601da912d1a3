"""A small program with xp's sweeper and ssh launcher: `python ssh_app.py OVERRIDES...`."""

import sys
from pathlib import Path
from unittest import mock

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra

from hydra_plugins import xp_ssh_launcher
from xp.config import resolvers
from xp.errors import UserError

HERE = Path(__file__).resolve().parent
PLUGINS = Path(xp_ssh_launcher.__file__).resolve().parents[3] / "conf"


def rules():
    from hydra_plugins.xp_staged_sweeper._experiment import Rules

    def result_config(config):
        return {key: value for key, value in config.items() if key not in ("paths", "experiment")}

    return Rules(
        check=lambda config: None, result_config=result_config, is_transient=lambda key: key.startswith("work.")
    )


def main(arguments: list[str]) -> int:
    from hydra_plugins.xp_staged_sweeper import _sweep

    resolvers.register()
    version.setbase("1.3")
    search_path = create_config_search_path(f"file://{HERE / 'conf'}")
    search_path.prepend("xp", f"file://{PLUGINS}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2(task_name="xp", config_search_path=search_path)
    overrides = [*arguments, "+hydra.launcher.target=ssh_tasks:run"]
    try:
        with mock.patch.object(_sweep, "xp_rules", rules):
            return hydra.multirun("config", print, overrides, with_log_configuration=False)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
