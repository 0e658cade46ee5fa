"""What a benchmark ran on."""

import datetime
import os
from pathlib import Path

import torch


def machine() -> str:
    """CPU, GPU, versions and date, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    gpu = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{name} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores; "
        f"torch {torch.__version__}; {datetime.date.today()}"
    )
