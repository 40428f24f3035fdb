"""Pictures of a finished trial, on request: features by role, what a class rests on, the trigger's spectrum."""

from raybd.metrics.pictures.metric import Pictures

__all__ = ["Pictures"]
