"""Where items come from: each kind of source is stopped in the middle, made anew as by a new run, and gone on with."""

import csv
import itertools
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from py_restart import enable_counter, simple_counter

ITEMS = 12
STOP_AT = 7


class Stop(Exception):
    """What ends the first run."""


def loop_over(path, source, stop_at=None):
    """Count one loop, stopped in an item; return the items that were done."""
    done = []
    try:
        with enable_counter(path) as counter:
            for item in counter(source):
                if counter.position == stop_at:
                    raise Stop
                done.append(item)
    except Stop:
        pass
    return done


# Each makes its source anew in a folder, with twelve items that can be compared.


def from_pandas(folder):
    import pandas

    return (chunk["x"].tolist() for chunk in pandas.read_csv(table(folder), chunksize=2))


def from_pandas_at(folder):
    import pandas

    return lambda start: (
        chunk["x"].tolist() for chunk in pandas.read_csv(table(folder), chunksize=2, skiprows=range(1, 2 * start + 1))
    )


def from_pandas_rows(folder):
    import pandas

    return pandas.DataFrame({"x": range(ITEMS), "y": "a"}).itertuples(index=False)


def from_csv_reader(folder):
    return csv.DictReader(itertools.islice(table(folder).open(newline=""), ITEMS + 1))


def from_lines(folder):
    return itertools.islice(table(folder).open(), ITEMS)


def from_a_cursor(folder):
    return database(folder).execute("SELECT x, y FROM t ORDER BY x")


def from_a_cursor_at(folder):
    return lambda start: database(folder).execute("SELECT x, y FROM t ORDER BY x LIMIT -1 OFFSET ?", (start,))


def from_product(folder):
    return itertools.product("abc", range(4))


def from_chain(folder):
    return itertools.chain.from_iterable([i, i] for i in range(6))


def from_zip(folder):
    return zip("abcdefghijkl", range(ITEMS), strict=True)


def from_enumerate(folder):
    return enumerate("abcdefghijkl")


def from_an_array(folder):
    import numpy

    return numpy.arange(ITEMS) ** 2


def from_the_rows_of_an_array(folder):
    import numpy

    return map(tuple, numpy.arange(2 * ITEMS).reshape(ITEMS, 2))


def from_dict_items(folder):
    return {letter: number for number, letter in enumerate("abcdefghijkl")}.items()


def from_dict_values(folder):
    return dict.fromkeys("abcdefghijkl", 1).values()


def from_reversed(folder):
    return reversed(range(ITEMS))


def table(folder):
    """A csv file of 24 rows."""
    path = folder / "table.csv"
    path.write_text("x,y\n" + "".join(f"{n},{n * n}\n" for n in range(2 * ITEMS)))
    return path


def database(folder):
    """A database of twelve rows."""
    connection = sqlite3.connect(folder / "table.db")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, y TEXT)")
        connection.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", [(n, f"row {n}") for n in range(ITEMS)])
    return connection


@pytest.mark.parametrize("make", [make for name, make in list(globals().items()) if name.startswith("from_")])
@pytest.mark.filterwarnings("ignore:unclosed (file|database):ResourceWarning")  # closed by nobody, as people do
@pytest.mark.filterwarnings("ignore:.*unclosed (file|database)(.|\\n)*:pytest.PytestUnraisableExceptionWarning")
def test_a_source_goes_on_where_it_was_stopped(tmp_path, make):
    """What the two runs do together is what one run does: nothing twice, nothing left out."""
    progress, folder = tmp_path / "progress", tmp_path / "data"
    progress.mkdir()
    folder.mkdir()
    whole = loop_over(progress / "whole.progress", make(folder))
    assert len(whole) == ITEMS
    first = loop_over(progress / "job.progress", make(folder), stop_at=STOP_AT)
    assert len(first) == STOP_AT
    second = loop_over(progress / "job.progress", make(folder))
    assert first + second == whole
    assert list(progress.iterdir()) == []


