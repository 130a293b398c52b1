"""Engines with runtimes of their own, without torch: CTranslate2, FastEmbed, wordllama's library and model2vec.

Each class runs in its engine's own virtual environment, and does what the engine's documentation does. What an engine
leaves to its user, such as the batches of CTranslate2, is done here as an engineer would do it.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encode.adapters import Encoded, Exported, Setup, unit

# Padded tokens of a batch of CTranslate2.
_BATCH_TOKENS = 4096
# What these engines can do after the network. A vector's norm does not matter: all vectors are compared with norm 1.
_AFTERWARDS = ("Pooling", "Normalize")


class CTranslate2:
    """CTranslate2's encoder. Rows are sorted by length, and each core has a batch and a thread of its own."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._pooling = ""
        self._tokenizer: Any = None
        self._encoder: Any = None
        self._threads = ThreadPoolExecutor(setup.threads)

    def prepare(self) -> None:
        """Convert the model, once for all precisions: weights become int8 as they are loaded."""
        converters: Any = importlib.import_module("ctranslate2.converters")
        converters.TransformersConverter(self._setup.folder).convert(str(self._folder))

    def load(self) -> Mapping[str, Any]:
        """Load the converted model and the tokenizer."""
        ctranslate2: Any = importlib.import_module("ctranslate2")
        folder = Path(self._setup.folder)
        self._pooling = pooling_of(folder)
        self._tokenizer = _tokenizer(folder)
        self._encoder = ctranslate2.Encoder(
            str(self._folder), device="cpu", compute_type=self._setup.precision, inter_threads=self._setup.threads,
            intra_threads=1,
        )  # fmt: skip
        return {"dtype": self._encoder.compute_type}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """Tokenize, encode, pool and normalize; `batch_size` does not count, since batches are by tokens."""
        began = time.perf_counter()
        ids = [row.ids for row in self._tokenizer.encode_batch_fast(list(texts))]
        batches = list(batches_by_tokens([len(row) for row in ids], _BATCH_TOKENS))
        parts = list(self._threads.map(lambda rows: self._vectors([ids[row] for row in rows]), batches))
        vectors = np.empty((len(ids), parts[0].shape[1]), dtype=np.float32)
        for rows, part in zip(batches, parts, strict=True):
            vectors[list(rows)] = part
        vectors = unit(vectors)
        seconds = time.perf_counter() - began
        padded = sum(len(rows) * len(ids[rows[0]]) for rows in batches)
        lengths = tuple(map(len, ids))
        return Encoded(
            vectors=vectors, seconds=seconds, wall_seconds=seconds, lengths=lengths, padded_tokens=padded,
            padding_share=1 - sum(lengths) / padded, notes={"tokens": sum(lengths)},
        )  # fmt: skip

    def _vectors(self, ids: Sequence[Sequence[int]]) -> Any:
        """One batch. The values are those of the runtime's own memory, not copied."""
        output = self._encoder.forward_batch(ids)
        hidden = np.asarray(output.last_hidden_state)  # (rows, tokens, dim)
        if self._pooling == "cls":
            return hidden[:, 0].copy()
        return np.stack([row[: len(own)].mean(axis=0) for row, own in zip(hidden, ids, strict=True)])

    @property
    def _folder(self) -> Path:
        return Path(self._setup.work).parent / "exported-ctranslate2"


class FastEmbed(Exported):
    """FastEmbed with an ONNX file of the model's own, which the environment of the ONNX backend exports."""

    backend = "onnx"

    def prepare(self) -> None:
        """Export the model. FastEmbed cuts texts off at the lowest limit of the tokenizer's file, so both are set."""
        super().prepare()
        path = self.folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        limit = _max_tokens(Path(self._setup.folder)) or config["model_max_length"]
        path.write_text(json.dumps({**config, "model_max_length": limit, "max_length": limit}), encoding="utf-8")

    @property
    def folder(self) -> Path:
        """A folder of its own, since the tokenizer's file is not the other engines'."""
        return super().folder.with_name("exported-fastembed")

    def load(self) -> Mapping[str, Any]:
        """Load the file as a custom model."""
        fastembed: Any = importlib.import_module("fastembed")
        described: Any = importlib.import_module("fastembed.common.model_description")
        pooling = described.PoolingType[pooling_of(self.folder).upper()]
        config = json.loads((Path(self._setup.folder) / "config.json").read_text(encoding="utf-8"))
        fastembed.TextEmbedding.add_custom_model(
            model="soloist-bench", pooling=pooling, normalization=True, dim=config["hidden_size"],
            sources=described.ModelSource(url="file:exported"), model_file="onnx/model.onnx",
        )  # fmt: skip
        self._model = fastembed.TextEmbedding(
            "soloist-bench", specific_model_path=str(self.folder), threads=self._setup.threads,
            providers=["CPUExecutionProvider"],
        )  # fmt: skip
        return {"dtype": "float32"}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """What `embed` yields, as one array."""
        began = time.perf_counter()
        vectors = np.stack(list(self._model.embed(list(texts), batch_size=batch_size)))
        seconds = time.perf_counter() - began
        return Encoded(vectors=vectors, seconds=seconds, wall_seconds=seconds)


