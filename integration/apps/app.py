"""The parts that the programs of this folder share.

Each is one file with three parts, called by integration/tests/apps.rs:

    NAME.py start             in the container: sets up and becomes the server
    NAME.py client ADDRESS    outside: connects once, obeys lines on stdin
    NAME.py check COUNT       in the container: exit 0 if the files are intact

A client knows two orders. "write N" adds the Nth value to all of the server's
state: files, tables, memory, the session. "state" prints one line that describes
all of it, so that two equal lines mean equal states. A client never reconnects: it
prints an error and exits when its connection ends.

The Nth value is always the same, so `check` knows what must be there.
"""

import hashlib
import os
import socket
import sys
import time

DATA = "/data"
JOURNAL = DATA + "/journal"


def value(number):
    return hashlib.sha256(str(number).encode()).hexdigest() * 8


def digest(values):
    return hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()[:16]


def become(*command, **environment):
    """Replaces this process by the server, whose output goes to a file."""
    os.environ.update(environment)
    os.makedirs(DATA, exist_ok=True)
    log = os.open(DATA + "/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(DATA)
    os.execvp(command[0], command)


def file(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        out.write(text)
    return path


def patiently(attempt, *errors):
    """The first result of `attempt`, which fails while the server starts."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return attempt()
        except errors:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def connect(address, port):
    connection = patiently(lambda: socket.create_connection((address, port)), OSError)
    connection.settimeout(30)
    return connection


def journal_is_whole(count):
    """Every value that was written, once and in order."""
    with open(JOURNAL) as journal:
        assert journal.read().split() == [value(n) for n in range(count)], JOURNAL


class Lines:
    """A client of a server that answers a line with a line."""

    port = 8080

    def __init__(self, address):
        self.connection = connect(address, self.port)
        self.answers = self.connection.makefile("r")

    def ask(self, line):
        self.connection.sendall((line + "\n").encode())
        answer = self.answers.readline()
        assert answer.endswith("\n"), f"closed after {answer!r}"
        return answer.strip()

    def write(self, number):
        self.ask("put " + value(number))

    def state(self):
        return self.ask("state")


class Http:
    """A client of a server that answers over one persistent connection."""

    port = 8080

    def __init__(self, address):
        self.connection = connect(address, self.port)
        self.answers = self.connection.makefile("rb")

    def ask(self, method, path="/", body=""):
        request = f"{method} {path} HTTP/1.1\r\nHost: app\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        self.connection.sendall(request.encode())
        status = self.answers.readline().decode()
        assert status.startswith("HTTP/1.1 2"), f"answered {status!r}"
        length = 0
        while (header := self.answers.readline()) != b"\r\n":
            assert header, "closed within the headers"
            name, _, text = header.decode().partition(":")
            assert (name.lower(), text.strip().lower()) != ("connection", "close"), "to be closed"
            if name.lower() == "content-length":
                length = int(text)
        answer = self.answers.read(length)
        assert len(answer) == length, f"closed after {answer!r}"
        return answer.decode().strip()

    def write(self, number):
        self.ask("PUT", body=value(number))

    def state(self):
        return self.ask("GET")


def obey(client):
    """Obeys orders until the end of standard input."""
    print("ready", flush=True)
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        if order == "write":
            client.write(int(argument))
            print("ok", flush=True)
        else:
            print(client.state(), flush=True)


def main(start, client, check):
    match sys.argv[1:]:
        case ["start"]:
            start()
        case ["client", address]:
            obey(client(address))
        case ["check", count]:
            check(int(count))
