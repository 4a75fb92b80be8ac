"""Make a `for` loop resumable: run the same file again, and it goes on where it died, with the objects as they were."""

from ._counter import CounterClosier, enable_counter, simple_counter
from ._errors import RestartError
from ._scope import config, multi_count

__all__ = ["CounterClosier", "RestartError", "config", "enable_counter", "multi_count", "simple_counter"]
__version__ = "1.0.0"
