"""All of a pi0 but its network: the way in and out, statistics and notes. The same for every framework."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from xp.errors import UserError, did_you_mean, join_names
from xp.models.camera_maps import check_map
from xp.models.members import not_chosen
from xp.models.pi0.cameras import SLOTS, resolve_cameras
from xp.models.pi0.inputs.mixed import MixedPrepare
from xp.models.pi0.inputs.prepare import Prepare
from xp.models.pi0.inputs.prompt import WORDS, Prompts, prompts, tokenizer_file
from xp.models.pi0.io.norm_stats import NormStats, stats_of
from xp.models.pi0.io.notes import TOKENIZER, Notes
from xp.models.pi0.mixture import asset_asked_for, member_assets, member_cameras, of_dataset
from xp.models.pi0.network.sizes import Sizes
from xp.models.pi0.options import Pi0Options
from xp.models.pi0.real_time import Plan
from xp.models.policy import DataSpec, DataTransforms, PolicySpec, Seed, Statistics
from xp.models.transforms import RelativeActions, difference_statistics, relative_actions

PROMPT_LENGTHS = {"pi05": 200, "pi0": 48}
"""Tokens of a prompt in openpi's own configurations."""
HORIZON = 50
"""Actions in a chunk in openpi's own configurations, where nothing says another number."""


OPTIONS = ("noise", "num_steps", "normalized", "plan", "delay", "guidance")
"""Of `predict`."""
_MOST_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options of `predict`."""

    noise: Float32[np.ndarray, "batch horizon width"] | None
    num_steps: int
    normalized: bool
    plan: Plan | None

    @classmethod
    def from_given(cls, given: Mapping[str, object], steps: int) -> "PredictOptions":
        """Read what was given to `predict`; `steps` where their number was not.

        Raises:
            UserError: an option that there is not, or one of another type.
        """
        for name in given:
            if name not in OPTIONS:
                raise UserError(
                    f"predict has no option '{name}' for a pi0; allowed are {join_names(OPTIONS)}"
                    f"{did_you_mean(name, OPTIONS)}. Leave it out."
                )
        number = given.get("num_steps")
        number = steps if number is None else number
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MOST_STEPS:
            raise UserError(
                f"num_steps={number}: expected a whole number from 1 to {_MOST_STEPS:,}. Type for instance num_steps=10"
            )
        noise = given.get("noise")
        array = None if noise is None else np.asarray(noise, np.float32)
        plan = Plan.from_given(given)
        return cls(noise=array, num_steps=number, normalized=bool(given.get("normalized")), plan=plan)

    def noise_for(
        self, shape: tuple[int, int, int], seed: Seed, draw: Callable[[], np.ndarray] | None = None
    ) -> Float32[np.ndarray, "batch horizon width"]:
        """What sampling begins with: what was given, else what `draw` gives, else numbers of each row's own seed.

        Raises:
            UserError: noise of another shape was given.
        """
        if self.noise is None:
            return draw() if draw else _drawn(shape, seed)
        if self.noise.shape != shape:
            raise UserError(f"noise has shape {self.noise.shape}; the policy wants {shape}. Give noise of that shape.")
        return self.noise


def _drawn(shape: tuple[int, int, int], seed: Seed) -> Float32[np.ndarray, "batch horizon width"]:
    """Normal noise, a row from its own number, or from the batch's and its place."""
    seeds = [[int(each)] for each in seed] if isinstance(seed, np.ndarray) else [[seed, row] for row in range(shape[0])]
    return np.stack([np.random.default_rng(each).standard_normal(shape[1:], dtype=np.float32) for each in seeds])


@runtime_checkable
class Source(Protocol):
    """A saved pi0 of any format, its weights not read."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def notes(self) -> Notes | None:
        """What xp noted beside the weights; None where it did not write them."""
        ...

    @property
    def tokenizer(self) -> str | None:
        """What reads its prompts: the name of one that needs no file, or the file in the folder."""
        ...

    def statistics(self, asset_id: str | None) -> tuple[NormStats, str]:
        """The statistics of an asset (None: the only one), and its id."""
        ...


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a policy is beside its network."""

    prepare: Prepare | MixedPrepare
    spec: PolicySpec
    assets: Mapping[str, NormStats]
    """{asset id: statistics}, as they are saved: one, or one for each dataset of a mixture, by `member_index`."""
    notes: Notes
    tokenizer: str | None
    """What reads prompts: `words`, or a file or folder of PaliGemma's tokeniser."""
    step: int = 0

    @property
    def tokenizer_file(self) -> Path | None:
        """The tokeniser's file where there is one."""
        if self.tokenizer in (None, WORDS):
            return None
        return tokenizer_file(Path(str(self.tokenizer)).expanduser())

    @property
    def statistics(self) -> NormStats:
        """Of a policy of one dataset.

        Raises:
            UserError: it is one of several.
        """
        if len(self.assets) > 1:
            raise UserError(not_chosen(None, tuple(self.assets)))
        return next(iter(self.assets.values()))

    @property
    def counted_dims(self) -> int | None:
        """How many action dimensions the loss is a mean over, from the first; None: all, the filled ones too.

        Where the datasets of a mixture have several widths the inputs say it for each row (`DIM_IS_PAD`).
        """
        widths = {each.actions.width for each in self.assets.values()}
        return None if self.notes.count_filled_dims or len(widths) > 1 else widths.pop()


