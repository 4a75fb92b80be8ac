"""What saving takes of a loop's time, and when that is worth a word."""

from collections.abc import Callable
from time import monotonic

from ._errors import log

_COSTLY = 0.1  # the share of a loop's time from which on saving is worth a warning
_LONG = 1.0  # seconds that a loop has run, before which nobody minds


class Costs:
    """The time that the saves of one loop have taken since it began."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self.last_save = monotonic()
        self._spent, self._timed, self._is_judged = 0.0, 0, False
        self._quick = 0.0  # seconds that a save of the position alone takes: too little to time each of them

    def note(self, began: float, boundaries: int, quick: Callable[[], object] | None) -> None:
        """Note a save from `began` to now; say, once, that saving takes too much of the time, and what would help."""
        now = self.last_save = monotonic()
        self._spent += now - began
        self._timed += 1
        total = now - self._began
        if total < _LONG or self._is_judged:
            return
        if quick is not None:  # it has saved the position alone, at most of the boundaries so far
            quick()
            seconds = monotonic() - now
            self._quick = min(seconds, self._quick or seconds)  # what else runs meanwhile makes some longer
        saves = max(self._timed, boundaries if self._quick else 0)
        spent = self._spent + (saves - self._timed) * self._quick
        if spent > _COSTLY * total:
            self._is_judged = True
            interval = float(f"{spent / saves / _COSTLY:.2g}")
            share = f"saving takes {min(1, spent / total):.0%} of the time of this loop"
            log("warning", f"{self._name}: {share}; save_interval={interval:g} would make it less than {_COSTLY:.0%}")
