"""The application that is checkpointed: it holds memory and records how long it was
paused.

Its directory is shared with the bench, in a container as /bench. It ticks every
millisecond and appends each gap of more than 10 ms between two ticks to the file gaps, so the application itself measures the cost of a checkpoint. The
file is open only while a gap is written, because CRIU refuses to restore an open file
that has grown.

    app.py hold MIB     MIB of memory, alternately a mebibyte of random bytes and of text
    app.py random MIB   random bytes alone
    app.py text MIB     text alone
    app.py family MIB WORKERS
                        the same, shared by fork with WORKERS processes
    app.py scatter MIB  the same as hold; a file makes it change 5 per cent of its pages
    app.py redis KEYS [BYTES]
                        a redis with KEYS small values (or values of BYTES); reads one of
                        them at each tick and checks it
"""

import os
import socket
import sys
import time

MIB = 1 << 20
DIRECTORY = os.path.dirname(os.path.abspath(__file__))


def hold(mib):
    held = [mebibyte for pair in zip(noise(mib // 2), lines(mib // 2), strict=True) for mebibyte in pair]
    return lambda: held


def random(mib):
    held = list(noise(mib))
    return lambda: held


def text(mib):
    held = list(lines(mib))
    return lambda: held


def noise(mib):
    for _ in range(mib):
        yield os.urandom(MIB)


def lines(mib):
    with open(f"{DIRECTORY}/text", "rb") as f:
        text = f.read()
    for n in range(mib):
        # From different offsets, so that no two have equal pages.
        at = n * 1_234_567 % (len(text) - MIB)
        yield text[at : at + MIB]


def family(mib, workers):
    beat = hold(mib)
    for _ in range(workers):
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        beat().append(ours)
    return beat


def scatter(mib):
    """Memory of which every twentieth page, at random places, changes when the file
    `change` is there."""
    held = [bytearray(part) for part in hold(mib)()]

    def beat():
        if os.path.exists(f"{DIRECTORY}/change"):
            for part in held:
                for _ in range(256 // 20):
                    # Within a page, wherever the array begins.
                    at = (os.urandom(1)[0] << 12) + 512
                    part[at : at + 2048] = os.urandom(2048)
            os.rename(f"{DIRECTORY}/change", f"{DIRECTORY}/changed")

    return beat


def redis(keys, size=0):
    arguments = ["redis-server", "--port", "0", "--unixsocket", "/redis.sock", "--save", "", "--daemonize", "yes"]
    if os.spawnvp(os.P_WAIT, arguments[0], arguments):
        sys.exit("redis does not start")
    server = socket.socket(socket.AF_UNIX)
    for _ in range(1000):
        try:
            server.connect("/redis.sock")
            break
        except OSError:
            time.sleep(0.01)
    answers = server.makefile("rb")
    batch = 10_000

    def pair(n):
        # Like a shop's session of a visitor: mostly equal text, with some differences.
        value = '{"id":%d,"name":"user%d","visits":%d,"basket":[]}' % (n, n, n * 7919 % 1000)
        filler = "%x" % (n * 2654435761)
        padded = value + (filler * (size // len(filler) + 1))[: max(0, size - len(value))]
        return ("session:%d" % n).encode(), padded.encode()

    for first in range(0, keys, batch):
        commands = bytearray()
        for n in range(first, first + batch):
            key, value = pair(n)
            commands += b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value)
        server.sendall(commands)
        for _ in range(batch):
            answers.readline()

    asked = 0

    def beat():
        nonlocal asked
        # Spread over the whole memory.
        asked = (asked + 7_368_787) % keys
        key, value = pair(asked)
        server.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key))
        answers.readline()
        if answers.read(len(value) + 2) != value + b"\r\n":
            sys.exit("redis returned a wrong value")

    return beat


def main():
    workloads = {"hold": hold, "random": random, "text": text, "scatter": scatter, "family": family, "redis": redis}
    beat = workloads[sys.argv[1]](*map(int, sys.argv[2:]))
    open(f"{DIRECTORY}/ready", "w").close()
    last = time.monotonic()
    while True:
        beat()
        time.sleep(0.001)
        now = time.monotonic()
        if now - last > 0.01:
            with open(f"{DIRECTORY}/gaps", "a") as f:
                f.write(f"{now - last:.6f}\n")
        last = time.monotonic()


main()
