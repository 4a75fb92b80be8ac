"""Make a `for` loop resumable: run the same file again, and it goes on where it died, with the objects as they were."""

import sys as _sys

if _sys.implementation.name != "cpython":
    _why = f"it notices a `for` that is left by its references, which {_sys.implementation.name} does not count"
    raise ImportError(f"py_restart needs CPython: {_why}; work would be lost")

from ._counter import CounterClosier, enable_counter, simple_counter
from ._errors import InUseError, RestartError
from ._scope import config, multi_count

__all__ = ["CounterClosier", "InUseError", "RestartError", "config", "enable_counter", "multi_count", "simple_counter"]
__version__ = "2.0.0"