def interface(
    sizes: Sizes, assets: Mapping[str, NormStats], notes: Notes, *, tokenizer: str | None, where: str, step: int = 0
) -> Interface:
    """Put the way in and out together.

    Args:
        sizes: of the network.
        assets: {asset id: statistics}; where the notes have members one for each of them, in their order.
        notes: what neither sizes nor statistics say.
        tokenizer: `words`, a folder or file of PaliGemma's tokeniser, or None where it is not at hand.
        where: where the statistics come from, for messages.
        step: under which it is saved.

    Raises:
        UserError: states or actions that are wider than the model, or statistics without quantiles for pi0.5.
    """
    reader = prompts(tokenizer, vocabulary=sizes.vocabulary, length=notes.prompt_length, reads_state=sizes.is_pi05)
    spec = PolicySpec(
        horizon=notes.horizon,
        action_dim=max(statistics.actions.width for statistics in assets.values()),
        state_dim=max(statistics.state.width for statistics in assets.values()),
        cameras={camera: (*notes.sizes[name], 3) for name, camera in notes.fed.items()},
        language=True,
        actions_before=0,
        takes_plan=True,
    )
    each = {
        asset: _prepare(sizes, statistics, notes, reader, f"{where} ({asset})" if len(assets) > 1 else where)
        for asset, statistics in assets.items()
    }
    several = MixedPrepare(each=each, counts_filled=notes.count_filled_dims) if notes.members else None
    prepare = several or next(iter(each.values()))
    return Interface(prepare=prepare, spec=spec, assets=assets, notes=notes, tokenizer=tokenizer, step=step)


def _prepare(sizes: Sizes, statistics: NormStats, notes: Notes, reader: Prompts, where: str) -> Prepare:
    """The way in and out by the statistics of one dataset."""
    _refuse_wider(statistics, sizes, where)
    state, action = statistics.scales(sizes.is_pi05, where)
    fed = notes.fed
    return Prepare(
        cameras={name: fed[name] for name in SLOTS if name in fed},
        side=sizes.vision.side,
        horizon=notes.horizon,
        width=sizes.action_dim,
        state=state,
        action=action,
        prompts=reader,
        relative=None if notes.absolute is None else RelativeActions(notes.action_dim, notes.absolute),
    )


def _refuse_wider(statistics: NormStats, sizes: Sizes, where: str) -> None:
    for name, stats in (("states", statistics.state), ("actions", statistics.actions)):
        if stats.width > sizes.action_dim:
            raise UserError(
                f"The {name} of {where} have {stats.width} dimensions; the model takes at most {sizes.action_dim}. "
                f"Train a model from nothing with model.action_dim={stats.width}, or leave dimensions out."
            )


def new_notes(
    options: Pi0Options, data: DataSpec, statistics: Statistics, horizon: int, transforms: DataTransforms
) -> tuple[Notes, dict[str, NormStats]]:
    """Notes and {asset id: statistics} of a policy that is to be trained."""
    cameras = resolve_cameras(options.cameras, data.cameras)
    relative = relative_actions(data, transforms) if transforms.is_relative else None
    action = statistics["action"] if relative is None else difference_statistics(transforms, relative, horizon)
    notes = Notes(
        horizon=horizon,
        action_dim=data.action_dim,
        state_dim=data.state_dim,
        cameras=cameras,
        sizes={name: (data.cameras[camera][0], data.cameras[camera][1]) for name, camera in cameras.items()},
        asset_id="" if data.members else options.asset_id,
        tokenizer=None,
        prompt_length=options.prompt_length,
        sample_steps=options.sample_steps,
        count_filled_dims=options.count_filled_dims,
        fps=data.fps,
        absolute=None if relative is None else relative.excluded,
        dtype=options.dtype,
        max_delay=options.max_delay,
        members=member_cameras(data, cameras),
    )
    if data.members:
        return notes, member_assets(data, statistics)
    return notes, {options.asset_id: NormStats(state=stats_of(statistics["proprio"]), actions=stats_of(action))}


def _foreign(sizes: Sizes, statistics: NormStats) -> Notes:
    """What is taken for granted of a checkpoint that xp did not write: openpi's own settings, cameras by its names."""
    side = sizes.vision.side
    return Notes(
        horizon=HORIZON,
        action_dim=statistics.actions.width,
        state_dim=statistics.state.width,
        cameras={name: name for name in SLOTS},
        sizes={name: (side, side) for name in SLOTS},
        asset_id="",
        tokenizer=None,
        prompt_length=PROMPT_LENGTHS[sizes.name],
    )


