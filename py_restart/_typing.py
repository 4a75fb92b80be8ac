"""The names of `typing` that annotations use. At run time they stand for nothing: importing it takes as long as all the
rest of this library."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import TypeVar

    T = TypeVar("T")
    F = TypeVar("F", bound=Any)
    Stamp = dict[str, int | str]  # what tells saved contents from all others: "size" in bytes, "digest"
    Moment = dict[str, Any]  # what a progress file says of a loop and of those inside it
else:
    Any = T = F = Stamp = Moment = object
