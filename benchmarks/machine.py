"""What a measurement was made on: processor, cores, memory, versions, commit. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Instructions that decide how fast a processor multiplies matrices.
_DECISIVE_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
# Variables that choose a library's kernels by hand: most settings of them leave instructions of the processor unused.
_CHOOSING_VARIABLES = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "CT2_FORCE_CPU_ISA", "CT2_USE_MKL",
    "NPY_DISABLE_CPU_FEATURES",
)  # fmt: skip
_TORCH_LIBRARIES = {"MKL": r"Math Kernel Library Version ([\d.]+)", "oneDNN": r"MKL-DNN (v\S+)"}


def hardware() -> dict[str, object]:
    """The machine, JSON-ready."""
    return {
        "processor": processor(),
        "flags": [flag for flag in _DECISIVE_FLAGS if flag in _flags()],
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "kernels": kernels(),
        "kernel_variables": kernel_variables(),
    }


def kernels() -> list[str]:
    """The libraries of matrix kernels that this process has loaded, with the instructions that each has chosen.

    What is linked into an engine is not seen, but for torch.
    """
    try:
        import threadpoolctl
    except ModuleNotFoundError:
        return ["unknown, since threadpoolctl is not installed"]
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    found = [f"{each['internal_api']} {each['version']} {each.get('architecture', '')}".strip() for each in pools]
    return [*sorted(found), *_torch_kernels()]


def kernel_variables() -> dict[str, str]:
    """The variables of this environment that choose kernels by hand."""
    return {name: os.environ[name] for name in _CHOOSING_VARIABLES if name in os.environ}


def kernel_warnings(variables: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that may hold a library back."""
    return [
        f"{name}={value} is set and may hold a library back: unset it, and measure again"
        for name, value in variables.items()
    ]


def warn_of_kernel_variables() -> None:
    """Say on stderr what may hold a library back."""
    for warning in kernel_warnings(kernel_variables()):
        print(warning, file=sys.stderr, flush=True)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The interpreter's version, and those of the packages that are there."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages if _version(name)}}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's processor."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    """The commit that is measured, with `+` after it where the working tree differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "") if head else "unknown"


def peak_rss_bytes() -> int:
    """The highest resident size of this process.

    Not `getrusage` where the system says more: that begins with the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.is_file() else None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def slug(name: str) -> str:
    """A name as part of a file's name: `NVIDIA A100-SXM4-40GB` is `nvidia-a100-sxm4-40gb`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _torch_kernels() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    built = torch.__config__.show()
    parts = [f"{name} {match[1]}" for name, pattern in _TORCH_LIBRARIES.items() if (match := re.search(pattern, built))]
    return [f"torch {torch.backends.cpu.get_cpu_capability()} with {' and '.join(parts) or 'no library'}"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _flags() -> set[str]:
    lines = [line for line in _cpuinfo() if line.startswith(("flags", "Features"))]
    return set(lines[0].split(":", 1)[1].split()) if lines else set()


def _cpuinfo() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.is_file() else []


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
