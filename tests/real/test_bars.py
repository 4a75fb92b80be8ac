"""Progress bars: the right total, and after a resume the right start, in what they print."""

import io
import re

import pytest

from py_restart import enable_counter, simple_counter


class Stop(Exception):
    """What ends the first run."""


def run(path, bar, stop_at=None):
    """Draw a bar around or inside a counter over ten items; return the positions and what was printed."""
    screen, seen = io.StringIO(), []
    try:
        with enable_counter(path) as counter:
            for item in bar(counter, screen):
                if item == stop_at:
                    raise Stop
                seen.append(item)
    except Stop:
        pass
    return seen, screen.getvalue()


def tqdm_around(counter, screen):
    from tqdm import tqdm

    loop = counter(range(10))
    return tqdm(loop, initial=loop.position, file=screen, mininterval=0)


def tqdm_inside(counter, screen):
    from tqdm import tqdm

    return counter(tqdm(range(10), file=screen, mininterval=0))


def tqdm_of_the_rest(counter, screen):
    from tqdm import tqdm

    return counter(lambda start: tqdm(range(start, 10), initial=start, total=10, file=screen, mininterval=0))


def rich_track(counter, screen):
    from rich.progress import track

    loop = counter(range(10))
    # Not auto_refresh: rich 15 forgets `completed` in the end there, and its bar falls back to 60%.
    return track(loop, completed=loop.position, auto_refresh=False, console=console_of(screen))


def rich_progress(counter, screen):
    from rich.progress import Progress

    loop = counter(range(10))
    with Progress(console=console_of(screen)) as bars:
        bar = bars.add_task("job", total=len(loop), completed=loop.position)
        bars.refresh()
        for item in loop:
            yield item
            bars.advance(bar)


def console_of(screen):
    """A terminal for rich."""
    from rich.console import Console

    return Console(file=screen, force_terminal=True, width=100)


def states(text):
    """The (done, total) pairs that tqdm printed, one after the other."""
    return [(int(done), int(total)) for done, total in re.findall(r"\| (\d+)/(\d+) \[", text)]


@pytest.mark.parametrize("bar", [tqdm_around, tqdm_inside, tqdm_of_the_rest])
def test_a_tqdm_bar_shows_the_right_start_and_the_right_total(tmp_path, bar):
    """The first run's bar stops where the item failed; the second one's starts there, and is full at the end."""
    seen, text = run(tmp_path / "job.progress", bar, stop_at=4)
    assert seen == [0, 1, 2, 3]
    assert states(text)[0] == (0, 10)
    assert states(text)[-1] == (4, 10)
    seen, text = run(tmp_path / "job.progress", bar)
    assert seen == [4, 5, 6, 7, 8, 9]
    assert states(text)[0] == (0 if bar is tqdm_inside else 4, 10)  # inside, it also counts what is skipped
    assert states(text)[-1] == (10, 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bar", [rich_track, rich_progress])
def test_a_rich_bar_shows_the_right_start_and_the_right_total(tmp_path, bar):
    """`completed=loop.position`, and the total from the loop itself: 40% at the resume, 100% at the end."""
    seen, text = run(tmp_path / "job.progress", bar, stop_at=4)
    assert seen == [0, 1, 2, 3]
    assert percents(text)[0] == 0
    assert percents(text)[-1] == 40
    seen, text = run(tmp_path / "job.progress", bar)
    assert seen == [4, 5, 6, 7, 8, 9]
    assert percents(text)[0] == 40
    assert percents(text)[-1] == 100
    assert list(tmp_path.iterdir()) == []


def percents(text):
    """The percentages that rich printed, one after the other."""
    return [int(number) for number in re.findall(r"(\d+)%", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))]


def test_nested_bars_start_where_the_two_loops_resume(tmp_path):
    """Two counters, two bars: outer at 1 of 3, inner at 2 of 5, and the next inner bar at 0 again."""
    from tqdm import tqdm

    def job(screen, stop_at=None):
        with enable_counter(tmp_path / "outer.progress") as counter:
            outer = counter(range(3))
            for i in tqdm(outer, initial=outer.position, file=screen, desc="outer", mininterval=0):
                inner = simple_counter(tmp_path / "inner.progress", range(5))
                for j in tqdm(inner, initial=inner.position, file=screen, desc="inner", position=1, mininterval=0):
                    if (i, j) == stop_at:
                        raise Stop

    def first(name, text):
        return [states(part)[0] for part in re.split(rf"(?={name}:)", text) if part.startswith(name)]

    screen = io.StringIO()
    with pytest.raises(Stop):
        job(screen, stop_at=(1, 2))
    screen = io.StringIO()
    job(screen)
    text = screen.getvalue()
    assert first("outer", text)[0] == (1, 3)
    assert first("outer", text)[-1] == (3, 3)
    inner = first("inner", text)
    assert inner[0] == (2, 5)
    assert inner.count((0, 5)) == 1
    assert inner[-1] == (5, 5)
    assert list(tmp_path.iterdir()) == []
