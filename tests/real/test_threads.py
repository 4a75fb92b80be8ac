"""Loops outside the main thread and in other processes: no signals there, all other promises."""

import json
import os
import signal
import time
import urllib.request

import pytest

# With the word "stay" the loops stay in item 7 until they are stopped.
IN_A_THREAD = """
    import sys, threading, time
    from py_restart import enable_counter

    def work():
        with enable_counter("job.progress", each_save=True) as counter:
            total = counter.save_load_object({"sum": 0}, "total.pickle")
            for i in counter(range(40)):
                print("item", i, flush=True)
                time.sleep(0.02)
                while i == 7 and "stay" in sys.argv:
                    time.sleep(0.02)
                if "fail" in sys.argv and i == 7:
                    raise ValueError("the thread's own")
                total["sum"] += i
            print("sum", total["sum"], flush=True)

    thread = threading.Thread(target=work, daemon="daemon" in sys.argv)
    thread.start()
    while thread.is_alive():
        time.sleep(0.05)
"""

IN_ASYNCIO = """
    import asyncio, sys, time
    from py_restart import enable_counter

    def work(name):
        with enable_counter(f"{name}.progress", each_save=True) as counter:
            total = counter.save_load_object({"sum": 0}, f"{name}.pickle")
            for i in counter(range(40)):
                print(f"{name} {i}\\n", end="", flush=True)
                time.sleep(0.02)
                while i == 7 and "stay" in sys.argv:
                    time.sleep(0.02)
                total["sum"] += i
            return total["sum"]

    async def main():
        print("sum", await asyncio.gather(asyncio.to_thread(work, "a"), asyncio.to_thread(work, "b")), flush=True)

    asyncio.run(main())
"""

IN_WORKERS = """
    import multiprocessing, sys, time
    from py_restart import enable_counter

    def work(name, each_save=True):
        with enable_counter(f"{name}.progress", each_save=each_save) as counter:
            for i in counter(range(60)):
                print(f"{name} {i}\\n", end="", flush=True)
                time.sleep(0.02)
                while i == 7 and "stay" in sys.argv:
                    time.sleep(0.02)
            print(f"done {name}\\n", end="", flush=True)

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with enable_counter("parent.progress") as counter:
            for i in counter(range(1)):
                workers = [context.Process(target=work, args=(name,)) for name in "ab"]
                for worker in workers:
                    worker.start()
                if "terminate" in sys.argv:
                    time.sleep(1)
                    for worker in workers:
                        worker.terminate()
                for worker in workers:
                    worker.join()
                codes = [worker.exitcode for worker in workers]
                print("codes", codes, flush=True)
                if any(codes):
                    sys.exit(1)
"""


