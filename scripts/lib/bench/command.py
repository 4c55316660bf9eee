"""Measures the command `cedana`: dumps and restores of plain processes compared with CRIU
alone, many dumps at once, and the daemon.

CRIU, `cedana` and our dump into a directory (`cedana-process`, built from integration/)
take turns within every round, each with a process of its own. The results are medians and
their ratio to CRIU's; the archive's time until it is on disk has the directory's.
"""

import glob
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tarfile
import time

import engine
import machine
from engine import run, wait_until
from measures import Samples

CRIU = "criu"
OURS = "cedana"
DIRECTORY = "directory"
TURN = [CRIU, OURS, DIRECTORY]
PLACE = "/var/lib/bench/command"
WORKLOADS = {"text": "compressible", "random": "incompressible"}
# By measure: its title, the candidates that the ratio compares, divisor, unit and goal.
MEASURES = {
    "frozen_seconds": ("dump: frozen, as CRIU records it", (OURS, CRIU), 1, "s", 1.15),
    "paused_seconds": ("  paused, as the application sees it", (OURS, CRIU), 1, "s", None),
    "seconds": ("  until the command returns", (OURS, CRIU), 1, "s", None),
    "durable_seconds": ("  until it is on disk", (OURS, DIRECTORY), 1, "s", 1.15),
    "stored_bytes": ("  bytes stored", (OURS, CRIU), 1 << 20, "MiB", None),
    "restore_seconds": ("restore: until it runs", (OURS, CRIU), 1, "s", 0.25),
}
JOBS_AT_ONCE = 200
JOBS_LISTED = 10_000


