"""What can go wrong, in words, and the ways in which it is said: raised, warned of, logged, attached as a note.

Every message reads *where: what; what to do*: the path, of a loop as the user gave it, the matter, and the way out.
"""

import functools
import sys

from ._typing import Any, F

_logger: Any = None  # once anybody has imported `logging`


class RestartError(Exception):
    """A loop cannot be saved or resumed as it stands.

    The message names the file and says what to do next. What was saved before is left as it is.
    """

    __module__ = __name__.rpartition(".")[0]  # the name under which a traceback shows it and a program imports it


class InUseError(RestartError):
    """Another process, or a loop that runs in another thread, uses the path. It passes when that one ends."""

    __module__ = RestartError.__module__


class failing:
    """A context in which an error of this kind becomes a `RestartError`: *where: what: why: file; what to do*."""

    def __init__(self, what: str, advice: str, kind: type[Exception] = OSError) -> None:
        self._what, self._advice, self._kind = what, advice, kind

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        is_raised_by_handler = self._kind is OSError and getattr(error, "errno", 0) is None  # not of the system
        if isinstance(error, self._kind) and not is_raised_by_handler:
            why = f"{type(error).__name__}: {error}".removesuffix(": ")
            if isinstance(error, OSError):
                names = [str(name) for name in (error.filename, error.filename2) if name is not None]
                named = "" if not names or names[-1] in self._what else f": {' -> '.join(names)}"
                why = f"{error.strerror or str(error) or why}{named}"
            raise RestartError(f"{self._what}: {why}; {self._advice}") from error


def ago(seconds: float) -> str:
    """Say how long ago something was, in the largest unit of which there are two."""
    units = (86400, "days"), (3600, "hours"), (60, "minutes")
    size, unit = next((unit for unit in units if seconds >= 2 * unit[0]), (1, "seconds"))
    return f"{max(0, seconds) / size:.0f} {unit} ago"


def face(function: F) -> F:
    """Show a user none of our frames where an error is raised for what the user did."""

    @functools.wraps(function)
    def faced(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (RestartError, TypeError, ValueError, UserWarning) as error:
            shorten(error)
            raise

    return faced  # type: ignore[return-value]


def shorten(error: BaseException) -> None:
    """Leave our frames out of the traceback of an exception, and of that of its cause."""
    for one in [error] if error.__cause__ is None else [error, error.__cause__]:
        trace, theirs = one.__traceback__, []
        while trace is not None:
            if not _is_ours(trace.tb_frame):
                theirs.append(trace)
            trace = trace.tb_next
        following = None
        for here in reversed(theirs):
            here.tb_next, following = following, here
        one.with_traceback(following)


def warn(text: str) -> None:
    """Warn, and let it look as if the line of the user's program did that we have been called from."""
    import warnings

    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and (_is_ours(frame) or frame.f_globals.get("__name__") == "collections.abc"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, UserWarning, stacklevel=level)


def log(level: str, text: str) -> None:
    """Log a line. Where nobody has imported `logging`, nobody listens, and importing it takes longer than a loop."""
    global _logger
    logging: Any = sys.modules.get("logging")
    if _logger is None and hasattr(logging, "NullHandler"):  # it may be half imported, in another thread
        _logger = logging.getLogger("py_restart")
    if _logger is not None:
        if not _logger.handlers:
            _logger.addHandler(logging.NullHandler())  # or a warning would be printed where logging is not set up
        getattr(_logger, level)(text)


def attach(error: BaseException, failure: BaseException) -> None:
    """Say that something failed while `error`, which may print nothing (`SystemExit`), is on its way."""
    for say in (error.add_note, functools.partial(log, "error"), warn):
        try:
            say(str(failure))
        except Exception as told:  # some do not let themselves be changed; where warnings are errors, the note says it
            if isinstance(told, UserWarning) and isinstance(error, SystemExit | GeneratorExit):  # but not of these
                sys.__excepthook__(UserWarning, UserWarning(str(failure)), None)  # the program's might exit


def _is_ours(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__")).rpartition(".")[0] == RestartError.__module__
