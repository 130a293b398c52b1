"""What one writes without soloist: a small HTTP server around sentence-transformers, one text at a time.

The peer of `benchmarks.serving`, which starts it as a process. It knows nothing of soloist or of these benchmarks. It
speaks as OpenAI's API does, and its vector is that of all models, one behind the other.

    python plain_server.py FOLDER [FOLDER ...] --port PORT
"""

from __future__ import annotations

import argparse
import base64
import threading

import numpy as np
import uvicorn
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class Models:
    """The models of the server, of which one computes at a time: torch has all cores for it."""

    def __init__(self, folders: list[str]) -> None:
        self._models = [SentenceTransformer(folder, device="cpu") for folder in folders]
        self._lock = threading.Lock()

    def encode(self, text: str) -> str:
        """The vector of a text in base64."""
        with self._lock:
            parts = [model.encode(text, normalize_embeddings=True, show_progress_bar=False) for model in self._models]
        vector = np.concatenate(parts).astype("<f4") / np.sqrt(np.float32(len(parts)))
        return base64.b64encode(vector.tobytes()).decode()

    async def embeddings(self, request: Request) -> JSONResponse:
        """Answer a request of one text."""
        asked = await request.json()
        found = await run_in_threadpool(self.encode, asked["input"])
        return JSONResponse({"data": [{"index": 0, "embedding": found}], "model": asked["model"]})


def main() -> None:
    """Load the models and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    models = Models(options.folders)
    app = Starlette(routes=[Route("/v1/embeddings", models.embeddings, methods=["POST"])])
    uvicorn.run(app, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
