"""Runs containers and the bench's application by ctr."""

import glob
import os
import shutil
import statistics
import subprocess
import sys
import time

# The candidates: their names in the results, and the runtimes' names.
#
# containerd honours `--image-path` only for its own runtime's name; for any
# other it also creates an image. So our shim is measured under that name, too,
# installed in place of containerd's own shim. containerd caches the path of a shim, so
# a script at that path (scripts/lib/bench/shim) executes the shim that CHOICE names.
STOCK = "stock"
OURS = "ours"
IN_PLACE = "in place"
# Only for restores: our shim, with all memory restored before the container runs.
EAGER = "eager"
# Our shim, with the memory in the store.
BY_REFERENCE = "store"
OWN_NAME = "io.containerd.runc.v2"
NAMES = {
    STOCK: OWN_NAME,
    OURS: os.environ["RUNTIME"],
    IN_PLACE: OWN_NAME,
    EAGER: os.environ["RUNTIME"],
    BY_REFERENCE: os.environ["RUNTIME"],
}
CHOICE = "/run/bench-shim"
# The shim's behaviour depends on the name that it was started by.
INSTALLED_IN_PLACE = "/usr/local/lib/bench/containerd-shim-runc-v2"
SHIMS = {STOCK: "/usr/bin/containerd-shim-runc-v2", IN_PLACE: INSTALLED_IN_PLACE}

BUSYBOX = "docker.io/library/busybox:latest"
WORK = "docker.io/library/work:latest"
SHARED = "/srv/bench"
RUNC_ROOT = "/run/containerd/runc/default"
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/default"


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ctr(*arguments, check=True):
    return run("ctr", *arguments, check=check)


def ctr_major():
    """The major version of ctr: 1 drops flags for runtimes whose name it doesn't know."""
    return int(ctr("--version").split()[-1].lstrip("v").split(".")[0])


def wait_until(condition, what, seconds=120, every=0.01):
    """Polls a condition, for which there is no event."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(every)


def task_pid(name):
    for line in ctr("task", "ls").splitlines():
        fields = line.split()
        if fields[:1] == [name] and fields[-1] == "RUNNING":
            return int(fields[1])
    return None


def remove(name):
    ctr("task", "rm", "-f", name, check=False)
    wait_until(lambda: task_pid(name) is None, f"{name} is removed")
    ctr("container", "rm", name)


def choose(candidate):
    if candidate in SHIMS:
        with open(CHOICE, "w") as f:
            f.write(SHIMS[candidate])


def settings(candidate):
    """Writes the candidate's settings for the next checkpoint or restore."""
    os.makedirs("/etc/cedana", exist_ok=True)
    with open("/etc/cedana/config.toml", "w") as f:
        # No program here pauses a task for another reason (docs/containerd.md).
        f.write('[checkpoint]\nresume_early = "container"\n')
        f.write(f'store = "{"reference" if candidate == BY_REFERENCE else "inline"}"\n')
        f.write(f'[restore]\nmode = "{"eager" if candidate == EAGER else "lazy"}"\n')


def start(candidate, image, name, *command, flags=()):
    return ctr("run", "-d", "--runtime", NAMES[candidate], *flags, image, name, *command)


def share(name):
    """A directory with the application, in which it records gaps."""
    shared = f"{SHARED}/{name}"
    shutil.rmtree(shared, ignore_errors=True)
    os.makedirs(shared)
    for file in ("app.py", "text"):
        os.link(f"{SHARED}/{file}", f"{shared}/{file}")
    return shared


def gaps(shared):
    """All recorded gaps between ticks, in seconds."""
    try:
        with open(f"{shared}/gaps") as f:
            return [float(line) for line in f]
    except FileNotFoundError:
        return []


class App:
    """The application in its own container, ready for a checkpoint."""

    def __init__(self, candidate, name, workload):
        self.name = name
        self.is_family = workload[0] == "family"
        self.shared = share(name)
        mount = f"type=bind,src={self.shared},dst=/bench,options=rbind:rw"
        choose(candidate)
        settings(candidate)
        flags = ["--mount", mount]
        start(candidate, WORK, name, "python3", "/bench/app.py", *workload, flags=flags)
        wait_until(lambda: os.path.exists(f"{self.shared}/ready"), f"{name} is ready", every=0.1)

    def gaps(self):
        return gaps(self.shared)

    def frozen_while(self, action, *arguments):
        """The seconds that an action took, and that the application was paused in it."""
        before = len(self.gaps())
        begin = time.monotonic()
        action(*arguments)
        took = time.monotonic() - begin
        # The application may not have written the gap yet.
        time.sleep(0.1)
        return took, max(self.gaps()[before:], default=0.0)

    def remove(self):
        if self.name in ctr("container", "ls", "-q").split():
            remove(self.name)
        shutil.rmtree(self.shared)


def prepare(bench):
    """Creates the shared directory with the application and real text for its memory."""
    os.makedirs(SHARED, exist_ok=True)
    os.makedirs(os.path.dirname(INSTALLED_IN_PLACE), exist_ok=True)
    shutil.copy("/usr/local/bin/containerd-shim-cedana-v2", INSTALLED_IN_PLACE)
    shutil.copy(f"{bench}/app.py", f"{SHARED}/app.py")
    text = b""
    for path in sorted(glob.glob("/usr/lib/python3*/**/*.py", recursive=True)):
        with open(path, "rb") as f:
            text += f.read()
        if len(text) > 16 << 20:
            break
    if len(text) < 2 << 20:
        sys.exit("there is too little text under /usr/lib/python3*")
    with open(f"{SHARED}/text", "wb") as f:
        f.write(text)


def take_turns(n, *others):
    """The order of a round. It changes, because the first candidate has colder caches."""
    turn = [STOCK, OURS, *others]
    return turn[n % len(turn) :] + turn[: n % len(turn)]


def compare(samples):
    """The median of each candidate, and ratios to the stock shim's."""
    result = {candidate: statistics.median(values) for candidate, values in samples.items()}
    stock = result.get(STOCK)
    ratios = {candidate: value / stock for candidate, value in result.items() if candidate != STOCK and stock}
    return {"median": result, "ratio": ratios, "samples": samples}
