"""redis with its append-only file."""

import subprocess

import app

LARGE = [f"large:{n}" for n in range(1, 33)]


def start():
    app.become("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", app.DATA, "--appendonly", "yes")


class Client:
    def __init__(self, address):
        self.connection = app.connect(address, 6379)
        self.answers = self.connection.makefile("rb")
        self.ask("CLIENT", "SETNAME", "stays")
        # A restore of a few megabytes would not be lazy.
        self.ask("EVAL", "for i = 1, 32 do redis.call('set', 'large:' .. i, string.rep(i .. ' ', 400000)) end", 0)

    def ask(self, *words):
        parts = [f"*{len(words)}\r\n"] + [f"${len(word)}\r\n{word}\r\n" for word in map(str, words)]
        self.connection.sendall("".join(parts).encode())
        return self.answer()

    def answer(self):
        line = self.answers.readline().decode()
        assert line.endswith("\r\n"), f"closed after {line!r}"
        kind, text = line[0], line[1:-2]
        assert kind != "-", text
        if kind == "*":
            return [self.answer() for _ in range(int(text))]
        if kind == "$" and text == "-1":
            return None
        if kind == "$":
            return self.answers.read(int(text) + 2)[:-2].decode()
        return text

    def write(self, number):
        self.ask("SET", f"key:{number}", app.value(number))
        self.ask("RPUSH", "list", app.value(number))

    def state(self):
        keys = sorted(self.ask("KEYS", "key:*"))
        values = self.ask("MGET", *keys) if keys else []
        large = self.ask("EVAL", "return redis.sha1hex(table.concat(redis.call('mget', unpack(KEYS))))", 32, *LARGE)
        listed = self.ask("LRANGE", "list", 0, -1)
        client = self.ask("CLIENT", "ID"), self.ask("CLIENT", "GETNAME")
        return f"client {client} large {large} keys {len(keys)} {app.digest(values)} list {app.digest(listed)}"


def check(count):
    subprocess.run(["redis-check-aof", app.DATA + "/appendonlydir/appendonly.aof.manifest"], check=True)
    keys = subprocess.run(["redis-cli", "DBSIZE"], check=True, capture_output=True, text=True)
    assert int(keys.stdout) == 32 + count + (count > 0), keys.stdout


app.main(start, Client, check)
