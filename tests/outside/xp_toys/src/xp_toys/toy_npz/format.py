"""The format `toy_npz`: `toy.json` (fps, tasks, cameras, episodes) and `episode_N.npz`. Imports nothing heavy."""

import os
from pathlib import Path

from xp.config.dataset_facts import DatasetFacts
from xp.errors import UserError
from xp.foreign.json_file import read_fields
from xp.foreign.paths import member

NOTES, WHAT = "toy.json", "the notes of a toy_npz dataset"


class ToyNpzFormat:
    """A folder with toy.json."""

    name = "toy_npz"
    looks = "a toy_npz dataset is a folder with toy.json and episode_0.npz, episode_1.npz, ..."

    def owns(self, root):
        """Whether there is a toy.json."""
        return os.path.lexists(Path(root).expanduser() / NOTES)

    def facts(self, root):
        """As toy.json says; None where opening it will say what is wrong with it."""
        try:
            notes = self.notes(root)
            dims = (notes.integer("action_dim", low=1), notes.integer("state_dim", low=0))
            return DatasetFacts(tuple(notes.object("cameras").content), tuple(notes.texts("tasks")), *dims)
        except UserError:
            return None

    def hint(self, given):
        """Nothing better is known of folders that are not there."""
        return ""

    def open(self, root, *, decoder="auto", cache_dir=None, cache_gb=20.0):
        """See `xp.data.dataset.DatasetFormat.open`."""
        from xp_toys.toy_npz.reader import open_folder

        return open_folder(Path(root).expanduser(), self.notes(root), decoder)

    def create(self, root, *, robot_type, **layout):
        """See `xp.data.writer.WritingFormat.create`; whose episodes these are is not noted."""
        from xp_toys.toy_npz.writer import new_folder

        return new_folder(Path(root).expanduser(), **layout)

    def notes(self, root):
        """The fields of toy.json."""
        return read_fields(member(Path(root).expanduser(), NOTES, WHAT), WHAT)


FORMAT = ToyNpzFormat()
