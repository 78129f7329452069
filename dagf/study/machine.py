"""What a run was made on, as far as it matters to its figures: no host name, no user name."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "numpy")
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def thread_limits(threads: int) -> dict[str, str]:
    """The environment that keeps numeric libraries to `threads` threads."""
    return {name: str(threads) for name in THREADS}


def cpu_model() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        )
        return asked.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def gpu_models() -> list[str]:
    """The names of the NVIDIA GPUs, asked of the driver: importing torch for it would take seconds."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [
        line
        for file in files
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]


def version(library: str) -> str:
    """The installed version of a library, without importing it."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def machine(threads: int) -> dict[str, Any]:
    """The machine and the versions of a run."""
    return {
        "cpu": cpu_model(),
        "threads": threads,
        "gpus": gpu_models(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {library: version(library) for library in LIBRARIES},
    }
