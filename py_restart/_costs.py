"""What saving takes of a loop's time, and when that is worth a word."""

from collections.abc import Callable
from time import perf_counter  # finer than `monotonic` (Windows, before Python 3.13)

from ._errors import log

_COSTLY = 0.1  # the share of a loop's time from which on saving is worth a warning
_LONG = 1.0  # seconds that a loop has run, before which nobody minds


class Costs:
    """The time that the saves of a loop, and of those inside it, have taken since it began."""

    def __init__(self) -> None:
        self._began = perf_counter()
        self._spent, self._timed, self._others, self._is_judged = 0.0, 0, 0, False
        self._quick = 0.0  # seconds that a save of the position alone takes: too little to time each of them

    def note(self, name: str, began: float, others: int, quick: Callable[[], object] | None) -> None:
        """Note a save by this loop from `began` to now, and others before it, each as long as `quick` takes once more.

        Say, once, that saving takes too much of the time, and what would help.
        """
        now = perf_counter()
        self._spent += now - began
        self._timed, self._others = self._timed + 1, self._others + others
        total = now - self._began
        if total < _LONG or self._is_judged:
            return
        if quick is not None:
            quick()
            seconds = perf_counter() - now
            self._quick = min(seconds, self._quick or seconds)  # what else runs meanwhile makes some longer
        spent = self._spent + self._others * self._quick
        if spent > _COSTLY * total:
            self._is_judged = True
            # With one, none is quick. Twice what it comes to: a disk that rests between two takes longer for each.
            interval = float(f"{2 * self._spent / self._timed / _COSTLY:.2g}")
            share = f"saving takes {min(1, spent / total):.0%} of the time"
            way_out = f"save_interval={interval:g} would make it less than {_COSTLY:.0%}"
            log("warning", f"{name}: {share}; {way_out} (an inner loop that is shorter needs no each_save)")
