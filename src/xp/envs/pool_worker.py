"""A process that simulates the envs of some places; `xp.envs.pool_processes` starts it and tells it what to do.

It imports what its suite needs and no framework. It ends at once when its pipe closes: its parent has ended, however
that was. What suites print goes to the standard error, of which the parent reads the end should this process die.
"""

import os

from xp.envs.pool import EnvPlaces
from xp.errors import UserError
from xp.worker_process import inbox


def main(descriptor: int) -> None:
    """Do what the pipe says until it closes."""
    pipe, heard = inbox(descriptor)
    try:
        places = EnvPlaces(*heard.get())
        pipe.send("ready")
        while True:
            what, place, argument = heard.get()
            pipe.send((place, getattr(places, what)(place, argument)))
    except UserError as error:
        pipe.send(UserError(str(error)))
    except BrokenPipeError:
        os._exit(0)
