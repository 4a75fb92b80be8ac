"""On the real engines that start, kill and retry people's loops: worker processes, torchrun, SLURM, Ray, RQ."""

import os
import random
import re
import signal
import sys
import tempfile
import textwrap
import time
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from engines import Run, Slurm, free_ports, program, until

STRICT = [sys.executable, "-W", "error"]


@pytest.fixture
def chance(record_property):
    """Random numbers; a failure names their seed."""
    seed = random.randrange(1_000_000)
    record_property("seed", seed)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture
def folder(tmp_path):
    """An empty folder for the job alone."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


# ---- Worker processes that share a folder


@pytest.mark.parametrize("alone", [False, True], ids=["processes", "containers"])  # there, each is process 1
def test_three_workers_killed_at_random_finish_each_of_forty_shards_once(examples, tmp_path, folder, chance, alone):
    """The lock is the claim: a shard has one worker at a time, another one after a kill, and one result."""
    logs, written = [], {}

    def start():
        logs.append(tmp_path / f"log-{len(logs)}")
        return stack.enter_context(Run([*STRICT, examples / "many_workers.py"], folder, logs[-1], alone, SECONDS="8"))

    def look():
        for path in folder.glob("shard-*.txt"):
            facts = path.stat()
            written.setdefault(path.name, set()).add((facts.st_ino, facts.st_mtime_ns))

    with ExitStack() as stack:
        workers, kills = [start() for _ in range(3)], 0
        while kills < 15 and len(written) < 40:
            for _ in range(chance.randrange(5, 30)):
                look()
                time.sleep(0.01)
            victim = workers.pop(chance.randrange(3))
            victim.process.kill()
            kills += victim.end(20) == -signal.SIGKILL
            workers.append(start())
        for worker in workers:
            assert worker.end(60) == 0, worker.printed
    look()
    assert kills >= 8
    assert names(folder) == [f"shard-{shard:02}.txt" for shard in range(40)]
    assert {len(states) for states in written.values()} == {1}  # nobody wrote a second one over it
    assert [int((folder / name).read_text()) for name in names(folder)] == [45 * shard for shard in range(40)]
    items = Counter(line for log in logs for line in log.read_text().splitlines())
    assert set(items) == {f"shard {shard} item {item}" for shard in range(40) for item in range(10)}
    assert items.total() - 400 <= kills  # a kill costs the item in which it comes


# ---- torchrun


def rank_process(folder, **environment):
    """The process of this machine with that folder and environment, or None."""
    wanted = {f"{name}={value}".encode() for name, value in environment.items()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            there = Path(os.readlink(process / "cwd")) == folder
            if there and wanted <= set((process / "environ").read_bytes().split(b"\0")):
                return int(process.name)
        except OSError:
            continue  # it has ended
    return None


def test_ranks_killed_three_times_end_with_the_weights_of_an_unbroken_run(examples, tmp_path, folder, chance):
    """Rank 0 saves for all, torchrun starts all again: the weights are the same to the bit."""
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node=2"]
    command = [*torchrun, "--max-restarts=3", "--monitor-interval=0.1", *STRICT, examples / "torchrun_ddp.py"]
    with Run(command, unbroken, tmp_path / "unbroken-log", SECONDS="1") as run:
        assert run.end(120) == 0, run.printed
    with Run(command, folder, tmp_path / "log", SECONDS="4") as run:
        for attempt, victim in enumerate(chance.sample([0, 1, 0, 1], 3)):
            process = until(
                lambda facts={"RANK": victim, "TORCHELASTIC_RESTART_COUNT": attempt}: rank_process(folder, **facts),
                120,
                lambda: run.printed,
            )
            run.wait_for_lines(rf"^rank {victim} step \d+", chance.randrange(15, 40), len(run.printed), 120)
            os.kill(process, signal.SIGKILL)
        assert run.end(120) == 0, run.printed
        steps = [int(step) for step in re.findall(r"^rank 0 step (\d+)", run.printed, re.MULTILINE)]
    assert names(folder) == names(unbroken) == ["trained.pt"]
    assert (folder / "trained.pt").read_bytes() == (unbroken / "trained.pt").read_bytes()
    begins = [after for before, after in pairwise(steps) if after != before + 1]
    assert 2 <= len(begins) <= 3  # a kill may come just between a save and the next step
    assert {begin % 10 for begin in begins} == {0}  # every attempt goes on at a save
    assert 0 not in begins
    assert sorted(set(steps)) == list(range(200))


# ---- SLURM


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A real SLURM of one node."""
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def copy_job(examples, folder):
    """Put the example into a folder."""
    for name in ("slurm_job.py", "slurm_job.sh"):
        (folder / name).write_text((examples / name).read_text())


