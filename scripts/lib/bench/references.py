"""Checkpoints whose memory is in the store, compared with the stock shim's; a second
checkpoint of memory of which a part has changed; clones; a store with many chunks."""

import glob
import json
import os
import random
import shutil
import sqlite3
import statistics
import time

import engine
import machine
import measures
from engine import BY_REFERENCE, STOCK, App, ctr, remove

STORE = "/var/lib/cedana/store"
# What the goals are for: chunks, and the checkpoints that have them.
CHUNKS = 1_000_000
CHECKPOINTS = 1_000


def empty():
    shutil.rmtree(STORE, ignore_errors=True)


def by_reference(mib, rounds):
    """`ctr c checkpoint` and `ctr c restore --live`, in turn with the stock shim."""
    samples = measures.Samples()
    for n in range(rounds):
        turn = [STOCK, BY_REFERENCE]
        for candidate in turn[n % 2 :] + turn[: n % 2]:
            empty()
            app = App(candidate, f"bench-{n}", ["hold", str(mib)])
            image = f"docker.io/bench/{app.name}:latest"
            measures.measure(
                samples, "image", candidate, app, "container", "checkpoint", "--task", "--rw", app.name, image
            )
            remove(app.name)
            for _ in range(3):
                done = measures.restore(app, image, candidate)
                if done:
                    break
            for name, value in (done or {}).items():
                samples.add(f"restore_{name}", candidate, value)
            ctr("image", "rm", "--sync", image)
            app.remove()
            for left in glob.glob("/tmp/ctrd-checkpoint*"):
                shutil.rmtree(left)
            ctr("content", "prune", "references", check=False)
            os.sync()
    return samples.compared()


def stored():
    """The bytes of all packs."""
    return sum(os.stat(pack).st_size for pack in glob.glob(f"{STORE}/packs/*"))


def image_of(app, name):
    """A checkpoint that leaves its container running: seconds, and bytes of the store."""
    before = stored()
    begin = time.monotonic()
    ctr("container", "checkpoint", "--task", app.name, f"docker.io/bench/{name}:latest")
    return time.monotonic() - begin, stored() - before


def second(mib, rounds):
    """A second checkpoint, after 5 per cent of the pages have changed."""
    found = {"first": [], "second": [], "first_bytes": [], "second_bytes": []}
    for n in range(rounds):
        empty()
        os.makedirs(STORE, mode=0o700)
        app = App(BY_REFERENCE, f"bench-{n}", ["scatter", str(mib)])
        for which in ("first", "second"):
            seconds, added = image_of(app, f"{which}-{n}")
            found[which].append(seconds)
            found[f"{which}_bytes"].append(added)
            open(f"{app.shared}/change", "w").close()
            change = f"{app.shared}/change"
            engine.wait_until(lambda change=change: not os.path.exists(change), "pages have changed")
        for which in ("first", "second"):
            ctr("image", "rm", "--sync", f"docker.io/bench/{which}-{n}:latest")
        remove(app.name)
        app.remove()
    return {name: statistics.median(values) for name, values in found.items()}


def clones(mib, number):
    """The bytes of checkpoints of containers that were restored from one."""
    empty()
    os.makedirs(STORE, mode=0o700)
    app = App(BY_REFERENCE, "bench-clones", ["hold", str(mib)])
    _, one = image_of(app, "clone")
    remove(app.name)
    image = "docker.io/bench/clone:latest"
    for n in range(number):
        ctr("container", "restore", "--live", app.name, image)
        engine.wait_until(lambda: engine.task_pid(app.name), "the clone runs")
        image_of(app, f"clone-{n}")
        ctr("image", "rm", f"docker.io/bench/clone-{n}:latest")
        remove(app.name)
    ctr("image", "rm", "--sync", image)
    everything = stored()
    app.remove()
    return {"one": one, "clones": number, "all": everything}


