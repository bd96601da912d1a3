"""`trainer.batch_size=auto`: the largest batch whose training step fits, found once and kept in the run's record."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from xp.atomic import write_json
from xp.config.batch_size import largest_fitting, next_size
from xp.errors import UserError
from xp.json_types import JSON, JSONObject, section
from xp.runs import Run
from xp.runs.execution.memory import available_memory
from xp.runs.records.folder import CONFIG, as_config
from xp.runs.records.json_io import read_object
from xp.tasks._lib.batch_probe import Measured, Prober
from xp.tasks._lib.data_source import plain
from xp.tasks._lib.launch_ranks import count_processes

SHARE = 0.9
"""Of the memory that is free, what a step may take: validation, checkpoints and other processes need some too."""
FIELD = "batch_size"
"""Of record.json: what was found, and how."""


def with_batch_size(run: Run, task: str) -> Run:
    """The run with a number in place of `trainer.batch_size=auto`.

    The number is in record.json from then on: a run that is resumed, or gets more steps, has the same one on any
    machine, and nothing is tried again.

    Args:
        run: the run, with `trainer.batch_size=auto`.
        task: `MODULE:FUNCTION` that `Prober` starts.

    Raises:
        UserError: not even the smallest batch fits.
        RunInterrupted: somebody asked the run to stop.
    """
    known = section(run.record, FIELD)
    if not known:
        known = find_batch_size(run, task)
        run.record.update(**{FIELD: known})
        run.log(f"trainer.batch_size=auto: {known['size']} windows ({_tried_text(known)})")
    else:
        run.log(f"trainer.batch_size=auto: {known['size']} windows, as found when this run began")
    config: Any = plain(run.config)
    config["trainer"]["batch_size"] = known["size"]
    written = dict(read_object(run.folder / CONFIG))
    written["trainer"] = {**section(written, "trainer"), "batch_size": known["size"]}
    write_json(run.folder / CONFIG, written)
    return dataclasses.replace(run, config=as_config(config))


def find_batch_size(run: Run, task: str) -> dict[str, JSON]:
    """Try batch sizes in processes that are thrown away; what the record says about it.

    Several devices are tried one by one, each with its share of a batch, and the least of their answers counts.
    """
    trainer = run.config.trainer
    count = count_processes(run)
    most = trainer.batch_size_max // count
    run.log(f"trainer.batch_size=auto: trying updates with up to {most * count} windows in a process of their own")
    found: list[list[Entry]] = []
    for place in _places(run, count):
        start = partial(Prober, run, task, batch_size=int(trainer.accumulate), environment=place)
        found.append(_Search(most, count, start).result())
    size = min(_size(tried, count, most * count) for tried in found)
    return {"size": size * count, "devices": count, "share_of_memory": SHARE, "tried": list(found)}


def _size(tried: "list[Entry]", count: int, most: int) -> int:
    """The largest size that fits on a device."""
    size = largest_fitting({each["size"]: each["fits"] for each in tried})
    if not tried:
        raise UserError(
            f"trainer.batch_size_max={most} is below the smallest batch that trainer.accumulate and the devices can "
            "share. Type a larger one, or trainer.sharding=none"
        )
    if size is None:
        raise UserError(
            f"trainer.batch_size=auto: not even {tried[0]['size'] * count} windows fit: {_text(tried[0])}. Take a "
            "smaller model, trainer.precision=bfloat16 or a machine with more memory"
        )
    return size


def _places(run: Run, count: int) -> list[Mapping[str, str]]:
    """The environment of a process for each device that may answer differently: GPUs are tried one by one."""
    if count == 1:
        return [{}]
    from xp.training.options import TrainerOptions
    from xp.training.torch.distributed import device_of

    if device_of(TrainerOptions.read(plain(run.config.trainer))) == "cpu":
        return [{}]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else list(map(str, range(count)))
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:count]]


Entry = dict[str, Any]
"""A size that was tried: `size` (windows on one device), `fits`, `measured`, and bytes: `host`, `host_free`, ..."""


class _Search:
    """The search on one device."""

    def __init__(self, most: int, count: int, start: Callable[[], Prober]):
        """`most` windows on this device, of `count` devices; `start` gives a process that measures."""
        self._most, self._count, self._start = most, count, start
        free = available_memory()
        self._host_free = None if free is None else free // count
        self.tried: list[Entry] = []

    def result(self) -> list[Entry]:
        """All sizes that were tried, in their order; none where `most` is below the smallest there could be.

        After a size that did not fit the next one gets a process of its own.
        """
        bounds: tuple[int, int] | None = None
        while bounds is None or self._next(*bounds) is not None:
            with self._start() as prober:
                unit, windows = prober.ready()
                bounds = unit, min(self._most, max(windows // self._count // unit * unit, unit))
                while (size := self._next(*bounds)) is not None and self._try(prober, size):
                    pass
        return self.tried

    def _next(self, unit: int, most: int) -> int | None:
        """The next size to measure; sizes that surely do not fit the host are counted as tried."""
        while (size := next_size({each["size"]: each["fits"] for each in self.tried}, unit, most)) is not None:
            expected = expected_host(self.tried, size)
            if self._host_free is None or expected is None or expected <= SHARE * self._host_free:
                return size
            self.tried.append(
                {"size": size, "fits": False, "measured": False, "host": expected, "host_free": self._host_free}
            )
        return None

    def _try(self, prober: Prober, size: int) -> bool:
        """Measure a size; whether it fits, so that the process is still good for more."""
        found = prober.measure(size)
        entry: Entry = {"size": size, "fits": False, "measured": True, "host_free": self._host_free}
        if found is not None:
            entry |= {"host": found.host, "fits": fits(found, self._host_free, shared=self._count > 1)}
            entry["devices"] = [device._asdict() for device in found.devices]
        self.tried.append(entry)
        return entry["fits"]


def fits(found: Measured, host_free: int | None, *, shared: bool) -> bool:
    """Whether what was measured leaves enough of every memory; `shared`: gradients are exchanged, in as much again."""
    extra = found.weights if shared else 0
    host = found.host + (0 if found.devices else extra)
    return (host_free is None or host <= SHARE * host_free) and all(
        device.peak + extra <= SHARE * device.limit for device in found.devices
    )


def expected_host(tried: list[Entry], size: int) -> int | None:
    """Bytes on the host at a size, on the line through the two largest that were measured; None before there are two.

    So a size that would drive the machine out of memory is not tried.
    """
    points = sorted((each["size"], each["host"]) for each in tried if each["measured"] and "host" in each)[-2:]
    if len(points) < 2:
        return None
    (few, less), (many, more) = points
    return more + max(0, more - less) * (size - many) // (many - few)


def _tried_text(known: JSONObject) -> str:
    first: Any = known["tried"]
    return ", ".join(map(_text, first[0]))


def _text(entry: Entry) -> str:
    words = "fits" if entry["fits"] else "does not fit"
    if "host" not in entry:
        return f"{entry['size']}: memory did not suffice"
    peaks = [f"{entry['host'] / 1e9:.3g} GB on the host"]
    peaks += [f"{each['peak'] / 1e9:.3g} of {each['limit'] / 1e9:.3g} GB" for each in entry.get("devices", ())]
    return f"{entry['size']}: {'' if entry['measured'] else 'about '}{', '.join(peaks)}, {words}"