def chunks(folder, job):
    """The chunks that a job has said so far, over all its starts."""
    output = folder / f"slurm-{job}.out"
    lines = output.read_text().splitlines() if output.exists() else []
    return [int(line.split()[1]) for line in lines if re.fullmatch(r"chunk \d+", line)]


def assert_goes_on_exactly(said, stops):
    """All chunks in their order, and at most one of them again for each stop: the one in which it came."""
    assert sorted(set(said)) == list(range(40))
    assert said == sorted(said)
    assert len(said) - 40 <= stops


@pytest.fixture(scope="module")
def limited(slurm, tmp_path_factory):
    """A job that is given one minute and takes longer, started before the other tests: SLURM's minutes are long."""
    folder = tmp_path_factory.mktemp("limited")
    copy_job(Path(__file__).parents[2] / "examples", folder)
    return folder, slurm.start(folder, 48, "--time=1")


def test_a_slurm_job_that_is_requeued_goes_on_exactly(slurm, limited, examples, folder):
    """`scontrol requeue`, twice: SIGTERM saves, and the next start goes on with the chunk in which it came."""
    copy_job(examples, folder)
    job = slurm.start(folder, 8)
    for chunk in (5, 15):
        until(lambda chunk=chunk: chunk in chunks(folder, job), what=f"chunk {chunk}")
        slurm.run("scontrol", "requeue", job)
    assert slurm.end(job) == ["COMPLETED"]
    assert_goes_on_exactly(chunks(folder, job), 2)
    assert slurm.facts(job)[0]["Restarts"] == "2"
    assert names(folder) == [f"slurm-{job}.out", "slurm_job.py", "slurm_job.sh"]


def test_a_slurm_job_that_is_cancelled_stays_so_and_goes_on_when_it_is_started_again(slurm, limited, examples, folder):
    """`scancel`: SIGTERM saves, nobody asks for another start, and the next `sbatch` goes on with that chunk."""
    copy_job(examples, folder)
    first = slurm.start(folder, 8)
    until(lambda: 7 in chunks(folder, first), what="chunk 7")
    slurm.run("scancel", first)
    assert slurm.end(first) == ["CANCELLED"]
    assert slurm.facts(first)[0]["Restarts"] == "0"
    assert "slurm_job-0.progress" in names(folder)
    second = slurm.start(folder, 8)
    assert slurm.end(second) == ["COMPLETED"]
    assert slurm.facts(first)[0]["JobState"] == "CANCELLED"
    assert_goes_on_exactly(chunks(folder, first) + chunks(folder, second), 1)
    assert names(folder) == sorted([f"slurm-{first}.out", f"slurm-{second}.out", "slurm_job.py", "slurm_job.sh"])


def test_a_slurm_array_has_one_path_a_task(slurm, limited, examples, folder):
    """`sbatch --array=0-3`: four at once, each with a progress file of its own; one that is requeued goes on alone."""
    copy_job(examples, folder)
    array = slurm.start(folder, 8, "--array=0-3")
    until(lambda: all(12 in chunks(folder, f"{array}_{task}") for task in range(4)), what="chunk 12 of each")
    assert {f"slurm_job-{task}.progress" for task in range(4)} < set(names(folder))
    slurm.run("scontrol", "requeue", f"{array}_2")
    assert slurm.end(array) == ["COMPLETED"] * 4
    for task in range(4):
        assert_goes_on_exactly(chunks(folder, f"{array}_{task}"), task == 2)
    assert len(names(folder)) == 6


def test_a_slurm_job_whose_time_is_up_is_started_again_until_it_is_done(slurm, limited):
    """`--time=1`, `--signal=TERM@60`: the job saves before the time is up, and asks for its next start by itself."""
    folder, job = limited
    assert slurm.end(job, 180) == ["COMPLETED"]
    restarts = int(slurm.facts(job)[0]["Restarts"])
    assert restarts >= 1
    assert_goes_on_exactly(chunks(folder, job), restarts)
    assert names(folder) == [f"slurm-{job}.out", "slurm_job.py", "slurm_job.sh"]


# ---- Ray

