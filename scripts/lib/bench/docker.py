"""Compares `docker checkpoint create` with the stock runtime, and measures `docker start
--checkpoint`, which fails with the stock runtime.

The two take turns within every round, so that other load of the machine affects
both. The results are medians and their ratio.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from engine import wait_until

STOCK = "runc"
OURS = "cedana"
# Half random bytes, half text. CRIU would not dump zero pages.
HOLD = """
import os, time
half = int(os.environ["MIB"]) << 19
random = os.urandom(half)
line = b"The quick brown fox jumps over the lazy dog, %d times.\\n"
text = b"".join(line % n for n in range(half // 50))
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def docker(*arguments, check=True):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done


def timed(*arguments, check=True):
    begin = time.monotonic()
    done = docker(*arguments, check=check)
    return time.monotonic() - begin, done


def running(name):
    return docker("inspect", "-f", "{{.State.Running}}", name).stdout.strip() == "true"


def restore_mode(mode):
    os.makedirs("/etc/cedana", exist_ok=True)
    with open("/etc/cedana/config.toml", "w") as f:
        f.write(f'[restore]\nmode = "{mode}"\n')


def one(runtime, mib):
    """The seconds of a checkpoint that ends the container, and of its lazy and eager
    restore."""
    name = "bench"
    # What an earlier round has stored would be known.
    shutil.rmtree("/var/lib/cedana/store", ignore_errors=True)
    docker(
        "run",
        "-d",
        "--name",
        name,
        "--runtime",
        runtime,
        "--network",
        "none",
        "-e",
        f"MIB={mib}",
        "work:latest",
        "python3",
        "-c",
        HOLD,
    )
    wait_until(lambda: "ready" in docker("logs", name).stdout, "the memory is filled")
    created, _ = timed("checkpoint", "create", name, "frozen")
    wait_until(lambda: not running(name), "the container has ended after its checkpoint")
    started = {}
    for mode in ("lazy", "eager"):
        restore_mode(mode)
        seconds, done = timed("start", "--checkpoint", "frozen", name, check=False)
        if done.returncode == 0 and running(name):
            started[mode] = seconds
        elif runtime == OURS:
            sys.exit(f"docker start --checkpoint: {done.stderr.strip()}")
        docker("kill", name, check=False)
        wait_until(lambda: not running(name), "the container has ended")
    docker("rm", "-f", name)
    return created, started


def main(out, sizes, rounds):
    """Prints a table, and writes docker.json into the directory `out`."""
    # So that an interrupted run has results.
    sys.stdout.reconfigure(line_buffering=True)
    results = {"rounds": rounds}
    print(f"{'median':<36} {'stock':>9} {'ours':>9} {'':<4} {'ratio':>6}")
    for mib in sizes:
        creates = {STOCK: [], OURS: []}
        starts = {"lazy": [], "eager": []}
        fails = 0
        for _ in range(rounds):
            for runtime in (STOCK, OURS):
                created, started = one(runtime, mib)
                creates[runtime].append(created)
                fails += runtime == STOCK and not started
                for mode in started if runtime == OURS else ():
                    starts[mode].append(started[mode])
        stock, ours = (statistics.median(creates[runtime]) for runtime in (STOCK, OURS))
        print(
            f"docker checkpoint create, {mib:>4} MiB     {stock * 1e3:9.0f} {ours * 1e3:9.0f} ms   {ours / stock:6.2f}"
        )
        theirs = f"{fails} of {rounds} fail"
        lazy, eager = (statistics.median(starts[mode]) for mode in ("lazy", "eager"))
        print(
            f"docker start --checkpoint, {mib:>4} MiB  {theirs:>11} {lazy * 1e3:9.0f} ms   {lazy / eager:6.2f} of eager ({eager * 1e3:.0f} ms)"
        )
        results[f"{mib} MiB"] = {"checkpoint": creates, "start": starts, "stock_start_fails": fails}
    with open(f"{out}/docker.json", "w") as f:
        json.dump(results, f, indent=2)
