"""Reads hostile files in a process of its own, so that a crash, a hang or a leak is seen and has a seed.

`python -m support.fuzz_worker SEEDS FOLDER` takes seeds such as `7,9` or `0-99`. It names each seed before it begins
with it, and ends with one line of JSON; the first case that breaks a promise ends it.
"""

from __future__ import annotations

import bz2
import faulthandler
import gzip
import json
import re
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from support.hostile_files import hostile_file
from support.readings import Reading, check_message, peak_bytes, read

from soloist.config import SourceConfig
from soloist.errors import InputError
from soloist.events import ListSink
from soloist.formats import JSON, JSON_LINES, format_of
from soloist.ingestion.ingest import ingest
from soloist.sources.json_files import LIST_KEYS
from soloist.sources.nesting import MAX_LEVELS
from soloist.sources.opening import _FOREIGN
from soloist.stores import RunFolder
from soloist.stores.leftovers import empty_new_folder
from soloist.types import Chunk, Collection

CPU_SECONDS_PER_CASE = 30
WAITING_SECONDS_PER_CASE = 300  # of a case that waits for something; a busy machine is no fault
_NO_TEXT = tuple(magic.lower() for magic, _ in _FOREIGN)
_FAULTS = ("unreadable file", "not a chunk")
_SPACE = re.compile(r"[ \t\n\r]*")
# Beyond our limit, at which Python's parser may go on: two readers need not agree on these.
_DEEP = re.compile(rb'(?:\[|\{"\w": ?){%d}' % (MAX_LEVELS - 10))


def check_case(file: Path, folder: Path) -> Reading:
    """All that a file must keep to, as assertions; gives what a run that skips makes of it."""
    strict, lenient = read(file, "error"), read(file, "skip")
    is_duplicate = lenient.error.startswith("two chunks have the same id")
    assert not lenient.error or is_duplicate, f"skip does not skip: {lenient.error}"
    at_fault = [item for item in lenient.skipped if item.reason in _FAULTS]
    if strict.error:
        assert at_fault or is_duplicate, f"refused by one mode only: {strict.error}"
        # An error ends the run and keeps none of its chunks, so it derives ids until it meets a chunk that brings one.
        mixed = {item.index for item in lenient.skipped if item.detail.endswith("other chunks of the file have one")}
        before = [chunk for chunk, at in zip(strict.chunks, strict.indices, strict=True) if at not in mixed]
        assert before == lenient.chunks[: len(before)], "chunks before the fault differ between modes"
    else:
        assert (strict.chunks, strict.skipped) == (lenient.chunks, lenient.skipped), "the modes differ without a fault"
        assert not at_fault, f"a fault passed for none: {at_fault}"
    if not is_duplicate:
        assert lenient.seen == list(range(len(lenient.seen))), "an item is neither given out nor left out"
        is_deep = _DEEP.search(_as_unpacked(file)) is not None
        if not is_deep:
            _check_against_json(file, lenient)
        written = _ingested(file, folder)
        assert is_deep or written == lenient.chunks, "what was written is not what was read"
    return lenient


def _as_unpacked(file: Path) -> bytes:
    """What a file holds, or its own bytes where they cannot be unpacked."""
    packed = file.read_bytes()
    try:
        return unpacked(packed)
    except (OSError, EOFError, ValueError, zlib.error):
        return packed


def _check_against_json(file: Path, lenient: Reading) -> None:
    """The same number of items as Python's own parser finds; a file that it refuses must not pass for a whole one."""
    if format_of(file.name) not in (JSON, JSON_LINES):  # no second reader at hand
        return
    try:
        expected = _items_of(file)
    except RecursionError:  # Python's parser gives up at a depth that depends on the stack
        return
    if expected is not None:
        assert len(lenient.seen) == expected, f"{len(lenient.seen)} of {expected} items"
    else:
        assert any(item.reason == "unreadable file" for item in lenient.skipped), "a broken file passed for a whole one"


