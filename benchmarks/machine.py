"""The machine that figures hold for: processor, memory, GPU, versions, commit.

python -m benchmarks.startup --rounds 1 --only help
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "lightning", "tokenizers", "datasets")


@functools.cache
def machine_facts() -> dict[str, Any]:
    """What the figures hold for, as it is at the first call."""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    flags = set(facts.get("flags", "").split())
    return {
        "cpu": f"{facts.get('model name', platform.machine())} "
        f"(family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})",
        "cores": len(os.sched_getaffinity(0)),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}),
        "memory_gb": int(memory[1]) / 2**20 if memory else 0,
        "gpu": ", ".join(gpus.splitlines()) or "none, everything ran on the CPU",
        "versions": versions,
        "commit": commit_of(ROOT),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": os.getloadavg()[0],
    }


def commit_of(checkout: Path) -> str:
    """The commit that a checkout stands at, and whether it has changes."""
    return _output("git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12") or "unknown"


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
