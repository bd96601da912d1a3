"""A small program with xp's sweeper and launcher over its own configurations: `python app.py OVERRIDES... -m`."""

import sys
from pathlib import Path
from unittest import mock

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from xp import runs
from xp.config import resolvers
from xp.errors import UserError

HERE = Path(__file__).resolve().parent
PLUGINS = HERE.parents[2] / "conf"


def open_hydra() -> Hydra:
    resolvers.register()
    version.setbase("1.3")
    search_path = create_config_search_path(f"file://{HERE / 'conf'}")
    search_path.prepend("xp", f"file://{PLUGINS}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2(task_name="xp", config_search_path=search_path)


def result_config(config):
    return {key: value for key, value in config.items() if key not in ("paths", "experiment")}


def check(config):
    if config.horizon.train < 1:
        raise UserError(f"horizon.train={config.horizon.train}: must be at least 1.")


def rules():
    from hydra_plugins.xp_staged_sweeper._experiment import Rules

    return Rules(check=check, result_config=result_config, is_transient=lambda key: key == "work.wait_for")


def as_stock_launchers_call_it(config):
    import fake_tasks

    hydra = HydraConfig.get()
    code = runs.run_once(config, hydra.runtime.output_dir, hydra.overrides.task, fake_tasks.run, generated=False)
    if code:
        raise RuntimeError(f"exit code {code}")


def main(arguments: list[str]) -> int:
    from hydra_plugins.xp_staged_sweeper import _sweep

    overrides = [each for each in arguments if each != "-m"]
    if not any(each.startswith("hydra/launcher=") for each in overrides):
        overrides.append("+hydra.launcher.target=fake_tasks:run")
    try:
        with mock.patch.object(_sweep, "xp_rules", rules):
            return open_hydra().multirun("config", as_stock_launchers_call_it, overrides, with_log_configuration=False)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr)
        return 2


def compose(overrides: list[str]):
    return open_hydra().compose_config("config", overrides, run_mode=RunMode.RUN, with_log_configuration=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
