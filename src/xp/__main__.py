"""The entry point, `python -m xp` and `xp`: compose, check, dispatch. Nothing heavy is imported here."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, NoReturn

from xp import collector
from xp.errors import UserError, disk_full, join_names

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

    from xp.runs import Run

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run xp with command-line arguments; exits with 0, 1 (a job failed), 2 (a user's mistake) or 130 (interrupted)."""
    try:
        code = _main(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("xp: interrupted. The same command resumes.", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except OSError as error:
        full = disk_full(error)  # of the run's own folder: not even its record can say so
        if full is None:
            raise
        print(f"xp: {full}", file=sys.stderr)
        code = 1
    collector.spare_the_end()
    sys.exit(code)


def run_task(run: "Run") -> None:
    """Run the task that `run.config.task.name` names."""
    import importlib

    module = importlib.import_module(f"xp.tasks.{run.config.task.name}")
    module.run(run)


def warm_up(folder: str) -> None:
    """Import what the run frozen in `folder` will import: a worker that is idle does it ahead."""
    import importlib

    from xp.runs import RunFolder

    config = RunFolder(folder).config()
    module = importlib.import_module(f"xp.tasks.{config.task.name}")
    getattr(module, "warm_up", lambda config: None)(config)


def _main(arguments: list[str]) -> int:
    from xp.config import open_hydra
    from xp.config.compose import CONFIG_NAME
    from xp.config.hydra_errors import hydra_errors_as_user_errors
    from xp.runs.execution import threads
    from xp.runs.jobs import stage_references
    from xp.versions import version_text

    threads.settle()
    stage_references.register()
    parser, options = _parse(arguments)
    if options.version:
        print(version_text())
        return 0
    hydra = open_hydra(options.config_dir)
    name = options.config_name or CONFIG_NAME
    with hydra_errors_as_user_errors(hydra, options.overrides, name):
        if options.help:
            hydra.app_help(config_name=name, args_parser=parser, args=options)
        elif options.hydra_help:
            hydra.hydra_help(config_name=name, args_parser=parser, args=options)
        elif options.shell_completion:
            hydra.shell_completion(config_name=name, overrides=options.overrides)
        elif options.info is not None:
            hydra.show_info(options.info, config_name=name, overrides=options.overrides)
        elif options.cfg:
            _show_config(hydra, name, options)
        elif options.multirun:
            return _sweep(hydra, name, options.overrides)
        else:
            return _single(hydra, name, options.overrides)
    return 0


def _parse(arguments: list[str]):  # noqa: ANN202 - argparse's own types
    from hydra._internal.utils import get_args_parser

    from xp.config.shorthand import expand_shorthand

    parser = get_args_parser()
    parser._optionals.conflict_handler = "resolve"  # Hydra has a --version of its own, which shows Hydra's
    parser.add_argument("--version", action="store_true", help="Show the versions of xp and of what it computes with")
    parser.error = _refuse_flags
    options = parser.parse_intermixed_args(arguments)  # so that overrides may stand on both sides of -m
    options.overrides = expand_shorthand(options.overrides)
    if options.resolve and not options.cfg:
        raise UserError("--resolve goes with --cfg: xp --cfg job --resolve")
    return parser, options


def _refuse_flags(message: str) -> NoReturn:
    raise UserError(f"{message}. `xp --help` shows what can be typed; overrides look like key=value.")


def _show_config(hydra: "Hydra", name: str, options: Namespace) -> None:
    from omegaconf import OmegaConf

    from xp.config import check
    from xp.config.compose import without_hydra

    composed = _composed(hydra, name, options.overrides)
    check(without_hydra(composed), complete=False)
    if options.package is not None and OmegaConf.select(composed, options.package) is None:
        raise UserError(
            f"--package {options.package}: there is no such section. Sections: {join_names(map(str, composed))}"
        )
    hydra.compose_config = lambda *_, **__: composed  # shown is what was checked; composing takes most of the time
    hydra.show_cfg(
        config_name=name,
        overrides=options.overrides,
        cfg_type=options.cfg,
        package=options.package,
        resolve=options.resolve,
    )


def _composed(hydra: "Hydra", name: str, overrides: list[str]) -> "DictConfig":
    from hydra.types import RunMode

    return hydra.compose_config(name, overrides, run_mode=RunMode.RUN, with_log_configuration=False)


def _sweep(hydra: "Hydra", name: str, overrides: list[str]) -> int:
    """Hand a sweep to the configured sweeper; ours answers with the exit code."""
    answer = hydra.multirun(name, run_composed, overrides, with_log_configuration=False)
    return answer if isinstance(answer, int) else 0


def _single(hydra: "Hydra", name: str, overrides: list[str]) -> int:
    from hydra.core.hydra_config import HydraConfig

    from xp import runs
    from xp.config import check
    from xp.config.compose import without_hydra
    from xp.config.schema import READ_ONLY_TASKS

    config = _composed(hydra, name, overrides)
    if config.get("stages"):  # an experiment is a sweep, also without -m
        return _sweep(hydra, name, overrides)
    HydraConfig.instance().set_config(config)
    job = without_hydra(config)
    runs.pin_folder(config.hydra.run.dir)
    check(job)
    if job.task.name in READ_ONLY_TASKS:
        return run_read_only(job)
    return runs.run_once(job, config.hydra.run.dir, overrides, run_task)


def run_read_only(config: "DictConfig") -> int:
    """Run a task that only reads runs: it has no folder of its own."""
    import importlib

    return importlib.import_module(f"xp.tasks.{config.task.name}").show(config)


def run_composed(config: "DictConfig") -> int:
    """Run one composed configuration in Hydra's output folder: what a stock launcher calls for each job."""
    from hydra.core.hydra_config import HydraConfig

    from xp import runs
    from xp.config import check
    from xp.config.compose import without_hydra

    job = without_hydra(config)
    output = HydraConfig.get().runtime.output_dir
    runs.pin_folder(output)
    check(job)
    code = runs.run_once(job, output, HydraConfig.get().overrides.task, run_task, generated=False)
    if code:
        raise RuntimeError(f"The job in {output} ended with exit code {code}; its log.txt says why.")
    return code


if __name__ == "__main__":
    main()
