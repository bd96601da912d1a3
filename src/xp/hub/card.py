"""Cards of repositories, in the form of LeRobot's: metadata in front (YAML), then what a reader wants to know.

The metadata are those of LeRobot 0.6.1 (`PreTrainedPolicy.generate_model_card`, `create_lerobot_dataset_card`):
library, pipeline `robotics`, tags, dataset, base model; of a dataset its task category and where its tables are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xp.foreign.text import printable

_ROBOTICS = "robotics"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured number with its interval and what lies behind it."""

    name: str
    value: float
    low: float | None
    high: float | None
    level: float | None
    behind: str
    """How many episodes, in words."""
    where: str
    """What it was measured on: a task of a suite, a dataset."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card of a policy says."""

    repo: str
    family: str
    """The library whose folder it is: lerobot, octo, ..."""
    model: str
    """The policy's type or the model's name."""
    license: str | None
    data: Mapping[str, str]
    """{what: value} about the dataset: id or folder, commit, fingerprint, episodes."""
    dataset_id: str | None
    """`ORG/NAME`, if the dataset is on a hub."""
    base_model: str | None
    """`ORG/NAME` of the policy that the training began with, if it is on a hub."""
    training: Mapping[str, str]
    metrics: Sequence[Metric] = ()
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


def model_card(facts: CardFacts) -> str:
    """The README.md of a policy's repository."""
    from huggingface_hub import ModelCardData

    tags = sorted({_ROBOTICS, facts.family, facts.model, "xp"})
    data = ModelCardData(
        license=facts.license,
        library_name=facts.family,
        pipeline_tag=_ROBOTICS,
        tags=tags,
        model_name=facts.model,
        datasets=facts.dataset_id,
        base_model=facts.base_model,
    )
    use = f"hf://{facts.repo}"
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {facts.repo}",
        f"A policy of type {facts.model} ({facts.family}), made by xp; what it was made of stands below.",
        "## Data\n\n" + _rows(facts.data),
        "## Training\n\n" + _rows(facts.training),
        "## Measured\n\n" + _measured(facts.metrics),
        "## Use\n\n```bash\n"
        f"xp task=eval eval.checkpoint={use}\nxp task=train pretrained_path={use} data.root=DATASET\n```",
        f"## Command\n\n```bash\n{facts.command}\n```" if facts.command else "",
        "## Versions\n\n" + _rows(facts.versions) if facts.versions else "",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


@dataclass(frozen=True, kw_only=True)
class FormatWords:
    """What a data format says of itself on the hub: `on_hub` of a format whose datasets `task=push` uploads."""

    tag: str
    """By which the hub's users look for it."""
    sentence: str
    description: str
    """The file, relative to the dataset, whose text stands on the card: JSON."""
    version: str
    """The key of that file whose value is the repository's tag."""
    use: str
    """A command of others that takes `{repo}`."""


def dataset_card(
    repo: str,
    license_id: str | None,
    about: Mapping[str, str],
    info: str,
    words: FormatWords,
    made_by: str = "",
) -> str:
    """The README.md of a dataset's repository.

    Args:
        repo: `ORG/NAME`.
        license_id: an identifier of the hub, such as apache-2.0.
        about: {what: value}: robot, episodes, frames, rate.
        info: the text of the description.
        words: of its data format.
        made_by: the command that recorded it.
    """
    from huggingface_hub import DatasetCardData

    configs = [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    data = DatasetCardData(license=license_id, tags=[words.tag, "xp"], task_categories=[_ROBOTICS], configs=configs)
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repo}",
        words.sentence,
        _rows(about),
        f"## Use\n\n```bash\nxp task=train data.root=hf://{repo}\n{words.use.format(repo=repo)}\n```",
        f"## Command\n\n```bash\n{made_by}\n```" if made_by else "",
        f"## Dataset structure\n\n[{words.description}]({words.description}):\n\n```json\n{info.strip()}\n```",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _rows(pairs: Mapping[str, str]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in pairs.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _measured(metrics: Sequence[Metric]) -> str:
    if not metrics:
        return "Nothing was measured when this was uploaded."
    lines = [
        f"| {_cell(m.where)} | {_cell(m.name)} | {m.value:.4g} | {_interval(m)} | {_cell(m.behind)} |" for m in metrics
    ]
    return "\n".join(["| on | what | value | interval | of |", "|---|---|---|---|---|", *lines])


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    level = "" if metric.level is None else f" ({metric.level:.0%})"
    return f"[{metric.low:.4g}, {metric.high:.4g}]{level}"


def _cell(text: str) -> str:
    return printable(text, 400).replace("|", "\\|")