RAY = """
    import os, random, signal, sys, threading, time, warnings
    from pathlib import Path

    import ray
    from py_restart import enable_counter

    def work(name):
        warnings.filterwarnings("error", module="__main__|py_restart")
        with enable_counter(f"{name}.progress", each_save=True) as counter:
            total = counter.save_load_object({"sum": 0}, f"{name}.pickle")
            for item in counter(range(60)):
                with open(f"../{name}", "a") as log:
                    main = threading.current_thread() is threading.main_thread()
                    log.write(f"{item} {os.getpid()} {main}\\n")
                time.sleep(0.03)
                total["sum"] += item
            return total["sum"]

    @ray.remote(max_retries=-1)
    def task(name):
        return work(name)

    @ray.remote(max_restarts=-1, max_task_retries=-1, max_concurrency=2)  # its calls run in threads
    class Actor:
        def call(self, name):
            return work(name)

    def kill(name):
        # Kill the worker of a loop at three of its items.
        for begin in (10, 25, 45):
            item, process = begin + random.randrange(10), None
            while process is None:
                time.sleep(0.01)
                lines = [line.split() for line in Path("..", name).read_text().splitlines()]
                process = next((int(line[1]) for line in lines if int(line[0]) == item), None)
            os.kill(process, signal.SIGKILL)

    for name in ("task", "a", "b"):
        Path("..", name).touch()
    ray.init(num_cpus=3, include_dashboard=False, _temp_dir=sys.argv[1], log_to_driver=False)
    actor = Actor.remote()
    results = [task.remote("task"), actor.call.remote("a"), actor.call.remote("b")]
    killers = [threading.Thread(target=kill, args=(name,)) for name in ("task", "a")]
    for killer in killers:
        killer.start()
    for killer in killers:
        killer.join()
    print("sums", ray.get(results, timeout=60))
"""


def test_a_ray_task_and_an_actor_whose_workers_are_killed_go_on(tmp_path, folder):
    """`kill -9` of a Ray worker, three times each: Ray retries, and the loop goes on, in an actor's threads too."""
    script = tmp_path / "on_ray.py"
    script.write_text(textwrap.dedent(RAY))
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:  # for sockets, whose paths must be
        with Run([sys.executable, script, short], folder, tmp_path / "log", **environment) as run:
            assert run.end(150) == 0, run.printed
        assert f"sums {[sum(range(60))] * 3}" in run.printed
    assert names(folder) == []
    for name in ("task", "a", "b"):
        rows = [line.split() for line in (tmp_path / name).read_text().splitlines()]
        items = [int(item) for item, _, _ in rows]
        processes = {process for _, process, _ in rows}
        assert len(processes) == 4 or (name == "b" and len(processes) > 1)  # killed with a, at whatever it is
        assert {main for _, _, main in rows} == {str(name == "task")}
        assert items == sorted(items)
        assert sorted(set(items)) == list(range(60))
        assert len(items) - 60 <= 3


# ---- A queue: RQ, with a real Redis

QUEUE = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    import redis, rq

    port, workers, deliveries = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    server = subprocess.Popen([os.environ["REDIS"], "--port", port, "--bind", "127.0.0.1", "--save", ""])
    connection = redis.Redis(port=int(port))
    for _ in range(500):
        try:
            connection.ping()
            break
        except redis.exceptions.ConnectionError:
            time.sleep(0.02)
    queue = rq.Queue(connection=connection)
    limit = int(os.environ["LIMIT"])
    jobs = [queue.enqueue("job.work", name, job_timeout=limit, retry=rq.Retry(max=1000)) for name in deliveries]
    command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--quiet", "--url", f"redis://127.0.0.1:{port}"]
    started = [subprocess.Popen(command) for _ in range(workers)]
    for item in os.environ["KILL_AT"].split():
        process = None
        while process is None:
            time.sleep(0.01)
            log = Path("..", deliveries[0])
            lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
            process = next((int(line[2]) for line in lines if line[:2] == ["item", item]), None)
        os.kill(process, signal.SIGKILL)
    for worker in started:
        worker.wait()
    print("ended", [job.get_status(refresh=True).value for job in jobs])
