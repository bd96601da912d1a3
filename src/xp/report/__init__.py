"""Reports from run folders: report.html, figures, summary files, and a table for the terminal.

`write_report(folder)` and `terminal_table(folder)` (also called `table`) are imported when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.report.html import write_report
    from xp.report.terminal import terminal_table
    from xp.report.terminal import terminal_table as table

__all__ = ["table", "terminal_table", "write_report"]

_LAZY = {
    "write_report": ("xp.report.html", "write_report"),
    "terminal_table": ("xp.report.terminal", "terminal_table"),
    "table": ("xp.report.terminal", "terminal_table"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'xp.report' has no attribute '{name}'")
    import importlib

    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)
