"""A user's own training as a black box: commands that train and predict, data in their layout, predictions, knobs."""

from raybd.scripts.config import ScriptConfig

__all__ = ["ScriptConfig"]
