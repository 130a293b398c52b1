"""numpy's library of products: its kernels, and how many threads it computes with. Knows no torch, and no models."""

from __future__ import annotations

import contextlib
import functools
import threading
from types import TracebackType

import threadpoolctl


class _OneThread:
    """numpy's library on one thread, as long as anybody computes with it. Its number of threads is of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limited = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._limited.enter_context(_libraries().limit(limits=1, user_api="blas"))
            self._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._limited.close()


one_thread = _OneThread()


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def libraries() -> str:
    """numpy's libraries of products and their kernels, which environment variables may choose.

    Like `openblas 0.3.30 SkylakeX`, or `no known library`.
    """
    pools = [pool for pool in _libraries().info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
    named = [f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip() for pool in pools]
    return ", ".join(sorted(named)) or "no known library"


def can_limit() -> bool:
    """Whether the number of threads of numpy's library can be set."""
    return bool(_libraries().select(user_api="blas").lib_controllers)
