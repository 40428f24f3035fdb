"""The memory that a trial of a sweep may need."""

import os

import torch

from raybd.utils.memory import LARGEST, LARGEST_GPU, total_bytes


def memory_limit(cluster: bool) -> int:
    """Bytes that a trial may need: of a cluster, whose machines are not known, those of the largest there is; else
    this machine's memory, or a GPU's."""
    if cluster:
        return LARGEST
    return max(total_bytes(), LARGEST_GPU) if torch.cuda.is_available() else total_bytes()


def names_cluster(address: str | None) -> bool:
    """Whether a sweep with this `--address` joins a Ray that is named, there or by RAY_ADDRESS."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") != "local"
