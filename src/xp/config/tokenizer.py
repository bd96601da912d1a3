"""Where T5's tokenizer is on this machine: asked by the check of a job, and again when the first text comes."""

import os
from pathlib import Path

from xp.errors import UserError

FILE = "tokenizer.json"


def tokenizer_folder(encoder: str, given: str | None, *, configurable: bool = False) -> Path:
    """The folder with T5's `tokenizer.json`: the one given, else that of `encoder` in the local Hugging Face cache.

    `configurable`: a `model` section is at hand, whose keys can name another folder or another encoder.

    Raises:
        UserError: there is none, with the one command that fetches it.
    """
    if given is not None:
        folder = Path(given).expanduser()
        if not (folder / FILE).is_file():
            raise UserError(
                f"model.language.tokenizer={given}: there is no {FILE}. Give the folder of T5's tokenizer; "
                f"`hf download google-t5/{encoder} {FILE}` fetches it."
            )
        return folder
    found = _cached(encoder)
    if found is None:
        keys = (
            ", or give its folder with model.language.tokenizer=FOLDER, or train with model.language.encoder=words, "
            "which needs none."
        )
        elsewhere = f" (without a network: copy {FILE} into the Hugging Face cache of this machine, HF_HOME)."
        raise UserError(
            f"This model reads language through {encoder}, and its tokenizer is not on this machine. Fetch it once "
            f"with `hf download google-t5/{encoder} {FILE}`{keys if configurable else elsewhere}"
        )
    return found


def _cached(encoder: str) -> Path | None:
    """The newest snapshot in the local Hugging Face cache that has the file."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    found = [
        path for owner in ("", "google-t5--") for path in cache.glob(f"models--{owner}{encoder}/snapshots/*/{FILE}")
    ]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None
