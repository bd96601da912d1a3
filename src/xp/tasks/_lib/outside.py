"""Files outside a policy's folder that its predictions depend on: the tokenizers that it names, where they are here."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt",
    "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_LARGEST = 16 << 20
"""JSON files above this are no configuration."""


def tokenizer_files(folder: Path) -> list[tuple[str, Path]]:
    """(name, file) of the tokenizers on this machine that a policy's configuration names, by folder or by hub id.

    Each text in the folder's JSON files is looked up: as a folder, and as a model in the local Hugging Face cache (with
    or without its owner). Nothing is loaded. A tokenizer that is not here gives nothing, which differs from any.
    """
    found = {}
    for text in sorted(set(_texts_of(folder))):
        for place in (*_folder(text), *_cached(text)):
            for name in NAMES:
                if (place / name).is_file():
                    found[f"{text}/{name}/{place.name}"] = place / name
    return sorted(found.items())


def _folder(text: str) -> list[Path]:
    return [Path(text)] if text.startswith("/") and os.path.isdir(text) else []  # noqa: PTH112 - never raises


def _cached(text: str) -> list[Path]:
    """Snapshots of a model in the local cache of Hugging Face: `t5-base`, `google-t5/t5-base`."""
    if text.startswith(("/", ".")) or text.count("/") > 1 or not set(text) <= _ALLOWED:
        return []
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    name = text.replace("/", "--")
    models = [path for path in hub.glob("models--*") if path.name.endswith(f"--{name}")]
    return sorted(snapshot for model in models for snapshot in (model / "snapshots").glob("*") if snapshot.is_dir())


_ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")


def _texts_of(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.json")):
        if path.is_file() and path.stat().st_size <= _LARGEST:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            yield from _texts(content)


def _texts(content: Any) -> Iterator[str]:
    """All texts of a name's length in plain content, keys left out; no recursion, whatever its depth."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, str) and 0 < len(node) <= 1024 and "\0" not in node:
            yield node
