"""A hook of MkDocs: README.md and its neighbours are pages of the site too, with links as they are inside docs/."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
"""File in the checkout -> page of the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for name, page in PAGES.items():
        text = re.sub(r"\]\(docs/", "](", (CHECKOUT / name).read_text())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links from docs/ to the checkout's root lead to the pages that were added."""
    for name, page in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown
