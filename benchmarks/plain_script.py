"""What one writes without soloist: read chunk files, embed them with sentence-transformers, write a Parquet file.

The peer of `benchmarks.end_to_end`, which starts it as a process. It knows nothing of soloist or of these benchmarks.

    python plain_script.py CHUNKS OUT.parquet --model FOLDER [--dtype float32]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    """Read, embed and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chunks", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    files, ids, texts = read_chunks(options.chunks)
    dtype = getattr(torch, options.dtype)
    model = SentenceTransformer(options.model, device="cpu", model_kwargs={"dtype": dtype})
    vectors = model.encode(texts, normalize_embeddings=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"file": files, "id": ids, "text": texts, "vector": column})
    pq.write_table(table, options.out)


def read_chunks(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Files, ids and texts of the chunks below a folder, in .jsonl files and in JSON files of a list."""
    files: list[str] = []
    ids: list[str] = []
    texts: list[str] = []
    for path in sorted([*root.rglob("*.jsonl"), *root.rglob("*_chunks.json")]):
        with path.open(encoding="utf-8") as file:
            items = list(map(json.loads, file)) if path.suffix == ".jsonl" else json.load(file)
        for item in items:
            files.append(str(path.relative_to(root)))
            ids.append(item["id"] if "id" in item else item["metadata"]["chunk_id"])
            texts.append(item["text"])
    return files, ids, texts


if __name__ == "__main__":
    main()
