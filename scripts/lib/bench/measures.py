"""The measurements. In each of them the runtimes take turns."""

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import engine
import machine
from engine import IN_PLACE, OURS, STOCK, App, ctr, remove, run, start, take_turns, task_pid, wait_until

IMAGES = "/var/lib/bench"
TMPFS = "/run/bench"
# The state directory of runtimes that run without containerd.
ALONE = "/run/bench-alone"


def shared_once_bytes(pid):
    """The memory of a process and its children. Shared pages count once."""
    total = 0
    for process in [pid, *map(int, run("pgrep", "-P", str(pid), check=False).split())]:
        with open(f"/proc/{process}/smaps_rollup") as f:
            total += 1024 * sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return total


def shim_of(name):
    """The PID of the shim, which is the parent of the container's init."""
    with open(f"/proc/{task_pid(name)}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[1])


class Samples(dict):
    """Values by measure and by candidate."""

    def add(self, measure, candidate, value):
        self.setdefault(measure, {}).setdefault(candidate, []).append(value)

    def compared(self):
        return {measure: engine.compare(samples) for measure, samples in self.items()}


def start_and_memory(rounds):
    """`ctr run -d` of a small container, and the memory of its idle shim."""
    samples = Samples()
    engine.choose(STOCK)
    for n in range(rounds + 1):
        for candidate in take_turns(n):
            name = f"bench-{n}"
            begin = time.monotonic()
            start(candidate, engine.BUSYBOX, name, "sh", "-c", "while :; do sleep 1000; done")
            took = time.monotonic() - begin
            used = machine.settled_private_bytes(shim_of(name))
            remove(name)
            if n:  # the first round warms the caches
                samples.add("run_seconds", candidate, took)
                samples.add("shim_private_bytes", candidate, used)
    return samples.compared()


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    return directory


def alone(app, program, directory):
    """A checkpoint by the runtime without containerd: seconds, and seconds frozen."""
    fresh(directory)
    # The workloads need no other flag.
    command = [program, "--root", engine.RUNC_ROOT, "checkpoint", "--leave-running", "--file-locks"]
    result = app.frozen_while(run, *command, "--image-path", directory, "--work-path", directory + ".work", app.name)
    shutil.rmtree(directory)
    shutil.rmtree(directory + ".work", ignore_errors=True)
    return result


def checkpoints(workload, rounds):
    """Checkpoints of a running container, and its restore."""
    samples = Samples()
    for n in range(rounds):
        for candidate in take_turns(n, IN_PLACE):
            app = App(candidate, f"bench-{n}", workload)
            if candidate != IN_PLACE:
                checkpoint_alone(samples, candidate, app)
            # ctr 1 sends these flags only for the name of containerd's own runtime.
            if candidate != OURS or engine.ctr_major() > 1:
                checkpoint_to_path(samples, candidate, app)
            if candidate != IN_PLACE:
                checkpoint_as_kubernetes(samples, candidate, app)
                checkpoint_and_restore(samples, candidate, app)
            app.remove()
            # containerd (1.7 to 2.4) doesn't remove what it unpacks for a restore, and
            # the stock shim doesn't either. Here it is in memory.
            for left in glob.glob(f"{tempfile.gettempdir()}/ctrd-checkpoint*"):
                shutil.rmtree(left)
            # containerd removes blobs and unpacked checkpoints in the background. This
            # must not happen during the next measurement.
            ctr("content", "prune", "references", check=False)
            os.sync()
    return samples.compared()


def checkpoint_alone(samples, candidate, app):
    """Without containerd: for the stock shim that is runc alone. Its checkpoint into
    memory is also the machine's limit."""
    if candidate == STOCK:
        took, frozen = alone(app, "runc", f"{TMPFS}/{app.name}")
        samples.add("tmpfs_seconds", candidate, took)
        samples.add("tmpfs_frozen_seconds", candidate, frozen)
    took, frozen = alone(app, "runc" if candidate == STOCK else "cedana-runc", f"{IMAGES}/{app.name}")
    samples.add("alone_seconds", candidate, took)
    samples.add("alone_frozen_seconds", candidate, frozen)


def restores_alone(samples, candidate, app):
    """A restore from a directory, without containerd: seconds until the
    application runs, and until its memory is complete. The engine's task ends with
    the checkpoint; its root stays mounted until the task is removed."""
    program = "runc" if candidate == STOCK else "cedana-runc"
    directory, work, bundle = (fresh(f"{IMAGES}/{app.name}{suffix}") for suffix in ("", ".work", ".bundle"))
    run(
        program,
        "--root",
        engine.RUNC_ROOT,
        "checkpoint",
        "--file-locks",
        "--image-path",
        directory,
        "--work-path",
        work,
        app.name,
    )
    engines = f"{engine.BUNDLES}/{app.name}"
    with open(f"{engines}/config.json") as f:
        config = json.load(f)
    config["root"]["path"] = f"{engines}/rootfs"
    os.makedirs(bundle)
    with open(f"{bundle}/config.json", "w") as f:
        json.dump(config, f)
    for mode in [candidate] if candidate == STOCK else [candidate, engine.EAGER]:
        engine.settings(mode)
        before = len(app.gaps())
        is_lazy = mode == OURS and not app.is_family
        recorded = len(lazy_restores(app.name)) if is_lazy else 0
        begin = time.monotonic()
        command = [
            program,
            "--root",
            ALONE,
            "restore",
            "--detach",
            "--file-locks",
            "--bundle",
            bundle,
            "--image-path",
            directory,
            "--work-path",
            work,
            app.name,
        ]
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
        wait_until(lambda before=before: len(app.gaps()) > before, f"{app.name} ticks", every=0.002)
        samples.add("alone_restore_seconds", mode, time.monotonic() - begin)
        if is_lazy:
            wait_until(lambda recorded=recorded: len(lazy_restores(app.name)) > recorded, f"{app.name} is complete")
        samples.add("alone_complete_seconds", mode, time.monotonic() - begin)
        run("runc", "--root", ALONE, "delete", "--force", app.name)
    for left in (directory, work, bundle):
        shutil.rmtree(left, ignore_errors=True)


def checkpoint_to_path(samples, candidate, app):
    directory = fresh(f"{IMAGES}/{app.name}")
    before = set(ctr("image", "ls", "-q").split())
    measure(samples, "path", candidate, app, "task", "checkpoint", "--image-path", directory, app.name)
    samples.add("path_stored_bytes", candidate, machine.bytes_on_disk(directory))
    shutil.rmtree(directory)
    # containerd also created an image. While it exists, the next `container checkpoint`
    # omits the task, because the container's spec is stored already.
    for image in set(ctr("image", "ls", "-q").split()) - before:
        ctr("image", "rm", "--sync", image)


def checkpoint_as_kubernetes(samples, candidate, app):
    """`ctr task checkpoint` sends the same requests as containerd's CRI plugin: the task is
    paused until the checkpoint and the writable layer are packed."""
    before = set(ctr("image", "ls", "-q").split())
    measure(samples, "task", candidate, app, "task", "checkpoint", app.name)
    for image in set(ctr("image", "ls", "-q").split()) - before:
        ctr("image", "rm", "--sync", image)


def checkpoint_and_restore(samples, candidate, app):
    image = f"docker.io/bench/{app.name}:latest"
    measure(samples, "image", candidate, app, "container", "checkpoint", "--task", "--rw", app.name, image)
    restores_alone(samples, candidate, app)
    remove(app.name)
    for mode in [candidate] if candidate == STOCK else [candidate, engine.EAGER]:
        engine.settings(mode)
        for attempt in range(3):
            with machine.Peak() as peak:
                done = restore(app, image, mode)
            if done:
                break
            samples.add("restore_failures", mode, attempt + 1)
        else:
            sys.exit(f"{mode}: {app.name} cannot be restored")
        for name, value in done.items():
            samples.add(f"restore_{name}", mode, value)
        if candidate != STOCK:
            samples.add("restore_peak_bytes", mode, peak.engine())
    ctr("image", "rm", "--sync", image)


def measure(samples, kind, candidate, app, *command):
    """A command of ctr: its duration, how long the application was frozen, when the
    result was on disk, bytes written to disk, and peak memory."""
    os.sync()
    before = machine.bytes_written()
    begin = time.monotonic()
    with machine.Peak() as peak:
        took, frozen = app.frozen_while(ctr, *command)
    os.sync()
    durable = time.monotonic() - begin
    samples.add(f"{kind}_seconds", candidate, took)
    samples.add(f"{kind}_frozen_seconds", candidate, frozen)
    samples.add(f"{kind}_durable_seconds", candidate, durable)
    samples.add(f"{kind}_disk_bytes", candidate, machine.bytes_written() - before)
    if candidate != STOCK:
        samples.add(f"{kind}_peak_bytes", candidate, peak.engine())


def lazy_restores(name):
    """The records of a container's lazy restores."""
    said = run("cedana-runc", "inspect", "--restores", "--json")
    return [record for record in json.loads(said) if record["id"] == name]


def restore(app, image, mode):
    """Seconds until the application runs again (it records a long gap at its first tick
    after the restore), until containerd reports that it runs, and until its memory is
    complete. None if the restore fails, which happens on a busy machine."""
    before = len(app.gaps())
    # A family falls back to an eager restore, of which there is no record.
    is_lazy = mode in (OURS, engine.BY_REFERENCE) and not app.is_family
    recorded = len(lazy_restores(app.name)) if is_lazy else 0
    begin = time.monotonic()
    client = subprocess.Popen(
        ["ctr", "container", "restore", "--live", "--rw", app.name, image],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def failed():
        return client.poll() not in (None, 0)

    wait_until(lambda: len(app.gaps()) > before or failed(), f"{app.name} ticks", every=0.002)
    found = {"tick_seconds": time.monotonic() - begin}
    wait_until(lambda: task_pid(app.name) or failed(), f"{app.name} runs", every=0.005)
    found["seconds"] = time.monotonic() - begin
    # After an eager restore it is complete when the container runs.
    found["complete_seconds"] = found["tick_seconds"]
    if app.is_family and not failed():
        found["memory_bytes"] = shared_once_bytes(task_pid(app.name))
    if is_lazy and not failed():
        wait_until(lambda recorded=recorded: len(lazy_restores(app.name)) > recorded, f"{app.name} is complete")
        found["complete_seconds"] = time.monotonic() - begin
        record = lazy_restores(app.name)[-1]
        found |= {f"fault_{name}_us": record[f"fault_{name}_us"] for name in ("mean", "p99", "max")}
        found["faults"] = record["faults"]
    failed = failed()
    ctr("task", "kill", "-s", "KILL", app.name, check=not failed)
    said = client.communicate()[1].strip()
    ctr("task", "rm", "-f", app.name, check=False)
    ctr("container", "rm", app.name, check=not failed)
    if failed:
        print(f"{app.name} was not restored: ctr ended with {client.returncode} {said}", file=sys.stderr)
        return None
    return found


def limits(rounds, size=1 << 30):
    """The machine's limits for a gibibyte: a copy in memory and a write to disk."""
    os.makedirs(IMAGES, exist_ok=True)
    copies = [machine.copy_seconds(size) for _ in range(rounds)]
    writes = [machine.write_seconds(f"{IMAGES}/write", size) for _ in range(rounds)]
    return {"bytes": size, "memory_copy_seconds": min(copies), "disk_write_seconds": min(writes)}
