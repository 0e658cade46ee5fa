"""What SLURM provides, for a job of one machine that it is to run once."""

import os
import stat
import sys
from pathlib import Path

_COMMANDS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": '[[ $1 == show ]] && echo 127.0.0.1 || echo "$@" >> "$REQUEUED"',
}

JOB = {
    "SLURM_JOB_ID": "1",
    "SLURM_NNODES": "1",
    "SLURM_JOB_NODELIST": "here",
    "SLURM_GPUS_ON_NODE": "1",
}
"""The environment of a job with one process."""


def write_commands(folder: Path) -> dict[str, str]:
    """Writes SLURM's commands into a folder, and gives the environment to find them in.

    What is put into the queue again is noted in the file that ``REQUEUED`` names.
    """
    folder.mkdir()
    for name, program in _COMMANDS.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{program}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        "REQUEUED": str(folder / "requeued"),
        "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.defpath]),
        "PET_LOCAL_ADDR": "127.0.0.1",  # torchrun's; the machine's name may lead nowhere
    }
