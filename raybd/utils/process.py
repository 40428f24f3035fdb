"""Settings of the whole process, changed for a while: environment variables and levels of loggers."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def default_variables(defaults: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment variables `defaults` that were not set before."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def log_levels(levels: Mapping[str, int]) -> Iterator[None]:
    """Inside, the loggers of these names at these levels."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
