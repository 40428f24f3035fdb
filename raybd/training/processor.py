"""What a processor can compute in bfloat16."""

import logging
from collections.abc import Iterable
from functools import cache

import torch

from raybd.training.config import TrainConfig

log = logging.getLogger(__name__)
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # of Intel and AMD, of ARM
SLOW = (
    "precision bf16: this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16, or ARM's bf16), and training takes "
    "6 to 7 times as long as in fp32"
)


def warn_of_slow_bf16(train_configs: Iterable[TrainConfig], device: str) -> None:
    """Warn before a training of `train_configs` on `device` that bf16 is slow there, if it is."""
    for told in {slow_bf16(train_config, device) for train_config in train_configs} - {""}:
        log.warning(told)


def slow_bf16(train_config: TrainConfig, device: str) -> str:
    """Why bf16 is slow where `train_config` asks for it on `device`; "" where it is not."""
    if train_config.precision != "bf16" or device != "cpu" or has_bf16():
        return ""
    return SLOW


@cache
def has_bf16() -> bool:
    """Whether this machine's processor has instructions for bfloat16; true where PyTorch does not tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BF16_INSTRUCTIONS)
