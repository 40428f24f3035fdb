"""Random streams: one for each purpose, so that a new draw in one never shifts another. Imports nothing of raybd."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` of trial seed `seed`; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for the stream called `names` of trial seed `seed`, on `device`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))