@pytest.fixture
def pages():
    """A web server on this machine that answers 503 now and then, and the list of the pages that it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(int(self.path.strip("/")))
            fails = asked[-1] % 5 == 3 and asked.count(asked[-1]) == 1
            self.send_response(503 if fails else 200)
            self.end_headers()
            self.wfile.write(b"page %d" % asked[-1])

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_pages_of_a_web_server_that_fails_at_times(tmp_path, pages):
    """A generator over pages raises where the server fails; the next run asks for that page again, and none before."""
    url, asked = pages

    def download(start):
        for number in range(start, ITEMS):
            with urllib.request.urlopen(f"{url}/{number}") as answer:
                yield answer.read()

    done, failures = [], 0
    while len(done) < ITEMS:
        try:
            with enable_counter(tmp_path / "pages.progress") as counter:
                for page in counter(download):
                    done.append(page)
        except urllib.error.HTTPError as error:
            error.close()
            failures += 1
    assert failures == 2
    assert done == [b"page %d" % number for number in range(ITEMS)]
    assert asked == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11]
    assert list(tmp_path.iterdir()) == []


def test_results_of_a_pool_are_counted_and_none_is_computed_again(tmp_path):
    """Wrap what comes out of a pool, and give the function of the start the inputs that are left."""
    inputs, computed = list(range(ITEMS)), []

    def compute(number):
        computed.append(number)
        return number * number

    def results(start):
        return pool.map(compute, inputs[start:])

    with ThreadPoolExecutor(2) as pool:
        first = loop_over(tmp_path / "pool.progress", results, stop_at=STOP_AT)
    computed.clear()
    with ThreadPoolExecutor(2) as pool:
        second = loop_over(tmp_path / "pool.progress", results)
    assert first + second == [number * number for number in inputs]
    assert sorted(computed) == inputs[STOP_AT:]
    assert list(tmp_path.iterdir()) == []


def test_plain_results_of_a_pool_resume_too_but_are_computed_again(tmp_path):
    """Without a function of the start the results are skipped one by one: right, but each is computed for it."""
    computed = []

    def compute(number):
        computed.append(number)
        return number * number

    with ThreadPoolExecutor(2) as pool:
        first = loop_over(tmp_path / "pool.progress", pool.map(compute, range(ITEMS)), stop_at=STOP_AT)
    computed.clear()
    with ThreadPoolExecutor(2) as pool:
        second = loop_over(tmp_path / "pool.progress", pool.map(compute, range(ITEMS)))
    assert first + second == [number * number for number in range(ITEMS)]
    assert sorted(computed) == list(range(ITEMS))


def test_the_input_of_a_pool_is_not_what_to_count(tmp_path):
    """What the README warns of: a pool draws its whole input at once, so the position runs ahead of the work."""
    started, gate = [], threading.Event()

    def compute(number):
        started.append(number)
        gate.wait(20)
        if number == 1:
            raise Stop
        return number

    with pytest.raises(Stop), enable_counter(tmp_path / "pool.progress") as counter, ThreadPoolExecutor(1) as pool:
        results = pool.map(compute, counter(range(ITEMS)))
        time.sleep(0)
        position_before_anything_is_done = counter.position, started[:1]
        gate.set()
        list(results)
    assert position_before_anything_is_done[0] == ITEMS
    with enable_counter(tmp_path / "pool.progress") as counter:
        assert list(counter(range(ITEMS))) == []  # the items that failed are lost


def test_batches_of_a_pool_are_the_way_where_each_result_needs_all_workers(tmp_path):
    """The other right way: count the batches, and let the pool work inside the item."""
    done = []

    def job(stop_at=None):
        with ThreadPoolExecutor(2) as pool:
            for first in simple_counter(tmp_path / "pool.progress", range(0, ITEMS, 4)):
                if first == stop_at:
                    raise Stop
                done.extend(pool.map(lambda number: number * number, range(first, first + 4)))

    with pytest.raises(Stop):
        job(stop_at=8)
    job()
    assert done == [number * number for number in range(ITEMS)]
