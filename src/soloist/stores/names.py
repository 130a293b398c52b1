"""Names of models and collections as folder names. Pure: a string in, one safe path component out."""

from __future__ import annotations

import hashlib
import re

MAX_LENGTH = 100
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?<!\.)")
# Not the name's own: the ending of a digest that we append, and a file that a run folder holds itself.
_TAKEN = re.compile(r".*-[0-9a-f]{8}|.*\.jsonl?", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def folder_name(name: str) -> str:
    """The folder of a model or a collection: `name` itself where that is safe, else a readable form with a digest.

    Safe are up to 100 letters, digits, `.`, `_` and `-` of ASCII, with no `.` at either end. A name that
    looks like one of ours with its digest, or like a JSON file, gets a digest too, so that two names
    never share a folder. Names that are safe and differ in case only stay two names, e.g. `a` and `A`.

        >>> folder_name("bge-m3")
        'bge-m3'
        >>> folder_name("BAAI/bge-m3")
        'BAAI--bge-m3-d790e737'
    """
    if len(name) <= MAX_LENGTH and _PLAIN.fullmatch(name) and not _TAKEN.fullmatch(name):
        return name
    # surrogatepass: names of folders that are not valid UTF-8 carry lone surrogates.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    readable = _UNSAFE.sub("_", name.replace("/", "--")).lstrip(".") or "_"
    return f"{readable[: MAX_LENGTH - len(digest) - 1]}-{digest}"
