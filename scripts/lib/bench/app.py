"""What is checkpointed: it holds memory and says how long it stood still.

Runs in the container, with the folder that the bench shares with it at /bench.
It ticks every millisecond and appends each gap between two ticks that is worth
speaking of to /bench/gaps, so what a checkpoint costs is told by the one who
pays. The file is open for the writing only: a restore would miss what was added
to a file that was open.

    app.py hold MIB     that much memory, in turns a mebibyte of noise and one of text
    app.py redis KEYS   a redis with that many small keys, which answers at each tick
"""

import os
import socket
import sys
import time

MIB = 1 << 20


def hold(mib):
    with open("/bench/text", "rb") as f:
        text = f.read()
    held = []
    for n in range(mib // 2):
        held.append(os.urandom(MIB))
        # Each at another place, so that no two are alike page by page.
        at = n * 1_234_567 % (len(text) - MIB)
        held.append(text[at : at + MIB])
    return lambda: held


def redis(keys):
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
    for first in range(0, keys, batch):
        commands = bytearray()
        for n in range(first, first + batch):
            # What a shop keeps of a visitor, say: some of it differs, most is form.
            value = '{"id":%d,"name":"user%d","visits":%d,"basket":[]}' % (n, n, n * 7919 % 1000)
            key = "session:%d" % n
            commands += b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key.encode(), len(value), value.encode())
        server.sendall(commands)
        for _ in range(batch):
            answers.readline()

    def beat():
        server.sendall(b"PING\r\n")
        if answers.readline() != b"+PONG\r\n":
            sys.exit("redis does not answer")

    return beat


def main():
    beat = {"hold": hold, "redis": redis}[sys.argv[1]](int(sys.argv[2]))
    open("/bench/ready", "w").close()
    last = time.monotonic()
    while True:
        beat()
        time.sleep(0.001)
        now = time.monotonic()
        if now - last > 0.01:
            with open("/bench/gaps", "a") as f:
                f.write(f"{now - last:.6f}\n")
        last = time.monotonic()


main()
