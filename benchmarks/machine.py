"""What a benchmark ran on."""

import datetime
import os
from pathlib import Path

import torch


def machine() -> str:
    """CPU, versions and date, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return (
        f"{name} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores; "
        f"torch {torch.__version__}; {datetime.date.today()}"
    )
