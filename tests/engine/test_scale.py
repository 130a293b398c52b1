"""Host memory is bounded by the shard, not by the collection."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

EMBED = textwrap.dedent("""
    import resource, sys
    from pathlib import Path
    from soloist.config import RunConfig
    from soloist.engine import run
    root = Path(sys.argv[1])
    run(RunConfig(chunks_root=root / "chunks", out=root / "run", models=("wordllama",), accelerator="cpu",
                  lock_dir=root / "locks"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""")


def peak_kib(root, chunks: int) -> int:
    """The peak resident size of a process that embeds `chunks` short chunks from one file, in KiB."""
    folder = root / "chunks" / "many"
    folder.mkdir(parents=True)
    texts = ({"text": f"chunk number {index} of a long collection, in a few words"} for index in range(chunks))
    with (folder / "all_chunks.json").open("w") as file:
        file.write("[" + ",".join(json.dumps(item) for item in texts) + "]")
    done = subprocess.run([sys.executable, "-c", EMBED, str(root)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def test_ten_times_the_chunks_take_little_more_memory(tmp_path):
    """A list that grows with the collection ends every long run on a machine of 30 GB."""
    small = peak_kib(tmp_path / "small", 20_000)
    large = peak_kib(tmp_path / "large", 200_000)
    print(f"peak {small} KiB at 20,000 chunks, {large} KiB at 200,000: {large / small:.3f}x")
    assert large <= 1.3 * small
