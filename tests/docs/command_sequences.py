"""Which commands of the pages run one after another, in one folder, as a reader runs them."""

from dataclasses import dataclass, field

from documents import blocks
from substitutions import named, written

Command = tuple[str, list[str]]
"""page:line, and the words of the command after `xp`."""


@dataclass
class Sequence:
    """Commands of one block, each after the first reading what an earlier one writes; most are one command."""

    block: str
    commands: list[Command]
    made: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        (place, words), *later = self.commands
        then = "".join(f" then :{later_place.rpartition(':')[2]}" for later_place, _ in later)
        return f"{place} {' '.join(words)[:60]}{then}"


def sequences(commands: list[Command]) -> list[Sequence]:
    """The commands in the order of the pages; one that reads what an earlier one of its block writes comes after it."""
    found: list[Sequence] = []
    for place, words in commands:
        block, reads = _block(place), named(words)
        earlier = [sequence for sequence in found if sequence.block == block and sequence.made & reads]
        assert len(earlier) < 2, f"{place} reads what {earlier} write: join them in tests/docs/command_sequences.py"
        if not earlier:
            earlier = [Sequence(block, [])]
            found += earlier
        earlier[0].commands.append((place, words))
        earlier[0].made |= set(written(words).values())
    return found


def _block(place: str) -> str:
    """Page and first line of the bash block that a command stands in; a command in the text is by itself."""
    page, _, line = place.rpartition(":")
    for block in blocks("bash"):
        if block.page == page and block.line <= int(line) < block.line + block.text.count("\n"):
            return str(block)
    return place