class WordLlama:
    """wordllama's own library, with the weights of its package."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._model: Any = None

    def prepare(self) -> None:
        """Nothing: the package has its weights."""

    def load(self) -> Mapping[str, Any]:
        """Load the package's own model."""
        if self._setup.model != "wordllama":
            raise ValueError(f"the library runs its own models alone, and {self._setup.model} is not one of them")
        library: Any = importlib.import_module("wordllama")
        # The library looks for its tokenizer beside its own folder; as a cache, that folder is searched as it is.
        self._model = library.WordLlama.load(cache_dir=Path(library.__file__).parent, disable_download=True)
        return {"dtype": str(self._model.embedding.dtype)}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """The vectors of `embed`, with unit norm."""
        began = time.perf_counter()
        vectors = self._model.embed(list(texts), norm=True, batch_size=batch_size)
        seconds = time.perf_counter() - began
        return Encoded(vectors=vectors, seconds=seconds, wall_seconds=seconds)


class Model2Vec:
    """model2vec, with the table and the tokenizer of the model's own folder."""

    options: Mapping[str, Any] = {}

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._model: Any = None

    def prepare(self) -> None:
        """Nothing: the model's folder is what is loaded."""

    def load(self) -> Mapping[str, Any]:
        """Load the folder, which is a pipeline of sentence-transformers."""
        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # model2vec switches it off when it uses threads
        library: Any = importlib.import_module("model2vec")
        self._model = library.StaticModel.from_pretrained(self._setup.folder, normalize=True, max_length=None)
        return {"dtype": str(self._model.embedding.dtype)}

    def encode(self, texts: Sequence[str], batch_size: int, *, count: bool) -> Encoded:
        """The vectors of `encode`; texts are not cut off, as sentence-transformers does not cut them off."""
        began = time.perf_counter()
        vectors = self._model.encode(list(texts), batch_size=batch_size, **self.options)
        seconds = time.perf_counter() - began
        return Encoded(vectors=vectors, seconds=seconds, wall_seconds=seconds)


class Model2VecInThreads(Model2Vec):
    """model2vec with a batch in each of its threads, for any number of texts."""

    options: Mapping[str, Any] = {"multiprocessing_threshold": 0}


def batches_by_tokens(lengths: Sequence[int], tokens: int) -> Iterator[tuple[int, ...]]:
    """Rows in batches of at most so many padded tokens, the longest rows first.

    >>> list(batches_by_tokens([2, 5, 1, 4], 8))
    [(1,), (3, 0), (2,)]
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield tuple(batch)
            batch = []
        batch.append(row)
    if batch:
        yield tuple(batch)


def pooling_of(folder: Path) -> str:
    """`mean` or `cls`, as the model's pipeline has it.

    Raises:
        ValueError: the pipeline does what these engines do not.
    """
    _, *modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    names = [module["type"].rsplit(".", 1)[-1] for module in modules]
    strange = [name for name in names if name not in _AFTERWARDS]
    if strange or "Pooling" not in names:
        raise ValueError(f"the model ends with {', '.join(names) or 'its network'}, which this engine does not do")
    path = folder / modules[names.index("Pooling")]["path"] / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    old = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    mode = config.get("pooling_mode") or next((name for name, key in old.items() if config.get(key)), "")
    if mode not in old:
        raise ValueError("the model pools its tokens in another way than by mean or by the first, so it is left out")
    return str(mode)


def _tokenizer(folder: Path) -> Any:
    """The model's tokenizer, which cuts texts off where the model's pipeline does."""
    tokenizers: Any = importlib.import_module("tokenizers")
    found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.no_padding()
    if _max_tokens(folder):
        found.enable_truncation(_max_tokens(folder))
    return found


def _max_tokens(folder: Path) -> int | None:
    """Where the model's pipeline cuts texts off; None where it leaves that to the tokenizer."""
    config = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    found: int | None = config.get("max_seq_length")
    return found
