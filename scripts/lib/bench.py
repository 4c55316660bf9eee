#!/usr/bin/env python3
"""Measures a runtime beside containerd's own, inside an instance of the testbed.

The two take turns within every round, so that what else the machine does falls
on both; medians and their ratio are what counts. Writes JSON to the path given.

Environment: RUNTIME (the one measured), ROUNDS (at least 15).
"""

import json
import os
import statistics
import subprocess
import sys
import time

STOCK = "io.containerd.runc.v2"
OURS = os.environ["RUNTIME"]
ROUNDS = max(15, int(os.environ.get("ROUNDS", "15")))
BUSYBOX = "docker.io/library/busybox:latest"
WORK = "docker.io/library/work:latest"
# Random bytes: zero pages would not be dumped at all.
HOLD_256_MIB = "import os, time; b = os.urandom(256 << 20); open('/ready', 'w').close(); time.sleep(1e6)"


def ctr(*arguments, check=True):
    done = subprocess.run(["ctr", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def timed(action, *arguments):
    begin = time.monotonic()
    action(*arguments)
    return time.monotonic() - begin


def wait_until(condition, what, seconds=60):
    """Polls: ctr has no event for it that is cheaper to wait for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def task_pid(name):
    for line in ctr("task", "ls").splitlines():
        fields = line.split()
        if fields[:1] == [name] and fields[-1] == "RUNNING":
            return int(fields[1])
    return None


def remove(name):
    ctr("task", "rm", "-f", name, check=False)
    wait_until(lambda: task_pid(name) is None, f"{name} is gone")
    ctr("container", "rm", name)


def shim_of(name):
    """The shim is the parent of the container's init."""
    with open(f"/proc/{task_pid(name)}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[1])


def private_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith(("Private_Clean", "Private_Dirty")))


def settled_private_bytes(pid):
    """Idle means that its processor time has stood still for half a second."""

    def ticks():
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[11:13]

    before = None
    while before != (before := ticks()):
        time.sleep(0.5)
    return private_bytes(pid)


def start_times_and_memory():
    times, memory = {STOCK: [], OURS: []}, {STOCK: [], OURS: []}
    for n in range(ROUNDS + 1):
        # Whoever is first finds colder caches: take turns at that, too.
        for runtime in (STOCK, OURS) if n % 2 else (OURS, STOCK):
            name = f"bench-{n}"
            took = timed(ctr, "run", "-d", "--runtime", runtime, BUSYBOX, name, "sh", "-c", "while :; do sleep 1000; done")
            used = settled_private_bytes(shim_of(name))
            remove(name)
            if n:  # the first round warms the caches
                times[runtime].append(took)
                memory[runtime].append(used)
    return times, memory


def checkpoint_and_restore(rounds=3):
    checkpoints, restores = {STOCK: [], OURS: []}, {STOCK: [], OURS: []}
    for n in range(rounds):
        for runtime in (STOCK, OURS):
            name, image = f"hold-{n}", f"docker.io/bench/hold:{n}"
            ctr("run", "-d", "--runtime", runtime, WORK, name, "python3", "-c", HOLD_256_MIB)
            ready = ["ctr", "task", "exec", "--exec-id", "ready", name, "test", "-e", "/ready"]
            wait_until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, f"{name} holds its memory")
            checkpoints[runtime].append(timed(ctr, "container", "checkpoint", "--task", "--rw", "--image", name, image))
            remove(name)
            begin = time.monotonic()
            # ctr stays with what it restores.
            client = subprocess.Popen(
                ["ctr", "container", "restore", "--live", "--rw", name, image],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            wait_until(lambda: task_pid(name) is not None, f"{name} is restored")
            restores[runtime].append(time.monotonic() - begin)
            ctr("task", "kill", "-s", "KILL", name)
            client.wait()
            ctr("task", "rm", name, check=False)
            ctr("container", "rm", name)
            ctr("image", "rm", image)
    return checkpoints, restores


def report(title, unit, scale, samples):
    stock, ours = (statistics.median(samples[runtime]) for runtime in (STOCK, OURS))
    print(f"{title:<28} {stock * scale:9.1f} {ours * scale:9.1f} {unit:<4} {ours / stock:6.2f}")
    return {"stock": stock, "ours": ours, "ratio": ours / stock, "samples": {"stock": samples[STOCK], "ours": samples[OURS]}}


def main():
    if OURS == STOCK:
        sys.exit("RUNTIME is containerd's own: there is nothing to compare")
    times, memory = start_times_and_memory()
    checkpoints, restores = checkpoint_and_restore()
    print(f"{'median':<28} {'stock':>9} {'ours':>9} {'':<4} {'ratio':>6}")
    results = {
        "run_seconds": report("ctr run -d", "ms", 1e3, times),
        "shim_private_bytes": report("shim, private memory", "KiB", 1 / 1024, memory),
        "checkpoint_seconds": report("checkpoint, 256 MiB", "ms", 1e3, checkpoints),
        "restore_seconds": report("restore, 256 MiB", "ms", 1e3, restores),
        "rounds": ROUNDS,
    }
    with open(sys.argv[1], "w") as f:
        json.dump(results, f, indent=2)


main()
