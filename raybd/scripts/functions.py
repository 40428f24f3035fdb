"""The identity of a user's Python function: its source and what it closes over."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import joblib

from raybd.errors import InputError
from raybd.utils.cache import content_hash


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function or of a callable object's class."""
    return getattr(_plain(function), "__qualname__", type(function).__qualname__)


def function_hash(function: Callable[..., Any]) -> str:
    """16 hex digits of a function's source, defaults and the values that it closes over or is bound to.

    Global names that it uses are not followed: what they hold is not in it.

    Raises:
        InputError: it has no source, or closes over what cannot be told apart.
    """
    plain = _plain(function)
    try:
        source = inspect.getsource(plain)
    except (OSError, TypeError) as error:
        raise InputError(
            f"the source of {function_name(function)} cannot be read ({error}): write it in a file"
        ) from error
    bound = (function.args, function.keywords) if isinstance(function, partial) else ()
    cells = [cell.cell_contents for cell in getattr(plain, "__closure__", None) or ()]
    held = [bound, cells, getattr(plain, "__defaults__", None), getattr(plain, "__kwdefaults__", None)]
    try:
        return content_hash(source, str(joblib.hash(held)))
    except Exception as error:
        raise InputError(
            f"{function_name(function)} closes over what cannot be told apart ({error}): give it plain values"
        ) from error


def _plain(function: Callable[..., Any]) -> Any:
    """The function within a partial; of a callable object its class."""
    plain: Any = function.func if isinstance(function, partial) else function
    return plain if inspect.isroutine(plain) or inspect.isclass(plain) else type(plain)
