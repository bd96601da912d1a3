"""What Hydra finds of this distribution: its folder of options and its launcher. Imported with every start of Hydra."""

from hydra.plugins.search_path_plugin import SearchPathPlugin

from hydra_plugins.xp_executor_base import ExecutorLauncher


class XpToysSearchPath(SearchPathPlugin):
    """`xp_toys/conf` counts as a folder of options: `model=toy_mlp` needs no --config-dir."""

    def manipulate_search_path(self, search_path):
        """Add it behind xp's own."""
        search_path.append("xp_toys", "pkg://xp_toys.conf")


class ToyLauncher(ExecutorLauncher):
    """`hydra/launcher=toy_processes`."""

    name = "toy_processes"
