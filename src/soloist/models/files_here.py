"""The files of a model on this machine, before it is loaded. Knows the hub and folders, and no weights."""

from __future__ import annotations

from collections.abc import Mapping

from soloist.errors import ModelLoadError
from soloist.models.fingerprint import content_digests
from soloist.models.load_failures import LOAD_FAILURES, load_failure_text
from soloist.models.load_warnings import quiet
from soloist.models.location import Location, locate
from soloist.models.pipeline import names_bare_table
from soloist.models.remote_code import fetch_remote_code
from soloist.models.spec import ModelSpec


def contents_of(spec: ModelSpec) -> tuple[Location, Mapping[str, str]]:
    """Where a model is that is not loaded yet, and its `content_digests`.

    This may download the model.

    Raises:
        ModelLoadError: the model's files cannot be found or read.
    """
    with quiet():
        try:
            location = locate(spec)
            if spec.trust_remote_code and spec.loader != "wordllama":
                fetch_remote_code(location.folder)
            return location, content_digests(spec, location)
        except LOAD_FAILURES as exc:
            raise ModelLoadError(load_failure_text(spec, exc)) from exc


def is_bare_table(spec: ModelSpec) -> bool:
    """Whether a model's files name a table of token vectors and nothing that multiplies.

    False where the files cannot be read: the load of the model says why.
    """
    if spec.loader == "wordllama":
        return True
    with quiet():
        try:
            return names_bare_table(locate(spec).folder)
        except LOAD_FAILURES:
            return False
