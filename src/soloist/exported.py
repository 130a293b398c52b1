"""How a folder of files that an export wrote is told from other folders: by the name of its marker.

Exports write it. Sources look for it, so that an export is not read as chunks. What a marker says is known to
`soloist.exports.markers`.
"""

from __future__ import annotations

# Readers of folders skip names with a dot first: pyarrow, pandas, DuckDB and datasets (which reads `_NAME`). polars
# skips no name, so among Parquet files the marker is one of them.
MARKER = ".soloist-export.json"
PARQUET_MARKER = ".soloist-export.parquet"
_OF_EARLIER_VERSIONS = "soloist-export.json"
MARKERS = (MARKER, PARQUET_MARKER, _OF_EARLIER_VERSIONS)