def fill():
    """Adds rows to the catalogue as of many checkpoints. Their packs are not needed."""
    with sqlite3.connect(f"{STORE}/catalogue.db") as catalogue:
        draw = random.Random(1)
        catalogue.execute("PRAGMA foreign_keys = OFF")
        each = CHUNKS // CHECKPOINTS
        first = catalogue.execute("SELECT coalesce(max(number), 0) + 1 FROM chunks").fetchone()[0]
        pack = catalogue.execute("SELECT coalesce(max(number), 0) + 1 FROM packs").fetchone()[0]
        for n in range(CHECKPOINTS):
            catalogue.execute(
                "INSERT INTO packs (number, id, bytes, digest, created) VALUES (?, ?, ?, ?, 1)",
                (pack + n, draw.randbytes(16), 100 << 20, draw.randbytes(32)),
            )
            numbers = range(first + n * each, first + (n + 1) * each)
            catalogue.executemany(
                "INSERT INTO chunks (number, name, pack, offset, stored, pages) VALUES (?, ?, ?, ?, 100000, 64)",
                ((number, draw.randbytes(32), pack + n, k * 100_000) for k, number in enumerate(numbers)),
            )
            catalogue.executemany(
                "INSERT OR IGNORE INTO sketches VALUES (?, ?)",
                ((draw.getrandbits(63), number) for number in numbers for _ in range(2)),
            )
            catalogue.execute(
                "INSERT INTO checkpoints (id, uid, path, created, boot, boot_time, raw_bytes, bytes, subject, details,"
                " chunks) VALUES (?, 0, x'2f6e', 1, '', 1, 0, 0, '{}', '{}', ?)",
                (
                    f"{draw.getrandbits(128):032x}",
                    bytes(numbers[0] >> shift & 127 | 128 for shift in (0, 7, 14)) + b"\0",
                ),
            )


def crowded(mib, rounds):
    """cedana-runc's own time for a checkpoint, in an empty store and in one with many
    chunks, and its memory."""
    found = {}
    for filled in (False, True):
        seconds, memory = [], []
        for n in range(rounds):
            empty()
            app = App(BY_REFERENCE, f"bench-{n}", ["hold", str(mib)])
            directory = measures.fresh(f"{measures.IMAGES}/{app.name}")
            if filled:
                # The first makes the catalogue.
                measures.alone(app, "cedana-runc", directory)
                fill()
                for pack in glob.glob(f"{STORE}/packs/*"):
                    os.unlink(pack)
                with sqlite3.connect(f"{STORE}/catalogue.db") as catalogue:
                    catalogue.execute("DELETE FROM chunks WHERE pack <= (SELECT min(number) FROM packs)")
            os.sync()
            with machine.Peak() as peak:
                took, _ = measures.alone(app, "cedana-runc", directory)
            seconds.append(took)
            memory.append(peak.engine())
            remove(app.name)
            app.remove()
        found["filled" if filled else "empty"] = {
            "seconds": statistics.median(seconds),
            "peak_bytes": statistics.median(memory),
        }
    return found


def main(sizes, rounds, show):
    engine.settings(BY_REFERENCE)
    results = {}
    for mib in sizes:
        results[f"{mib} MiB"] = found = by_reference(mib, rounds)
        show(f"{mib} MiB in the store, medians of {rounds}", found)
    mib = min(1024, max(sizes))
    results["second"] = found = second(mib, rounds)
    print(
        f"a second checkpoint, 5% of {mib} MiB changed: {found['second']:.2f} s, {found['second_bytes'] >> 20} MiB;"
        f" {found['second'] / found['first']:.2f} of the first's time,"
        f" {found['second_bytes'] / found['first_bytes']:.2f} of its bytes"
    )
    results["clones"] = found = clones(mib, 10)
    print(f"{found['clones']} clones of {mib} MiB: {found['all'] / found['one']:.2f} times one")
    results["crowded"] = found = crowded(min(mib, 256), rounds)
    ratio = found["filled"]["seconds"] / found["empty"]["seconds"]
    print(
        f"beside a million chunks: {ratio:.2f} of the time in an empty store; memory"
        f" {found['empty']['peak_bytes'] / 2**20:.1f} and {found['filled']['peak_bytes'] / 2**20:.1f} MiB"
    )
    return json.loads(json.dumps(results))
