"""A process that reads pieces of frames into the memory that it shares with its parent; `decoders` starts it.

It imports what reads its files and no framework, and ends when its pipe closes.
"""

import mmap
import os
from collections.abc import Iterable

import numpy as np

from xp.data.frame_source import FramePiece, OpenFiles
from xp.errors import UserError
from xp.worker_process import inbox

READY = "ready"
"""What a worker says first."""


def main(descriptor: int, memory: int, size: int) -> None:
    """Read each piece that the pipe says, until it closes.

    Args:
        descriptor: this end of the pipe.
        memory: the open file of the shared memory.
        size: its bytes.
    """
    pipe, heard = inbox(descriptor)
    room = np.frombuffer(mmap.mmap(memory, size), np.uint8)
    files = OpenFiles()
    heard.get()  # what workers are told first: nothing
    pipe.send(READY)
    while True:
        piece: FramePiece = heard.get()
        try:
            pipe.send(_fill(room, piece.read(files)))
        except UserError as error:
            pipe.send(UserError(str(error)))
        except BrokenPipeError:
            os._exit(0)


def _fill(room: np.ndarray, frames: Iterable[np.ndarray]) -> tuple[int, ...]:
    """Put frames behind one another; gives the shape of all of them."""
    count, shape, at = 0, (0, 0, 0), 0
    for frame in frames:
        room[at : at + frame.size].reshape(frame.shape)[...] = frame
        count, shape, at = count + 1, frame.shape, at + frame.size
    return (count, *shape)
