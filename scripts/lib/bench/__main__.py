"""Compares a runtime with containerd's own, in an instance of the testbed.

The two take turns within every round, so that other load of the machine affects
both. The results are medians, their ratio, and the machine's limits. Prints a table;
writes JSON and a plot into the given directory.

With `docker` before the directory: Docker's checkpoints, in an instance with Docker.

Environment: RUNTIME (the measured runtime), ONLY (start, checkpoint, family, redis, limits, store, command),
SIZES (MiB), ROUNDS (of checkpoints, at least 3), STARTS (at least 15).
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import command
import docker
import engine
import machine
import measures
import plot
import references

PARTS = ("limits", "start", "checkpoint", "family", "redis", "store", "command")
KEYS = 1_000_000

# By measure: its title, its divisor, and the unit of the quotient.
MEASURES = {
    "image_seconds": ("ctr c checkpoint --task --rw", 1, "s"),
    "image_frozen_seconds": ("  frozen", 1, "s"),
    "image_durable_seconds": ("  until it is on disk", 1, "s"),
    "image_disk_bytes": ("  written to disk", 1 << 20, "MiB"),
    "image_peak_bytes": ("  memory of cedana-runc", 1 << 20, "MiB"),
    "task_seconds": ("ctr task checkpoint, as Kubernetes", 1, "s"),
    "task_frozen_seconds": ("  frozen", 1, "s"),
    "path_seconds": ("ctr task checkpoint --image-path", 1, "s"),
    "path_frozen_seconds": ("  frozen", 1, "s"),
    "path_stored_bytes": ("  bytes stored", 1 << 20, "MiB"),
    "path_durable_seconds": ("  until it is on disk", 1, "s"),
    "path_disk_bytes": ("  written to disk", 1 << 20, "MiB"),
    "path_peak_bytes": ("  memory of cedana-runc", 1 << 20, "MiB"),
    "alone_seconds": ("runc|cedana-runc checkpoint", 1, "s"),
    "alone_frozen_seconds": ("  frozen", 1, "s"),
    "tmpfs_seconds": ("runc checkpoint into memory", 1, "s"),
    "tmpfs_frozen_seconds": ("  frozen", 1, "s"),
    "alone_restore_seconds": ("runc|cedana-runc restore, until it runs", 1, "s"),
    "alone_complete_seconds": ("  until its memory is complete", 1, "s"),
    "restore_seconds": ("ctr c restore --live", 1, "s"),
    "restore_tick_seconds": ("  until the application runs", 1, "s"),
    "restore_complete_seconds": ("  until its memory is complete", 1, "s"),
    "restore_faults": ("  faults served", 1, ""),
    "restore_fault_mean_us": ("  mean fault", 1e3, "ms"),
    "restore_fault_p99_us": ("  99 of 100 faults within", 1e3, "ms"),
    "restore_fault_max_us": ("  longest fault", 1e3, "ms"),
    "restore_peak_bytes": ("  memory of cedana-runc", 1 << 20, "MiB"),
    "restore_memory_bytes": ("  memory of the container", 1 << 20, "MiB"),
    "run_seconds": ("ctr run -d", 1e-3, "ms"),
    "shim_private_bytes": ("shim, private memory", 1 << 10, "KiB"),
}


def show(title, compared):
    candidates = [
        candidate for candidate in engine.NAMES if any(candidate in found["median"] for found in compared.values())
    ]
    head = (
        "".join(f" {candidate:>10}" for candidate in candidates)
        + " " * 5
        + "".join(f" {'/ stock':>9}" for _ in candidates[1:])
    )
    print(f"\n{title:<38}{head}")
    for measure, (name, unit, unit_name) in MEASURES.items():
        if measure not in compared:
            continue
        median, ratio = compared[measure]["median"], compared[measure]["ratio"]
        digits = 2 if unit_name == "s" else 1
        cells = "".join(
            f" {median[candidate] / unit:>10.{digits}f}" if candidate in median else f" {'-':>10}"
            for candidate in candidates
        )
        ratios = "".join(
            f" {ratio[candidate]:>9.2f}" if candidate in ratio else f" {'':>9}" for candidate in candidates[1:]
        )
        print(f"{name:<38}{cells} {unit_name:<4}{ratios}".rstrip())
    sys.stdout.flush()


def main():
    rounds = max(3, int(os.environ.get("ROUNDS", "3")))
    if sys.argv[1] == "docker":
        sizes = [int(size) for size in os.environ.get("SIZES", "256,1024").split(",")]
        return docker.main(sys.argv[2], sizes, rounds)
    out = sys.argv[1]
    only = os.environ.get("ONLY", ",".join(PARTS)).split(",")
    unknown = set(only) - set(PARTS)
    if unknown:
        sys.exit(f"unknown measure {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    sizes = [int(size) for size in os.environ.get("SIZES", "64,256,1024,4096").split(",")]
    starts = max(15, int(os.environ.get("STARTS", "15")))
    if engine.NAMES[engine.OURS] == engine.OWN_NAME:
        sys.exit("RUNTIME is containerd's own: choose another one to compare")

    results = {"machine": machine.about(), "rounds": rounds, "workloads": {}}

    def keep():
        # After each part, so that an interrupted run has results.
        with open(f"{out}/bench.json", "w") as f:
            json.dump(results, f, indent=2)

    if "limits" in only:
        results["limits"] = found = measures.limits(rounds)
        gib = found["bytes"] / (1 << 30)
        print(
            f"{gib:.0f} GiB on this machine: copied in memory {found['memory_copy_seconds']:.2f} s,"
            f" written to disk {found['disk_write_seconds']:.2f} s"
        )
    if "start" in only:
        results["start"] = measures.start_and_memory(starts)
        show("start, medians", results["start"])
    keep()
    engine.prepare(os.path.dirname(os.path.abspath(__file__)))
    workloads = []
    if "checkpoint" in only:
        workloads += [(f"{size} MiB", ["hold", str(size)]) for size in sizes]
    if "family" in only:
        workloads.append(("a family of 8 workers that share 256 MiB (restored eagerly)", ["family", "256", "8"]))
    if "redis" in only:
        workloads.append(("redis, a million small keys", ["redis", str(KEYS)]))
        workloads.append(("redis, 1 GiB", ["redis", str(900_000), "1000"]))
    for title, workload in workloads:
        results["workloads"][title] = found = measures.checkpoints(workload, rounds)
        show(f"{title}, medians of {rounds}", found)
        keep()
    if "store" in only:
        results["store"] = references.main(sizes, rounds, show)
        keep()
    if "command" in only:
        # A gibibyte, unless sizes are given.
        sizes = [int(size) for size in os.environ.get("SIZES", "1024").split(",")]
        results["command"] = command.measures(sizes, rounds)
        keep()
    if results["workloads"]:
        with open(f"{out}/bench.svg", "w") as f:
            f.write(plot.render(results["workloads"]))


main()
