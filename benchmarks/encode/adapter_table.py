"""Which class runs which adapter, by the name that `engines` has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.encode.adapters import Infinity, Onnx, OpenVino, PackingSoloist, SentenceTransformers, Soloist
from benchmarks.encode.in_memory import SoloistInMemory
from benchmarks.encode.peers import CTranslate2, FastEmbed, Model2Vec, Model2VecInThreads, WordLlama

ADAPTERS: Mapping[str, type[Any]] = {
    "soloist": Soloist,
    "soloist in memory": SoloistInMemory,
    "packing soloist": PackingSoloist,
    "sentence-transformers": SentenceTransformers,
    "openvino": OpenVino,
    "onnx": Onnx,
    "infinity": Infinity,
    "ctranslate2": CTranslate2,
    "fastembed": FastEmbed,
    "wordllama": WordLlama,
    "model2vec": Model2Vec,
    "model2vec in threads": Model2VecInThreads,
}