class Daemon:
    """A daemon with its own directories, without TCP."""

    def __init__(self, name):
        self.home = fresh(f"{PLACE}/{name}")
        self.start()

    def start(self):
        command = ["cedana", "daemon", "start", "--tcp", "off", "--socket", f"{self.home}/socket"]
        command += ["--state-dir", f"{self.home}/state", "--run-dir", f"{self.home}/run"]
        with open(f"{self.home}/log", "a") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        status = ["cedana", "--daemon", f"{self.home}/socket", "daemon", "status"]
        wait_until(lambda: subprocess.run(status, capture_output=True).returncode == 0, "the daemon answers")

    def command(self, *arguments):
        return ["cedana", "--daemon", f"{self.home}/socket", *arguments]

    def cedana(self, *arguments):
        return run(*self.command(*arguments))

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Process:
    """The application as a process of its own session, ready for a dump."""

    def __init__(self, name, workload):
        self.shared = engine.share(name)
        command = ["python3", f"{self.shared}/app.py", *workload]
        quiet = subprocess.DEVNULL
        self.child = subprocess.Popen(command, cwd="/", stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        self.pid = self.child.pid
        wait_until(lambda: os.path.exists(f"{self.shared}/ready"), f"{name} is ready", every=0.1)

    def gaps(self):
        return engine.gaps(self.shared)

    def runs_after(self, command):
        """Seconds from the start of a restore until the process has ticked."""
        self.child.wait()
        before = len(self.gaps())
        begin = time.monotonic()
        with open(f"{self.shared}/restore.log", "w") as log:
            restore = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(
            lambda: len(self.gaps()) > before or restore.poll() not in (None, 0), "the process ticks", every=0.002
        )
        took = time.monotonic() - begin
        if restore.wait():
            with open(f"{self.shared}/restore.log") as log:
                sys.exit(f"{' '.join(command)}: {log.read().strip()}")
        return took


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    return directory


def dump(candidate, daemon, pid, place, *flags):
    """The command of a dump into a directory."""
    if candidate == CRIU:
        return ["criu", "dump", "--tree", str(pid), "--images-dir", place, *flags]
    if candidate == OURS:
        return daemon.command("dump", "process", str(pid), "--dir", place, *flags)
    # It creates the directory.
    return ["cedana-process", "dump", str(pid), f"{place}/checkpoint", "--directory", *flags]


def frozen_seconds(stats):
    """`frozen_time` of CRIU's stats-dump: two magic numbers, the length, and a stats_entry
    (images/stats.proto), whose first field has only integers."""

    def number(at):
        value = shift = 0
        while True:
            value |= (stats[at] & 0x7F) << shift
            shift += 7
            at += 1
            if stats[at - 1] < 0x80:
                return value, at

    _, at = number(13)
    while True:
        key, at = number(at)
        value, at = number(at)
        if key >> 3 == 2:
            return value / 1e6


def stats_of(place):
    archives = glob.glob(f"{place}/*.tar")
    if archives:
        with tarfile.open(archives[0]) as archive:
            return archive.extractfile("stats-dump").read()
    [path] = glob.glob(f"{place}/**/stats-dump", recursive=True)
    with open(path, "rb") as f:
        return f.read()


def bytes_below(place):
    return sum(machine.bytes_on_disk(directory) for directory, _, _ in os.walk(place))


def measure(samples, candidate, daemon, name, workload):
    process = Process(name, workload)
    place = fresh(f"{PLACE}/{name}")
    before = len(process.gaps())
    os.sync()
    begin = time.monotonic()
    run(*dump(candidate, daemon, process.pid, place, "--leave-running"))
    samples.add("seconds", candidate, time.monotonic() - begin)
    os.sync()
    samples.add("durable_seconds", candidate, time.monotonic() - begin)
    # The application may not have written the gap yet.
    time.sleep(0.1)
    samples.add("paused_seconds", candidate, max(process.gaps()[before:], default=0.0))
    samples.add("frozen_seconds", candidate, frozen_seconds(stats_of(place)))
    samples.add("stored_bytes", candidate, bytes_below(place))
    if candidate == DIRECTORY:
        process.child.kill()
        process.child.wait()
    else:
        # With the same PID, so the dump before ends the process.
        fresh(place)
        run(*dump(candidate, daemon, process.pid, place))
        restores = {
            CRIU: ["criu", "restore", "--restore-detached", "--images-dir", place],
            OURS: daemon.command("restore", "process", "--id", name, "--path", *glob.glob(f"{place}/*.tar")),
        }
        samples.add("restore_seconds", candidate, process.runs_after(restores[candidate]))
        if candidate == OURS:
            daemon.cedana("job", "delete", "--force", name)
        else:
            os.kill(process.pid, 9)
    shutil.rmtree(place)
    shutil.rmtree(process.shared)
    os.sync()


def show(title, samples):
    columns = "".join(f" {candidate:>10}" for candidate in TURN)
    print(f"\n{title:<38}{columns}      {'ratio':>6} {'goal':>6}")
    for name, (label, (one, other), unit, unit_name, goal) in MEASURES.items():
        median = {candidate: statistics.median(values) for candidate, values in samples[name].items()}
        digits = 2 if unit_name == "s" else 0
        cells = "".join(
            f" {median[candidate] / unit:>10.{digits}f}" if candidate in median else f" {'-':>10}" for candidate in TURN
        )
        goal = f"{goal:>6.2f}" if goal else ""
        print(f"{label:<38}{cells} {unit_name:<4} {median[one] / median[other]:>6.2f} {goal}".rstrip())
    sys.stdout.flush()


def at_once(daemon, count):
    """`count` jobs, dumped at once: seconds, and the peaks of the daemon's private memory
    and of the number of workers."""
    names = [f"job-{n}" for n in range(count)]
    for name in names:
        daemon.cedana("exec", name, "--", "sleep", "100000")
    place = fresh(f"{PLACE}/at-once")
    begin = time.monotonic()
    with machine.Watch(daemon.process.pid, "cedana-worker") as watch:
        clients = [
            subprocess.Popen(
                daemon.command("dump", "job", name, "--dir", place),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        failed = [said for client in clients for said in [client.communicate()[1]] if client.returncode]
    took = time.monotonic() - begin
    if failed:
        print(f"{len(failed)} of {count} dumps failed, the first: {failed[0].strip()}", file=sys.stderr)
    for name in names:
        daemon.cedana("job", "delete", "--force", name)
    return {
        "dumps": count,
        "failed": len(failed),
        "archives": len(glob.glob(f"{place}/*.tar")),
        "seconds": took,
        "daemon_private_bytes": watch.private_bytes,
        "workers": watch.processes,
    }


def listed(daemon, count, times=11):
    """The median seconds of `cedana ps -a` of `count` jobs that have ended."""
    daemon.stop()
    with sqlite3.connect(f"{daemon.home}/state/cedana.db") as database:
        # Columns as in daemon/src/store/migrations.rs.
        database.executemany(
            "INSERT INTO jobs (uid, id, state, since, created, exit_code, restart_policy, command,"
            " working_directory, terminal) VALUES (0, ?, 'ended', ?, ?, 0, 'never', 'sleep 1', x'2f', 0)",
            [(f"listed-{n}", 10**15 + n, 10**15 + n) for n in range(count)],
        )
    database.close()
    daemon.start()
    samples = []
    for _ in range(times):
        begin = time.monotonic()
        lines = daemon.cedana("ps", "-a").count("\n")
        samples.append(time.monotonic() - begin)
    if lines <= count:
        sys.exit(f"cedana ps -a has {lines} lines")
    return statistics.median(samples)


def measures(sizes, rounds):
    """Prints tables, and returns the figures."""
    engine.settings(engine.OURS)
    daemon = Daemon("daemon")
    at_rest = machine.settled_private_bytes(daemon.process.pid)
    results = {"load": os.getloadavg(), "daemon_private_bytes": at_rest}
    print(f"\nthe daemon at rest: {at_rest / (1 << 20):.1f} MiB of private memory (goal 15)")
    for mib in sizes:
        for kind, title in WORKLOADS.items():
            samples = Samples()
            for n in range(rounds):
                for candidate in TURN[n % len(TURN) :] + TURN[: n % len(TURN)]:
                    measure(samples, candidate, daemon, f"command-{n}", [kind, str(mib)])
            title = f"{mib} MiB, {title}"
            results[title] = samples
            show(f"{title}, medians of {rounds}", samples)
    results["at_once"] = found = at_once(daemon, JOBS_AT_ONCE)
    print(
        f"\n{found['dumps']} dumps at once: {found['failed']} failed, {found['seconds']:.1f} s, at most"
        f" {found['workers']} workers, the daemon's private memory at most"
        f" {found['daemon_private_bytes'] / (1 << 20):.1f} MiB"
    )
    results["ps_seconds"] = listed(daemon, JOBS_LISTED)
    print(f"cedana ps -a of {JOBS_LISTED} jobs: {results['ps_seconds']:.3f} s (goal 0.1)")
    daemon.stop()
    return results
