"""Measures the machine: bytes written to disk, memory of our processes, limits."""

import mmap
import os
import subprocess
import threading
import time

OURS = ("cedana-runc", "containerd-shim-cedana-v2")


def bytes_written():
    """Bytes written by all disks since boot. A disk's figure includes its partitions and
    the devices on it (loop, dm)."""
    virtual = ("loop", "ram", "zram", "dm-", "md")
    disks = [name for name in os.listdir("/sys/block") if not name.startswith(virtual)]
    written = 0
    with open("/proc/diskstats") as f:
        for line in f:
            fields = line.split()
            if fields[2] in disks:
                written += int(fields[9]) * 512
    return written


def bytes_on_disk(directory):
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory) if entry.is_file())


class Peak(threading.Thread):
    """Records the peak memory of each of our processes. The kernel keeps the maximum of
    a running process, so polling misses only the last moments before its exit."""

    EVERY = 0.02

    def __init__(self):
        super().__init__(daemon=True)
        self.most = {}
        self.other = set()
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(self.EVERY):
            self.look()

    def look(self):
        pids = {pid for pid in os.listdir("/proc") if pid.isdigit()}
        self.other &= pids
        for pid in pids - self.other:
            try:
                name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
                if name not in OURS:
                    # These may be children that have not called exec yet.
                    if name not in ("runc", "ctr", "containerd", "python3"):
                        self.other.add(pid)
                    continue
                with open(f"/proc/{pid}/status") as f:
                    for line in f:
                        if line.startswith("VmHWM:"):
                            key = (name, pid)
                            self.most[key] = max(self.most.get(key, 0), int(line.split()[1]) * 1024)
            except OSError:
                self.other.add(pid)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()

    def engine(self):
        """The peak of cedana-runc's processes. Shims, which run longer, don't count."""
        return max((most for (name, _), most in self.most.items() if name == "cedana-runc"), default=0)


def private_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith(("Private_Clean", "Private_Dirty")))


def settled_private_bytes(pid):
    """The private memory of a process that has used no processor time for half a second."""

    def ticks():
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[11:13]

    before = None
    while before != (before := ticks()):
        time.sleep(0.5)
    return private_bytes(pid)


class Watch(threading.Thread):
    """Records the peak private memory of a process, and the largest number of processes
    with a name."""

    EVERY = 0.05

    def __init__(self, pid, name):
        super().__init__(daemon=True)
        self.pid, self.name = pid, name
        self.private_bytes = self.processes = 0
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(self.EVERY):
            self.private_bytes = max(self.private_bytes, private_bytes(self.pid))
            self.processes = max(
                self.processes, sum(self.is_named(pid) for pid in os.listdir("/proc") if pid.isdigit())
            )

    def is_named(self, pid):
        try:
            with open(f"/proc/{pid}/comm") as f:
                return f.read().strip() == self.name
        except OSError:
            return False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()


def copy_seconds(size):
    """Seconds to copy memory whose pages are allocated."""
    source, target = mmap.mmap(-1, size), mmap.mmap(-1, size)
    source[:] = target[:] = bytes(size)
    begin = time.monotonic()
    target[:] = memoryview(source)
    return time.monotonic() - begin


def write_seconds(path, size):
    """Seconds to write random bytes to a file and sync it."""
    noise = os.urandom(16 << 20)
    begin = time.monotonic()
    with open(path, "wb") as f:
        for _ in range(size // len(noise)):
            f.write(noise)
        f.flush()
        os.fsync(f.fileno())
    took = time.monotonic() - begin
    os.unlink(path)
    return took


def about():
    with open("/proc/cpuinfo") as f:
        models = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) * 1024
    versions = {}
    for command in (
        ["containerd", "--version"],
        ["runc", "--version"],
        ["criu", "--version"],
        ["cedana-runc", "--cedana-version"],
    ):
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        versions[command[0]] = lines[0].strip() if lines else None
    return {
        "kernel": os.uname().release,
        "processors": os.cpu_count(),
        "model": models[0] if models else None,
        "memory_bytes": memory,
        "load": os.getloadavg()[0],
        "versions": versions,
    }
