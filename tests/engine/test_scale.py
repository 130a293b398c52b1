"""Host memory is bounded by the shard, not by the collection."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

EMBED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from soloist.config import RunConfig
    from soloist.engine import run
    for root in map(Path, sys.argv[1:]):
        run(RunConfig(chunks_root=root / "chunks", out=root / "run", models=("wordllama",), accelerator="cpu",
                      lock_dir=root / "locks"))
        # Not `ru_maxrss`, which starts with the size of the process that started this one.
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
""")


def write_chunks(root, chunks: int) -> str:
    """A folder with one file of `chunks` short chunks."""
    folder = root / "chunks" / "many"
    folder.mkdir(parents=True)
    texts = ({"text": f"chunk number {index} of a long collection, in a few words"} for index in range(chunks))
    with (folder / "all_chunks.json").open("w") as file:
        file.write("[" + ",".join(json.dumps(item) for item in texts) + "]")
    return str(root)


def test_ten_times_the_chunks_take_little_more_memory(tmp_path):
    """A list that grows with the collection ends every long run on a machine of 30 GB.

    One process embeds both, the small one first, so that what both need is in both peaks.
    """
    roots = [write_chunks(tmp_path / str(chunks), chunks) for chunks in (15_000, 150_000)]
    done = subprocess.run([sys.executable, "-c", EMBED, *roots], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    print(f"peak {small} KiB at 15,000 chunks, {large} KiB at 150,000: {large / small:.3f}x")
    assert large <= 1.2 * small
