"""What can go wrong, in words.

Every message reads *where: what; what to do*: the path as the user gave it, what is the matter with it, and the way
out.
"""

from __future__ import annotations

__all__ = ["RestartError"]


class RestartError(Exception):
    """A loop cannot be saved or resumed as it stands.

    The message names the file and says what to do next. Nothing was lost: whatever was saved before is still whole.
    """


RestartError.__module__ = "py_restart"  # the name under which a traceback shows it and a program imports it


def note(error: BaseException, text: str) -> None:
    """Attach `text` to an exception that is already on its way (Python 3.11 and later show it in the traceback)."""
    if hasattr(error, "add_note"):
        error.add_note(text)


def describe(error: BaseException) -> str:
    """Say an exception in one line: operating system errors without their number, all others with their type."""
    return error.strerror or str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
