"""What saving takes of a loop's time, and when that is worth a word."""

from __future__ import annotations

from time import monotonic

from ._errors import log

_COSTLY = 0.1  # the share of a loop's time from which on saving is worth a warning
_NOTICEABLE = 0.05  # seconds of saving below which nobody minds


class Costs:
    """The time that the saves of one loop have taken since it began."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self.last_save = monotonic()
        self._spent, self._saves, self._position = 0.0, 0, 0
        self.quick = 0.0  # seconds that a save of the position alone takes
        self._is_judged = False

    def note(self, began: float, saves: int = 1) -> None:
        """Note that as many saves as that have taken from `began` to now."""
        self.last_save = monotonic()
        self._spent += self.last_save - began
        self._saves += saves

    def pass_by(self, position: int, span: int) -> None:
        """Note the saves since the last one that was timed, each of which was too quick for that."""
        saves = max(0, position // span - self._position // span - 1) if self.quick else 0
        self._spent += saves * self.quick
        self._saves += saves
        self._position = position

    def judge(self, at_least: float = 0.0) -> None:
        """Say, once, that saving takes too much of the loop's time, and what would help."""
        total = monotonic() - self._began
        if total > at_least and not self._is_judged and self._spent > max(_COSTLY * total, _NOTICEABLE):
            self._is_judged = True
            interval = float(f"{self._spent / self._saves / _COSTLY:.2g}")
            share = f"saving takes {min(1, self._spent / total):.0%} of the time of this loop"
            log("WARNING", f"{self._name}: {share}; save_interval={interval:g} would make it less than {_COSTLY:.0%}")