def new_interface(
    options: Pi0Options,
    sizes: Sizes,
    source: Source | None,
    *,
    data: DataSpec,
    statistics: Statistics,
    horizon: int,
    transforms: DataTransforms,
) -> Interface:
    """The way in and out of a policy that is to be trained, optionally from a saved one.

    Raises:
        UserError: a dataset without states, actions of another kind than the saved policy's, or no tokeniser.
    """
    if not data.state_dim:
        raise UserError(
            "The dataset has no observation.state, and a pi0 reads the robot's state. Use a dataset with states, or "
            "another model."
        )
    if options.max_delay >= horizon:
        raise UserError(
            f"model.max_delay={options.max_delay} and horizon.train={horizon}: of a chunk whose first actions are "
            f"given some have to be left. Type model.max_delay={horizon - 1} or less, or a longer horizon.train."
        )
    if data.members and transforms.is_relative:
        raise UserError(
            "action_space=relative: a mixture is trained on actions as its datasets have them. Type "
            "action_space=absolute."
        )
    notes, assets = new_notes(options, data, statistics, horizon, transforms)
    _refuse_other_actions(source, notes)
    tokenizer = options.tokenizer or (source.tokenizer if source else None)
    if tokenizer not in (None, WORDS):
        tokenizer_file(Path(str(tokenizer)).expanduser())  # refused now, not with the first batch
    notes = _with_tokenizer(notes, tokenizer)
    return interface(sizes, assets, notes, tokenizer=tokenizer, where="the dataset")


def saved_interface(
    source: Source, sizes: Sizes, camera_map: Mapping[str, str | None], options: Mapping[str, str]
) -> Interface:
    """The way in and out of a saved policy; `options` are those of loading, by their names.

    Raises:
        UserError: missing statistics, or options that do not fit.
    """
    where = str(source.path)
    notes, assets = _saved(source, sizes, asset_asked_for(options))
    if "horizon" in options:
        notes = replace(notes, horizon=whole_number("horizon", options["horizon"], HORIZON))
    if "prompt_length" in options:
        longest = whole_number("prompt_length", options["prompt_length"], PROMPT_LENGTHS[sizes.name])
        notes = replace(notes, prompt_length=longest)
    tokenizer = options.get("tokenizer") or source.tokenizer
    notes = _with_tokenizer(notes, tokenizer)
    check_map(camera_map, list(notes.cameras), f"image input of the policy in {where}")
    notes = replace(notes, cameras={**notes.cameras, **camera_map})
    if not notes.fed:
        raise UserError(
            f"The map of cameras feeds none of the image inputs of the policy in {where}. Name a camera for at least "
            f"one of {join_names(notes.cameras)}."
        )
    step = int(source.path.name) if source.path.name.isdigit() else 0
    return interface(sizes, assets, notes, tokenizer=tokenizer, where=where, step=step)


def _saved(source: Source, sizes: Sizes, asked: str | None) -> tuple[Notes, dict[str, NormStats]]:
    """Notes and {asset id: statistics} of a saved policy: of a mixture's all datasets, unless one is asked for."""
    notes = source.notes
    if notes is not None and notes.members:
        if asked is None:
            return notes, {name: source.statistics(name)[0] for name in notes.members}
        if asked not in notes.members:
            raise UserError(not_chosen(asked, tuple(notes.members)))
    statistics, asset = source.statistics(asked or (notes.asset_id if notes else None))
    if notes is None:
        notes = _foreign(sizes, statistics)
    elif notes.members:
        notes = of_dataset(notes, asset, statistics)
    return replace(notes, asset_id=asset), {asset: statistics}


def _with_tokenizer(notes: Notes, tokenizer: str | None) -> Notes:
    return replace(notes, tokenizer=tokenizer if tokenizer in (None, WORDS) else TOKENIZER)


def whole_number(name: str, text: str, example: int) -> int:
    """An option of loading that is a whole number.

    Raises:
        UserError: it is none, or out of its bounds.
    """
    if not (text.isdigit() and 1 <= int(text) <= 4096):
        raise UserError(f"{name}={text}: expected a whole number from 1 to 4,096. Type for instance {name}={example}")
    return int(text)


def _refuse_other_actions(source: Source | None, notes: Notes) -> None:
    """Weights that learned differences to the state are no start for whole actions, nor the reverse."""
    if source and source.notes and (source.notes.absolute is None) != (notes.absolute is None):
        told = "absolute" if source.notes.absolute is None else "relative"
        raise UserError(
            f"The pretrained policy in {source.path} learned {told} actions, and this training is of others. Type "
            f"action_space={told}."
        )
