"""Which decoded frame belongs to which row of a dataset: the nearest in time, as LeRobot picks it.

A row is due at the time its episode starts in the file plus the row's own `timestamp`. The frame nearest to that is
taken if it is less than half a row's time away; of two that are equally near, the earlier. So a video may come at a
higher rate than the rows (10 rows a second over 30 frames), hold frames that belong to nobody, and start anywhere;
where a frame is missing, the nearest is too far away. LeRobot asks for 0.1 ms; its own concatenation of files drifts
by more.

Rows whose timestamps do not come every 1 / fps seconds were measured. Then the video must have been too: a frame has to
stand within a tenth of a row's time (or, in a faster video, as near as frames are), for a video that was written at a
steady rate drifts away from such rows until they get their neighbours' frames.
"""

from collections.abc import Callable, Iterator

import numpy as np

from xp.data.lerobot.checks import broken_frame, damaged_video
from xp.data.lerobot.folder import LeRobotFolder, VideoPart
from xp.data.lerobot.video import UndecodableError
from xp.errors import UserError

Pictures = np.ndarray | list[np.ndarray]
"""n frames: a list of [h, w, 3] uint8, or an array of whatever stands for them, such as their numbers."""
Pieces = Iterator[tuple[np.ndarray, Pictures]]
"""Row numbers [n] int64, or times [n] float64 in seconds, and their frames."""

_RATES_DIFFER = 0.05


def match_frames(
    part: VideoPart, dataset: LeRobotFolder, decoded: Pieces, log: Callable[[str], None] | None = None
) -> Pieces:
    """Give decoded frames, which carry times, their row numbers in the dataset.

    Args:
        part: the file and its episodes.
        dataset: the dataset.
        decoded: its frames in order.
        log: is told where the video comes at another rate than the rows.

    Raises:
        UserError: a frame that is due is not there, or cannot be decoded; the message names episode and frame.
    """
    matcher = _Matcher(part, dataset)
    held: tuple[np.ndarray, Pictures] | None = None
    for times, frames in matcher.named(decoded):
        matcher.check_order(times)
        if held is not None:
            times, frames = np.concatenate([held[0], times]), _joined(held[1], frames)
        # What is due before the last frame is decided; for the rest a nearer one may follow.
        yield from matcher.take(times, frames, until=times[-1])
        held = (times[-1:], frames[-1:])
    if held is not None:
        yield from matcher.take(*held, until=np.inf)
    matcher.check_end()
    if log is not None and matcher.rates_differ:
        log(f"{part.path}: {matcher.rates}; the frame nearest to each row is taken")


def _joined(one: Pictures, other: Pictures) -> Pictures:
    if isinstance(one, list) and isinstance(other, list):  # pictures are large: none is copied
        return [*one, *other]
    return np.concatenate([one, other])


class _Matcher:
    """The rows of a file in the order in which they are due, and how far they have been matched."""

    def __init__(self, part: VideoPart, dataset: LeRobotFolder) -> None:
        self._part, self._dataset = part, dataset
        rows = dataset.rows(part.episodes)
        due = np.repeat(part.from_timestamps, dataset.episodes.lengths[part.episodes]) + dataset.times[rows]
        order = np.argsort(due, kind="stable")
        self._rows, self._due = rows[order], due[order]
        self._steady = np.abs(dataset.times[rows] - dataset.frame_index[rows] / dataset.fps).max() <= 0.1 / dataset.fps
        self._done = 0
        self._last = -np.inf
        self._steps: list[np.ndarray] = []

    def named(self, decoded: Pieces) -> Pieces:
        """`decoded`; where it breaks off, the first row that is due after the last frame is named."""
        try:
            yield from decoded
        except UndecodableError as error:
            next_due = int(np.searchsorted(self._due, self._last + 0.5 / self._dataset.fps))
            row = self._rows[min(max(self._done, next_due), len(self._rows) - 1)]
            episode, frame = int(self._dataset.episode_index[row]), int(self._dataset.frame_index[row])
            raise broken_frame(self._part.path, str(error), episode, frame) from error

    def check_order(self, times: np.ndarray) -> None:
        """Frames come later and later."""
        steps = np.diff(times, prepend=self._last)
        if not (steps > 0).all():
            at = times[int(np.argmin(steps > 0))]
            raise self._refusal(f"the frame at {at:.3f} s is missing or out of order, or stands there twice")
        self._last = float(times[-1])
        self._steps.append(steps[np.isfinite(steps)])

    def take(self, times: np.ndarray, frames: Pictures, until: float) -> Pieces:
        """Rows that are due before `until`, in pieces no longer than `frames`, each with its nearest frame."""
        end = len(self._due) if until == np.inf else int(np.searchsorted(self._due, until, side="left"))
        while self._done < end:
            stop = min(end, self._done + max(len(frames), 1))
            due = self._due[self._done : stop]
            after = (
                np.clip(np.searchsorted(times, due), 1, len(times) - 1) if len(times) > 1 else np.zeros(len(due), int)
            )
            before = np.maximum(after - 1, 0)
            nearest = np.where(due - times[before] <= np.abs(times[after] - due), before, after)
            wrong = np.flatnonzero(np.abs(times[nearest] - due) >= self._tolerance())
            if len(wrong):
                raise self._missing(self._done + int(wrong[0]), float(times[nearest[wrong[0]]]))
            chosen = [frames[i] for i in nearest] if isinstance(frames, list) else frames[nearest]
            yield self._rows[self._done : stop], chosen
            self._done = stop

    def _tolerance(self) -> float:
        """How far a row's frame may be from it, in seconds."""
        rate, fps = self._video_rate, self._dataset.fps
        if self._steady:
            return 0.5 / fps
        faster = rate is not None and rate > 1.5 * fps
        return 0.51 / rate if faster else 0.1 / fps  # type: ignore[operator]

    def check_end(self) -> None:
        """Every row has its frame."""
        if self._done < len(self._due):
            raise self._missing(self._done, None)

    @property
    def rates(self) -> str:
        """Both rates, for messages; that of the video is what was seen of it."""
        found = self._video_rate
        video = "" if found is None else f", the video at {found:.3g}"
        return f"its rows come at {self._dataset.fps:g} frames per second{video}"

    @property
    def rates_differ(self) -> bool:
        """Whether the video's rate is not that of the rows."""
        found = self._video_rate
        return found is not None and abs(found / self._dataset.fps - 1) > _RATES_DIFFER

    @property
    def _video_rate(self) -> float | None:
        steps = np.concatenate(self._steps) if self._steps else np.zeros(0)
        return float(1 / np.median(steps)) if len(steps) else None

    def _missing(self, place: int, nearest: float | None) -> UserError:
        row, dataset = self._rows[place], self._dataset
        found = "the file has no frames" if nearest is None else f"the nearest frame stands at {nearest:.3f} s"
        return self._refusal(
            f"frame {dataset.frame_index[row]} of episode {dataset.episode_index[row]} is missing or out of order: it "
            f"is due at {self._due[place]:.3f} s and {found}"
        )

    def _refusal(self, what: str) -> UserError:
        why = f"{what}; {len(self._rows)} frames were announced, {self.rates}"
        return damaged_video(self._part.path, why, rates=self.rates_differ or not self._steady)
