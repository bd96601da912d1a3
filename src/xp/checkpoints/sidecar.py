# pyright: strict
"""The files of statistics beside a checkpoint's weights, by the names that each format gives them."""

from pathlib import Path

from xp.foreign.paths import member

STATISTICS = "a checkpoint's statistics"
"""What such a file is, for messages."""


def statistics_files(folder: Path) -> dict[str, Path]:
    """{path as it will be in the output: file} for each file of statistics that a checkpoint has."""
    found: dict[str, Path] = {}
    for file in sorted((folder / "assets").rglob("norm_stats.json")) if (folder / "assets").is_dir() else ():
        name = file.relative_to(folder).as_posix()
        found[name] = member(folder, name, STATISTICS)
    for place in (folder, folder.parent):
        if "norm_stats.json" not in found and (place / "norm_stats.json").is_file():
            found["norm_stats.json"] = member(place, "norm_stats.json", STATISTICS)
    if (folder / "dataset_statistics.json").is_file():
        found["dataset_statistics.json"] = member(folder, "dataset_statistics.json", STATISTICS)
    for file in sorted(folder.glob("policy_*normalizer_processor.safetensors")):
        found[file.name] = member(folder, file.name, STATISTICS)
    return found