@pytest.mark.parametrize("argument", ["fail", "daemon"])
def test_a_loop_in_a_thread_that_fails_or_is_killed_goes_on(jobs, tmp_path, argument):
    """In a thread: what the loop itself raises saves as anywhere, and `each_save` survives the death of the program."""
    first = jobs(IN_A_THREAD, *{"fail": ["fail"], "daemon": ["daemon", "stay"]}[argument])
    if argument == "fail":
        first.end()
        assert "ValueError: the thread's own" in first.lines
    else:
        first.stop("item 7", signal.SIGKILL)
    second = jobs(IN_A_THREAD)
    assert second.end() == 0, second.lines
    assert second.numbers() == list(range(first.numbers()[-1], 40))
    assert second.lines[-1] == f"sum {sum(range(40))}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_with_a_loop_in_a_thread_as_ever(jobs, tmp_path, told_to_stop, by):
    """A thread hears no signal: a daemon thread dies with the program, and `each_save` has its last whole item."""
    first = jobs(IN_A_THREAD, "daemon", "stay")
    assert told_to_stop(first.stop("item 7", by), by), first.lines
    second = jobs(IN_A_THREAD)
    assert second.end() == 0, second.lines
    assert first.numbers()[-1] <= second.numbers()[0] <= first.numbers()[-1] + 1
    assert second.lines[-1] == f"sum {sum(range(40))}"
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_is_not_a_daemon_is_waited_for_and_ends_its_loop(jobs, tmp_path):
    """Ctrl-C ends the main thread; Python waits for the other one, whose loop runs to its end and leaves nothing."""
    first = jobs(IN_A_THREAD)
    first.stop("item 7", signal.SIGINT)
    assert first.numbers() == list(range(40))
    assert f"sum {sum(range(40))}" in first.lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_loops_in_asyncio_to_thread_go_on(jobs, tmp_path, by):
    """Two loops at once in `asyncio.to_thread`: each has its own progress, and both go on."""
    first = jobs(IN_ASYNCIO, "stay")
    first.wait_for("^[ab] 7$")
    first.stop("^[ab] 7$", by)
    second = jobs(IN_ASYNCIO)
    assert second.end() == 0, second.lines
    for name in "ab":
        assert first.numbers(name)[-1] <= second.numbers(name)[0] <= first.numbers(name)[-1] + 1
        assert second.numbers(name)[-1] == 39
    assert second.lines[-1] == f"sum {[sum(range(40))] * 2}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_loops_in_worker_processes_go_on_after_terminate(jobs, tmp_path, told_to_stop, start_method):
    """`Process.terminate()` is a SIGTERM: the worker saves and ends, beside a counter of its parent's, and goes on."""
    first = jobs(IN_WORKERS, start_method, "terminate", "stay")
    assert first.end() == 1, first.lines
    codes = json.loads(next(line for line in first.lines if line.startswith("codes"))[6:])
    assert all(told_to_stop(code, signal.SIGTERM) for code in codes)
    second = jobs(IN_WORKERS, start_method)
    assert second.end() == 0, second.lines
    for name in "ab":
        done = first.numbers(name)
        last = done[-1] if done else 0
        assert second.numbers(name) in (list(range(last, 60)), list(range(last + 1, 60)))  # it may stop between two
        assert f"done {name}" in second.lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_loops_in_worker_processes_go_on_after_a_kill_of_everything(jobs, tmp_path, start_method):
    """SIGKILL for the parent and its workers at once, as the kernel does when memory runs out."""
    first = jobs(IN_WORKERS, start_method, "stay", start_new_session=True)
    for _ in "ab":
        first.wait_for("^[ab] 7$")
    os.killpg(first.process.pid, signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    second = jobs(IN_WORKERS, start_method)
    assert second.end() == 0, second.lines
    for name in "ab":
        assert first.numbers(name)[-1] <= second.numbers(name)[0] <= first.numbers(name)[-1] + 1
        assert second.numbers(name)[-1] == 59
    assert list(tmp_path.iterdir()) == []


A_SERVER = """
    import logging, sys, threading, time
    from flask import Flask, jsonify
    from werkzeug.serving import make_server
    from py_restart import enable_counter

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Flask(__name__)
    state = {"position": 0, "sum": None, "began": None}

    def work():
        with enable_counter("job.progress", each_save=True) as counter:
            total = counter.save_load_object([], "total.pickle")
            state["began"] = counter.position
            for i in counter(range(40)):
                time.sleep(0.02)
                while i == 12 and "stay" in sys.argv:
                    time.sleep(0.02)
                total.append(i)
                state["position"] = counter.position
        state["sum"] = sum(total)

    @app.post("/start")
    def start():
        threading.Thread(target=work, daemon=True).start()
        return "started"

    @app.get("/state")
    def show():
        return jsonify(state)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print("port", server.server_port, flush=True)
    server.serve_forever()
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_loop_in_the_background_of_a_server_goes_on_after_a_restart_of_the_server(jobs, tmp_path, by):
    """A request starts a job in a thread of the server; the server is stopped and started, and the job goes on."""

    def ask(server, path, data=None):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.numbers('port')[0]}/{path}", data, timeout=60) as answer:
            return answer.read()

    def wait_until(server, condition):
        end = time.monotonic() + 60
        while not condition(state := json.loads(ask(server, "state"))):
            assert time.monotonic() < end, state
            time.sleep(0.02)
        return state

    first = jobs(A_SERVER, "stay")
    first.wait_for("port")
    ask(first, "start", b"")
    reached = wait_until(first, lambda state: state["position"] >= 9)["position"]
    first.process.send_signal(by)
    first.end()
    second = jobs(A_SERVER)
    second.wait_for("port")
    ask(second, "start", b"")
    state = wait_until(second, lambda state: state["sum"] is not None)
    assert state["sum"] == sum(range(40))
    assert state["began"] >= reached
    assert list(tmp_path.iterdir()) == []
    second.process.kill()
