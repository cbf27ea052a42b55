"""How a program of ours may carry data."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class DataPath(StrEnum):
    """`AUTO`: in the kernel once there are data that deserve it and where that works, else in userspace."""

    AUTO = "auto"
    KERNEL = "kernel"
    USERSPACE = "userspace"


VARIABLE: Final = "TEREDO_LAB_DATAPATH"
"""The environment variable that chooses for programs that are told nothing else."""