"""

SLOW_SAVES = """
    import os, signal, time
    from pathlib import Path
    from py_restart import enable_counter
    from rq.timeouts import JobTimeoutException

    def work(name):
        begin = time.monotonic()
        limit = begin + signal.getitimer(signal.ITIMER_REAL)[0]  # when RQ's handler is due to raise
        items, saves = [], []

        def save(path):
            saves.append([time.monotonic(), None])
            with open(path, "w") as file:
                for item in items:
                    file.write(f"{item}\\n")
                    file.flush()
                time.sleep(0.25)
                file.write("whole\\n")
            saves[-1][1] = time.monotonic()

        def load(path):
            *lines, last = Path(path).read_text().splitlines()
            assert last == "whole"
            items[:] = map(int, lines)

        def tell(what):
            with open(f"../{name}", "a") as log:
                print(what, file=log)

        try:
            with enable_counter(f"{name}.progress", each_save=True) as counter:
                same = counter.save_load_object([], f"{name}.pickle")
                counter.save_load_funcs([save], [load], [f"{name}.txt"])
                if not items == same == list(range(counter.position)):
                    tell(f"torn: {counter.position} {items} {same}")
                for item in counter(range(60)):
                    items.append(item)
                    same.append(item)
                    tell(f"item {item}")
                tell(f"sum {sum(items)} {sum(same)}")
        except JobTimeoutException:
            hit = any(start <= limit <= (end or limit) for start, end in saves)
            tell("limit in a save" if hit else "limit beside a save")
            raise
        except BaseException as error:
            tell(f"error: {error!r}")
            raise
"""


def run_queue(folder, job, log, workers, deliveries, limit, kill_at=""):
    """Run RQ workers on a Redis of their own, until the queue is empty; kill the one that is at certain items."""
    (log.parent / "job.py").write_text(textwrap.dedent(job))
    script = log.parent / "queue_of_jobs.py"
    script.write_text(textwrap.dedent(QUEUE))
    path = os.pathsep.join(filter(None, [str(log.parent), os.environ.get("PYTHONPATH")]))
    facts = {"REDIS": program("redis-server", "redis-server"), "LIMIT": str(limit), "KILL_AT": kill_at}
    return Run([sys.executable, script, *free_ports(1), workers, *deliveries], folder, log, PYTHONPATH=path, **facts)


def test_a_time_limit_that_raises_in_a_save_fifty_times_leaves_whole_saves(tmp_path, folder):
    """RQ's limit raises from a signal handler, the job is delivered again: each save is whole, the job ends right."""
    jobs = ["a", "b", "c", "d", "e"]
    with run_queue(folder, SLOW_SAVES, tmp_path / "log", 5, jobs, limit=1) as run:
        run.end(150)
        assert "ended ['finished', 'finished', 'finished', 'finished', 'finished']" in run.printed, run.printed
    lines = [(tmp_path / name).read_text().splitlines() for name in jobs]
    said = Counter(line for job in lines for line in job if not line.startswith("item"))
    assert said.pop("limit in a save") >= 50
    said.pop("limit beside a save", None)
    assert said == {f"sum {sum(range(60))} {sum(range(60))}": 5}
    for job in lines:
        items = [int(line.split()[1]) for line in job if line.startswith("item")]
        assert items == sorted(items)
        assert sorted(set(items)) == list(range(60))
    assert names(folder) == []


DELIVERED_TWICE = """
    import os, time
    from pathlib import Path
    from py_restart import InUseError, enable_counter

    def tell(*words):
        with open("../job", "a") as log:
            print(*words, os.getpid(), file=log)

    def work(name):
        result = Path(f"{name}.txt")
        try:
            counter = enable_counter(f"{name}.progress", each_save=True)
        except InUseError:
            tell("in use")
            time.sleep(0.1)
            raise
        with counter:
            if result.exists():
                return counter.remove_files()
            total = counter.save_load_object({"sum": 0}, f"{name}.pickle")
            for item in counter(range(60)):
                tell("item", item)
                time.sleep(0.03)
                total["sum"] += item
            tell("result", total["sum"])
            result.write_text(str(total["sum"]))
"""


def test_a_job_that_is_delivered_twice_and_killed_is_done_once(tmp_path, folder):
    """Two workers get the same job: one is told that it is in use, and finds it done later; a killed one goes on."""
    deliveries = ["job", "job"]
    with run_queue(folder, DELIVERED_TWICE, tmp_path / "log", 2, deliveries, limit=50, kill_at="11 23 42") as run:
        run.end(100)
        assert "ended ['finished', 'finished']" in run.printed, run.printed
    lines = [line.split() for line in (tmp_path / "job").read_text().splitlines()]
    items = [int(line[1]) for line in lines if line[0] == "item"]
    assert items == sorted(items)
    assert sorted(set(items)) == list(range(60))
    assert len(items) - 60 <= 3
    assert len({line[2] for line in lines if line[0] == "item"}) == 4
    assert ["in", "use"] in [line[:2] for line in lines]
    assert [line[:2] for line in lines if line[0] == "result"] == [["result", str(sum(range(60)))]]
    assert names(folder) == ["job.txt"]
