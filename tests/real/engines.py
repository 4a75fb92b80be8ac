"""Start real engines: programs with all that they start in a PID namespace of their own, which ends with them."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import time

# Whatever such a program starts, daemons too, is killed with it: it is the namespace's first process.
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def program(name, package):
    """Find a program; where it is missing, say which Debian package has it."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path, f"{name} is missing: apt-get install {package}"
    return path


def free_ports(count):
    """Find ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(condition, seconds=60, what=""):
    """Wait for what others do; return what the condition returns."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} seconds: {what() if callable(what) else what}"
        time.sleep(0.02)
    return found


class Run:
    """A command that prints to a file. It is killed at the end of the block, and where it is alone all that it started.

    Alone, it is the first process of a PID namespace, as in a container.
    """

    def __init__(self, command, folder, log, alone=True, **environment):
        self.log = log
        # Unbuffered, Python writes a line and its end one after the other, and those of two processes mix.
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "", **environment}
        self._command = [*(ALONE if alone else []), *map(str, command)]
        self._folder = folder

    def __enter__(self):
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(20)

    @property
    def printed(self):
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for_lines(self, pattern, count, after=0, seconds=60):
        """Wait until it has printed so many lines that match, behind so many characters."""

        def look():
            over = self.process.poll() is not None
            enough = len(re.findall(pattern, self.printed[after:], re.MULTILINE)) >= count
            assert enough or not over, f"too few lines like {pattern!r}:\n{self.printed}"
            return enough

        until(look, seconds, lambda: f"{count} lines like {pattern!r} in:\n{self.printed}")

    def end(self, seconds):
        """Wait for its end; return its status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {seconds} seconds:\n{self.printed}") from None


SLURM_CONF = """\
ClusterName=one
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that was requeued waits for as long as a credential is valid.
AuthInfo=socket={folder}/munge.socket,cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# More processors than there are: every job of the tests has its own.
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
NodeName={node} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
SLURM_DAEMONS = """
{munged} --foreground --force --num-threads=2 --key-file=munge.key --socket=$PWD/munge.socket \
    --pid-file=$PWD/munged.pid --seed-file=$PWD/munged.seed --log-file=$PWD/munged.log &
until [ -S munge.socket ]; do sleep 0.05; done
{slurmctld} -D -c &
{slurmd} -D -c &
wait
"""


class Slurm:
    """A real SLURM with one node, this machine, in a folder of its own. It is gone at the end of the block."""

    def __init__(self, folder):
        self.folder = folder
        self._environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'tools'}:{os.environ['PATH']}",
        }
        names = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "munged": "munge"}
        daemons = SLURM_DAEMONS.format(**{name: program(name, package) for name, package in names.items()})
        self._daemons = Run(["sh", "-c", daemons], folder, folder / "log", SLURM_CONF=self._environment["SLURM_CONF"])

    def __enter__(self):
        for name in ("state", "spool", "tools"):
            (self.folder / name).mkdir()
        python = self.folder / "tools" / "python"  # what the jobs know as `python`
        python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -W error \"$@\"\n")
        python.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        node = socket.gethostname().split(".")[0]
        text = SLURM_CONF.format(node=node, ports=free_ports(2), user=getpass.getuser(), folder=self.folder)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text("IgnoreSystemd=yes\n")
        self._daemons.__enter__()
        try:
            until(lambda: self._is_idle(), 60, lambda: f"an idle node:\n{self._daemons.printed[-5000:]}")
        except BaseException:
            self._daemons.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._daemons.__exit__()

    def _is_idle(self):
        command = ["sinfo", "--noheader", "--format=%T"]
        said = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=20)
        return said.stdout.strip() == "idle"

    def run(self, *command, folder=None, **environment):
        """Run a command of SLURM; return what it prints."""
        command = [program(command[0], "slurm-wlm"), *map(str, command[1:])]
        environment = {**self._environment, **environment}
        said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=20)
        assert said.returncode == 0, (command, said.stdout, said.stderr)
        return said.stdout

    def start(self, folder, seconds, *options):
        """Start the folder's job, which takes so long, with `sbatch`; return its number."""
        return self.run("sbatch", "--parsable", *options, "slurm_job.sh", folder=folder, SECONDS=str(seconds)).strip()

    def facts(self, job):
        """What SLURM says of a job, or of each task of an array: a list of dictionaries."""
        records = self.run("scontrol", "show", "job", job).strip().split("\n\n")
        return [dict(re.findall(r"(\w+)=(\S+)", record)) for record in records]

    def end(self, job, seconds=60):
        """Wait until a job, or each task of an array, is over; return how (COMPLETED, CANCELLED), once for each."""
        running = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "SIGNALING"}
        over = until(
            lambda: [facts for facts in [self.facts(job)] if not {one["JobState"] for one in facts} & running],
            seconds,
            lambda: f"the end of {self.facts(job)}",
        )
        return [one["JobState"] for one in over[0]]
