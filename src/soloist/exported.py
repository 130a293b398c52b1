"""The marker files by which an exported folder is recognised.

Exports write a marker. Sources look for it, so that an export is not read as chunks. `soloist.exports.markers` knows
the content of a marker.
"""

from __future__ import annotations

# pyarrow, pandas, DuckDB and datasets skip names that begin with a dot (datasets reads `_NAME`). polars skips no name,
# so the marker among Parquet files is a Parquet file itself.
MARKER = ".soloist-export.json"
PARQUET_MARKER = ".soloist-export.parquet"
_OF_EARLIER_VERSIONS = "soloist-export.json"
MARKERS = (MARKER, PARQUET_MARKER, _OF_EARLIER_VERSIONS)
