"""Nodes of a Ray cluster as processes of this machine, for `local:N`: started on 127.0.0.1, and ended on every way out.

Each node has a keeper (see `keeper`), a name, a lock folder, and its share of the processors and GPUs. A head of its
own holds them together and does no work, so that the end of any node is not the end of the cluster. What a node is
told in labels is known to whoever joins the cluster.

Knows Ray's command.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from soloist.broken_imports import load_optional
from soloist.child_processes import SAFE_PATH
from soloist.cluster.keeper import below_process, keeper_command, kill_below
from soloist.errors import ConfigError
from soloist.wording import count_text, is_or_are

HOST = "127.0.0.1"
FOLDER_LABEL = "soloist-folder"
THREADS_LABEL = "soloist-threads"
NAME_LABEL = "soloist-node"
_ROOT = Path("/tmp")  # paths of sockets have at most 107 characters, and Ray's own part takes most of them
_HEAD = "head"
_STARTED = "Ray runtime started"
_TOO_SLOW = "timed out during startup"
_START_SECONDS = 180.0  # on a busy machine; some seconds where it is idle
_POLL_SECONDS = 0.05
_OBJECT_STORE_BYTES = 80 << 20  # Ray takes no less than 75 MiB; only references and small records go through it
_LAST_LINES = 8
# Ray's command takes the machine's own address for 127.0.0.1, and only on 127.0.0.1 does Ray listen to nobody else.
_RAY_START = SAFE_PATH + (
    "from ray._private import services; services.resolve_ip_for_localhost = lambda host: host; "
    "from ray.scripts.scripts import main; main()"
)
_GPU_FILE = re.compile(r"nvidia[0-9]+")
_NO_GPUS = {"", "-1", "none", "void", "NoDevFiles"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one node gets of the machine."""

    threads: int
    gpus: tuple[str, ...]


def load_ray() -> Any:
    """Ray's Python.

    Raises:
        ConfigError: it is missing, or cannot be loaded.
    """
    return load_optional("ray", what="a cluster", package="ray", extra="ray")


