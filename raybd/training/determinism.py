"""Trainings on a GPU that give the same bits again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Read by cuBLAS when it starts: with a workspace of its own it adds in the same order each time. On most GPUs it is
# what PyTorch takes anyway (docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html).
CUBLAS_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, if `wanted`, PyTorch takes algorithms that give the same bits each time, on a GPU too.

    An operation that has none raises a RuntimeError with its name. CPUs have none but such that raybd uses.
    """
    if not wanted:
        yield
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in CUBLAS_ENVIRONMENT.items()})
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
