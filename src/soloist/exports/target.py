"""Where an export goes, and its options. Values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soloist.errors import ConfigError

DEFAULT_TABLE = "soloist"
BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A folder or file, `out`, or a server, `url`; the table or collection in a store; rows of a batch; and whether
    what another run exported there becomes this run's. With `with_models` the models' files are copied; a `catalogue`
    says where those of the run are now.
    """

    out: Path | None = None
    url: str | None = None
    table: str = DEFAULT_TABLE
    batch_rows: int = BATCH_ROWS
    take_over: bool = False
    with_models: bool = False
    catalogue: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder or file.

        Raises:
            ConfigError: none is given, or a server too.
        """
        if self.url is None and self.out is None:
            raise ConfigError("this export writes files: give --out PATH")
        if self.out is None or self.url is not None:
            raise ConfigError("this export writes files, not to a server: give --out PATH, and leave out --url")
        return self.out
