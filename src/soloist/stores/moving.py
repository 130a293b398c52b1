"""A finished file, from a hidden folder of a run into its place. The caller says in the manifest that it is there."""

from __future__ import annotations

from soloist.stores.atomic import disk_errors, make_folder, sync_folder
from soloist.stores.layout import Layout
from soloist.stores.manifest import FileRecord
from soloist.stores.run_folder import RunFolder


def move_in(folder: RunFolder, source: RunFolder, record: FileRecord) -> None:
    """Move the file of a record from `source`, a folder inside the run's, to where the run has it.

    Raises:
        OutputError: the disk does not take it, or a link leads out of the folder.
    """
    target = folder.path / record.file
    Layout(folder.path).require_inside(target)
    with disk_errors(target):
        make_folder(target.parent)
        (source.path / record.file).replace(target)
        sync_folder(target.parent)
