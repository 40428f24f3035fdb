"""Random streams: one for each purpose, so that a new draw in one never shifts another. Imports nothing of raybd."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` of trial seed `seed`; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for the stream called `names` of trial seed `seed`, on `device`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextmanager
def forked_rng(seed: int, *names: str | int, device: torch.device) -> Iterator[None]:
    """A context in which PyTorch's default generators, of the CPU and of `device`, draw the stream `names` of `seed`.

    Their states are restored at its end, so that a measurement never shifts a training.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(derive(seed, *names))
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
