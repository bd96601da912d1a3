"""Runs one frozen job: `python -m hydra_plugins.xp_ssh_launcher._job MODULE:FUNCTION FOLDER`, secrets by its input."""

import json
import sys


def main(target: str, folder: str) -> int:
    """Run the job; gives the exit code."""
    from xp.errors import UserError
    from xp.runs.execution.execute import execute, exit_code
    from xp.runs.execution.worker import task_named

    secrets = json.loads(sys.stdin.read() or "{}")
    try:
        execute(folder, task_named(target), echo=False, secrets=secrets)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr)
        return error.exit_code
    return exit_code(folder)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
