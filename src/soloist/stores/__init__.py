"""The files that a run leaves: chunk, vector and fused shards in Parquet, and small JSON files, each written once."""

from soloist.stores.names import folder_name
from soloist.stores.run_folder import RunFolder
from soloist.stores.unchanged import Unchanged

__all__ = ["RunFolder", "Unchanged", "folder_name"]