@contextlib.contextmanager
def loopback_stays() -> Iterator[None]:
    """Within this, Ray's Python takes 127.0.0.1 as it is given, and not for the machine's own address."""
    services: Any = importlib.import_module("ray._private.services")
    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def share_out(nodes: int, cores: int, gpus: Sequence[str]) -> list[Share]:
    """The parts of a machine for so many nodes; each has at least one thread.

    Raises:
        ConfigError: there are GPUs, but fewer than nodes.
    """
    if gpus and len(gpus) < nodes:
        raise ConfigError(
            f"local:{nodes} needs a GPU for each node, and there {is_or_are(len(gpus))} "
            f"{count_text(len(gpus), 'GPU')}: give local:{len(gpus)}, or accelerator cpu"
        )
    first, more = divmod(len(gpus), nodes)
    ends = [node * first + min(node, more) for node in range(nodes + 1)]
    return [
        Share(threads=max(1, cores // nodes), gpus=tuple(gpus[ends[node] : ends[node + 1]])) for node in range(nodes)
    ]


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Asks no driver."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return tuple(name for name in names if name not in _NO_GPUS)
    count = sum(_GPU_FILE.fullmatch(path.name) is not None for path in devices.iterdir()) if devices.is_dir() else 0
    return tuple(map(str, range(count)))


def lock_folder(folder_label: str, name: str) -> Path:
    """The lock folder of a node: nodes of one machine must not wait for each other's devices."""
    return _ROOT / folder_label / f"{name}-locks"


class LocalNodes:
    """A head and so many nodes, `node-1` and on. A context manager.

    Attributes:
        address: `127.0.0.1:PORT`, by which others join.
    """

    def __init__(self, nodes: int, *, use_gpus: bool = True) -> None:
        load_ray()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        shares = share_out(nodes, cores, visible_gpus(os.environ) if use_gpus else ())
        self._shares = {f"node-{index}": share for index, share in enumerate(shares, start=1)}
        self._folder = _ROOT / f"soloist-{secrets.token_hex(4)}"
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self.address = ""

    def __enter__(self) -> LocalNodes:
        try:
            self._folder.mkdir(mode=0o700)
            self._begin(_HEAD)
            self._await([_HEAD])
            self.address = (self._folder / "ray_current_cluster").read_text(encoding="utf-8").strip()
            for name in self._shares:
                self._begin(name)
            self._await(list(self._shares))
            self._require_loopback()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once, as the loss of a machine does."""
        keeper = self._keepers.pop(name)
        with contextlib.suppress(psutil.Error):
            psutil.Process(keeper.pid).suspend()  # it would tidy up
        kill_below(keeper.pid)
        keeper.kill()
        keeper.communicate()

    def start(self, name: str) -> None:
        """Start a node again that was killed; returns when it has joined.

        Raises:
            ConfigError: it does not start.
        """
        self._begin(name)
        self._await([name])

    def pids(self, name: str) -> tuple[int, ...]:
        """The processes of a node that live now, without its keeper."""
        return tuple(process.pid for process in below_process(self._keepers[name].pid))

    def _begin(self, name: str) -> None:
        if name == _HEAD:
            share, command, remove = Share(threads=1, gpus=()), _head_command(self._folder), self._folder
        else:
            share, remove = self._shares[name], None
            command = _node_command(name, share, self._folder, self.address)
        log = self._log(name)
        log.unlink(missing_ok=True)
        self._keepers[name] = subprocess.Popen(
            keeper_command(log, command, remove), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env=_environment(share), start_new_session=True,  # Ctrl-C reaches it through us
        )  # fmt: skip

    def _await(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        for name in names:
            while _STARTED not in self._said(name):
                if self._keepers[name].poll() is not None:
                    self._begin_again(name)
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"{name} of the local cluster did not start within {_START_SECONDS:g} s: run again when the "
                        f"machine is less busy, or with fewer nodes ({self._last_words(name)})"
                    )
                time.sleep(_POLL_SECONDS)

    def _begin_again(self, name: str) -> None:
        """Start a node again that Ray has given up: on a busy machine the half minute that it allows is too short."""
        if _TOO_SLOW not in self._said(name):
            raise ConfigError(f"{name} of the local cluster has ended at its start: {self._last_words(name)}")
        self._keepers[name].communicate()
        self._begin(name)

    def _require_loopback(self) -> None:
        """Refuse a Ray that other machines could reach: whoever reaches it runs code here."""
        for name, keeper in self._keepers.items():
            for process in below_process(keeper.pid):
                for host, port in listening_addresses(process):
                    if not _is_loopback(host):
                        raise ConfigError(
                            f"Ray listens at {host} port {port} for {name}, where other machines may reach it, and "
                            "local:N is for this machine only: install the version of ray that soloist[ray] names"
                        )

    def _end(self) -> None:
        """End all processes: their keepers kill them when their standard input ends."""
        for keeper in self._keepers.values():
            assert keeper.stdin is not None
            with contextlib.suppress(OSError):
                keeper.stdin.close()
        for keeper in self._keepers.values():
            keeper.wait()
        self._keepers.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _said(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return self._log(name).read_text(encoding="utf-8", errors="replace")
        return ""

    def _last_words(self, name: str) -> str:
        lines = [line.strip() for line in self._said(name).splitlines() if line.strip()]
        return " / ".join(lines[-_LAST_LINES:]) or "it said nothing"


def _head_command(folder: Path) -> list[str]:
    client = ["--ray-client-server-port", str(_free_port())] if find_spec("grpc") else []
    return [
        *_ray_start(), "--head", "--port=0", "--include-dashboard=false", "--no-monitor", "--num-cpus=0",
        "--num-gpus=0", f"--temp-dir={folder}", "--disable-usage-stats", *client,
    ]  # fmt: skip


def _node_command(name: str, share: Share, folder: Path, address: str) -> list[str]:
    labels = {NAME_LABEL: name, FOLDER_LABEL: folder.name, THREADS_LABEL: str(share.threads)}
    return [
        *_ray_start(), f"--address={address}", f"--node-name={name}", f"--num-cpus={share.threads}",
        f"--num-gpus={len(share.gpus)}", "--labels", ",".join(f"{key}={value}" for key, value in labels.items()),
        f"--temp-dir={folder / name}",  # in one folder, nodes that start at once take the same names
    ]  # fmt: skip


def _environment(share: Share) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(share.gpus),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }


def _ray_start() -> list[str]:
    """The command that starts a node on the loopback device, with ports that are free."""
    return [
        sys.executable, "-c", _RAY_START, "start", "--block", f"--node-ip-address={HOST}",
        "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--include-log-monitor=false",
    ]  # fmt: skip


def listening_addresses(process: psutil.Process) -> list[tuple[str, int]]:
    """Where a process takes connections: addresses and ports. None of a process that has ended."""
    with contextlib.suppress(psutil.Error):
        # psutil has this name from 6.0 on, and before it was `connections`.
        connections = process.net_connections if hasattr(process, "net_connections") else process.connections
        found = connections("inet")
        return [(each.laddr.ip, each.laddr.port) for each in found if each.status == psutil.CONN_LISTEN]
    return []


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