def _items_of(file: Path) -> int | None:
    """The number of items; None where the file is to be refused."""
    packed = file.read_bytes()
    try:
        content = unpacked(packed)
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    if content is packed and file.suffix in (".gz", ".bz2", ".zst") and b"\0" in content[:64]:
        return None
    if content.lower().startswith(_NO_TEXT) or content.startswith((b"\x1f\x8b\x08", b"BZh", b"\x28\xb5\x2f\xfd")):
        return None
    if format_of(file.name) is JSON_LINES:
        ends = re.search(rb"\r\n|\n|\r(?=.)", content[: 1 << 20], re.DOTALL)
        end = b"\r" if ends is not None and ends[0] == b"\r" else b"\n"
        lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(end) if line.strip()]
        return None if lines and _is_spread(lines[0]) else len(lines)
    return _count_in_document(content)


def unpacked(content: bytes) -> bytes:
    """As the tools of each compression unpack it."""
    if content.startswith(b"\x1f\x8b\x08"):
        return gzip.decompress(content)
    if content.startswith(b"BZh"):
        return bz2.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        return bytes(pa.input_stream(pa.py_buffer(content), compression="zstd").read())
    return content


def _is_spread(line: bytes) -> bool:
    """Whether a first line is cut in the midst of JSON. Not UTF-8, or a comma after it, is a fault of the line."""
    try:
        json.loads(line.rstrip(b"\r\n\t ").decode("utf-8"))
    except UnicodeDecodeError:
        return False
    except json.JSONDecodeError as exc:
        is_comma_alone = exc.msg == "Extra data" and exc.doc[exc.pos :] == ","
        return not is_comma_alone and line.rstrip()[-1:] in (b"[", b"{", b",")
    except (ValueError, RecursionError):
        return line.rstrip()[-1:] in (b"[", b"{", b",")
    return False


def _count_in_document(content: bytes) -> int | None:
    try:
        text = content.decode("utf-8-sig")
    except ValueError:
        return None
    values, at = [], _after_space(text, 0)
    try:
        while at < len(text) and (not values or text[at] in '{"'):
            value, at = json.JSONDecoder().raw_decode(text, at)
            values.append(value)
            at = _after_space(text, at)
    except ValueError:
        return None
    if at < len(text) or not values:
        return None
    if len(values) > 1:
        return len(values) if isinstance(values[0], (dict, str)) else None
    (value,) = values
    if isinstance(value, dict):
        if isinstance(value.get("text"), str) and value["text"] and not value["text"].isspace():
            return 1
        value = next((value[key] for key in LIST_KEYS if isinstance(value.get(key), list)), None)
    return len(value) if isinstance(value, list) else None


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None  # it matches nothing too
    return space.end()


def _ingested(file: Path, folder: Path) -> list[Chunk]:
    """The chunks that the first stage of a run writes, read back from its folder."""
    run = RunFolder.create(folder)
    collection = Collection(name="C", root=file.parent, files=(file,))
    try:
        shards = ingest((collection,), SourceConfig(on_bad_input="skip"), run, 1000, ListSink())
        return [chunk for shard in shards for chunk in run.shards.read_chunks("C", shard.index)]
    except InputError as exc:
        check_message(str(exc), file)
        assert str(exc).startswith("there are no chunks to embed"), f"cannot be written: {exc}"
        return []
    finally:
        empty_new_folder(run.path)


def _seeds(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main(arguments: Sequence[str]) -> None:
    """Take the seeds, and say what came of them."""
    seeds, folder = list(_seeds(arguments[0])), Path(arguments[1])
    counts: Counter[str] = Counter()
    before, largest, slowest = peak_bytes(), 0, 0.0
    faulthandler.register(signal.SIGPROF, chain=True)  # which then ends the process
    for seed in seeds:
        print(f"seed {seed}", flush=True)
        made = hostile_file(seed)
        file = folder / made.name
        file.write_bytes(made.content)
        faulthandler.dump_traceback_later(WAITING_SECONDS_PER_CASE, exit=True)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_PER_CASE)
        began = time.perf_counter()
        reading = check_case(file, folder / "run")
        slowest = max(slowest, time.perf_counter() - began)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        largest = max(largest, len(made.content))
        kind = format_of(file.name).endings[0].removeprefix(".")
        counts[f"{kind} whole" if not any(s.reason in _FAULTS for s in reading.skipped) else f"{kind} at fault"] += 1
        counts["chunks"] += len(reading.chunks)
        file.unlink()
    print(
        json.dumps(
            {
                "files": len(seeds),
                "counts": counts,
                "grown_bytes": peak_bytes() - before,
                "largest_file_bytes": largest,
                "slowest_seconds": round(slowest, 3),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
