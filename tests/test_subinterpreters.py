"""Loops in subinterpreters: by `concurrent.interpreters`, and by what stands behind it where that is not there yet.

Each test is a program of its own, whose interpreters are made, used and ended there.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import py_restart

# `Interpreter().run(code)` says what the code raised and did not catch, or None. The module's name and its ways change.
MAIN = """
    import os, signal, sys, textwrap, threading

    BEFORE = "import sys, warnings; warnings.simplefilter('error'); from py_restart import *; import py_restart\\n"

    try:
        from concurrent import interpreters
    except ImportError:
        try:
            import _interpreters as below
        except ImportError:
            import _xxsubinterpreters as below

        class Interpreter:
            def __init__(self):
                self.id = below.create()

            def run(self, code):
                try:
                    error = below.run_string(self.id, BEFORE + textwrap.dedent(code))
                except below.RunFailedError if hasattr(below, "RunFailedError") else () as raised:
                    return str(raised)
                return error and error.formatted

            def close(self):
                below.destroy(self.id)
    else:
        class Interpreter:
            def __init__(self):
                self.inside = interpreters.create()

            def run(self, code):
                try:
                    self.inside.exec(BEFORE + textwrap.dedent(code))
                except interpreters.ExecutionFailed as raised:
                    return raised.excinfo.formatted

            def close(self):
                self.inside.close()

    def alone(code):
        interpreter = Interpreter()
        error = interpreter.run(code)
        interpreter.close()
        return error
"""
# What was there before `concurrent.interpreters` frees some memory twice at the end of a program (3.12).
AT_ONCE = "sys.stdout.flush(); os._exit(0)"


@pytest.fixture
def program(folder):
    """Run a program that has the class above in the test's folder; what it printed, line by line."""

    def program(code):
        source = textwrap.dedent(MAIN) + textwrap.dedent(code) + AT_ONCE
        # Where coverage is measured, each interpreter would start with it, and say that it cannot.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        environment = {**inherited, "PYTHONPATH": str(Path(py_restart.__file__).parents[1])}
        command = [sys.executable, "-u", "-W", "error", "-c", source]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == "" or "_DeleteDummyThreadOnDel" in done.stderr  # threads in them, in CPython 3.13.0
        return done.stdout.splitlines()

    return program


def test_a_loop_that_failed_in_one_interpreter_goes_on_in_another(program, left):
    """The position and the object, at the item that failed; the signals of the program stay as they were."""
    printed = program(
        '''
        job = """
            with enable_counter("job.progress") as counter:
                total = counter.save_load_object([], "total.pickle")
                for i in counter(range(6)):
                    print("item", i, flush=True)
                    if i == 3 and FAIL:
                        raise KeyError(i)
                    total.append(i)
                print("result", total, flush=True)
        """
        handlers = [repr(signal.getsignal(number)) for number in signal.valid_signals()]
        print(alone("FAIL = True\\n" + textwrap.dedent(job)))
        print(alone("FAIL = False\\n" + textwrap.dedent(job)))
        print(handlers == [repr(signal.getsignal(number)) for number in signal.valid_signals()])
        '''
    )
    assert [line for line in printed if line.startswith("item")] == [f"item {i}" for i in (0, 1, 2, 3, 3, 4, 5)]
    assert "KeyError" in printed[4]
    assert printed[-3:] == ["result [0, 1, 2, 3, 4, 5]", "None", "True"]
    assert left() == []


def test_each_kind_of_loop_runs_in_a_subinterpreter(program, left):
    """Saved at boundaries, by functions, in a block of several, one inside the other, over items of any kind."""
    printed = program(
        '''
        print(alone("""
            from pathlib import Path

            class Item:
                pass

            state = []
            def save(path): Path(path).write_text(repr(state))
            def load(path): state[:] = eval(Path(path).read_text())

            with multi_count():
                for i in simple_counter("first.progress", [Item(), Item()]):
                    pass
                counter = enable_counter("second.progress", each_save=True)
                counter.save_load_funcs([save], [load], ["state.txt"])
                for i in counter(range(3)):
                    for j in simple_counter("inner.progress", "abc"):
                        state.append((i, j))
                print(config.parent is not None, flush=True)
            print(len(state), config.parent, flush=True)
        """))
        '''
    )
    assert printed == ["True", "9 None", "None"]
    assert left() == []


def test_interpreters_at_the_same_time_each_with_a_path(program, left):
    """Each in a thread of its own, and none knows of the others."""
    printed = program(
        '''
        def work(number):
            error = alone(f"""
                with enable_counter("{number}.progress", each_save=True) as counter:
                    total = counter.save_load_object([0], "{number}.pickle")
                    for i in counter(range(50)):
                        total[0] += i
                    print(f"{{total[0]}};", end="", flush=True)
            """)
            assert error is None, error

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        '''
    )
    assert printed == ["1225;" * 4]
    assert left() == []


def test_a_path_that_another_interpreter_uses_is_in_use(program, left):
    """The lock is between interpreters too: a second one is refused, and the first one goes on unharmed."""
    printed = program(
        '''
        first, second = Interpreter(), Interpreter()
        print(first.run("""
            loop = simple_counter("job.progress", range(5))
            print(next(loop), next(loop), flush=True)
        """))
        print(second.run("""
            try:
                for i in simple_counter("job.progress", range(5)):
                    print("never", flush=True)
            except InUseError as error:
                print("in use", flush=True)
        """))
        print(first.run("print(*loop, flush=True)"))
        first.close()
        second.close()
        '''
    )
    assert printed == ["0 1", "None", "in use", "None", "2 3 4", "None"]
    assert left() == []


def test_a_block_that_is_open_when_its_interpreter_ends_is_saved(program, left):
    """As at the end of a program: as if it had ended by an exception."""
    printed = program(
        '''
        job = """
            def items():
                with enable_counter("job.progress") as counter:
                    yield from counter(range(6))

            held = items()
            print(next(held), next(held), flush=True)
        """
        print(alone(job), alone(job))
        print(alone("print(*simple_counter('job.progress', range(6)), flush=True)"))
        '''
    )
    assert printed == ["0 1", "1 2", "None None", "2 3 4 5", "None"]
    assert left() == []
