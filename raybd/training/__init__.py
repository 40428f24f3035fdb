"""Training: the loop, its config, schedules, augmentation, checkpoints."""

from raybd.training.attacker import AttackedImages, TrainingAttacker
from raybd.training.batches import augment, autocast, in_batches, memory_format, prepare
from raybd.training.checkpoint import Checkpoint
from raybd.training.config import Epoch, TrainConfig
from raybd.training.data_parallel import Ranks
from raybd.training.inference import predict
from raybd.training.loop import fit, probe_schedule
from raybd.training.optimization import learning_rate, optimizer_of

__all__ = [
    "AttackedImages",
    "Checkpoint",
    "Epoch",
    "Ranks",
    "TrainConfig",
    "TrainingAttacker",
    "augment",
    "autocast",
    "fit",
    "in_batches",
    "learning_rate",
    "memory_format",
    "optimizer_of",
    "predict",
    "prepare",
    "probe_schedule",
]
