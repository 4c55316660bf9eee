"""PostgreSQL: a session with a temporary table and a prepared statement."""

import glob
import os
import subprocess

import app

BIN = glob.glob("/usr/lib/postgresql/*/bin")[0]


def run(*command):
    subprocess.run(command, check=True, env=environment())


def environment():
    """PostgreSQL refuses to run as root; CRIU needs CAP_SYS_RESOURCE for another user."""
    return os.environ | {"LD_PRELOAD": "/usr/local/lib/not-root.so"}


def start():
    os.makedirs(app.DATA + "/cluster", mode=0o700)
    for path in (app.DATA, app.DATA + "/cluster"):
        os.chown(path, 1000, 1000)
    with open("/etc/passwd", "a") as users:
        users.write("postgres-of-tests:x:1000:1000::/data:/bin/sh\n")
    run(BIN + "/initdb", "-D", app.DATA + "/cluster", "-U", "postgres", "--auth", "trust", "--data-checksums")
    with open(app.DATA + "/cluster/pg_hba.conf", "a") as rules:
        rules.write("host all all all trust\n")
    subprocess.run(["chown", "-R", "1000:1000", app.DATA], check=True)
    app.become(
        BIN + "/postgres", "-D", app.DATA + "/cluster", "-c", "listen_addresses=*", "-k", "/tmp", **environment()
    )


class Client:
    def __init__(self, address):
        import psycopg2

        self.connection = app.patiently(
            lambda: psycopg2.connect(host=address, user="postgres", dbname="postgres"), psycopg2.OperationalError
        )
        self.connection.autocommit = True
        self.ask("CREATE TABLE kept (number int PRIMARY KEY, value text)")
        self.ask("CREATE TEMP TABLE mine (number int PRIMARY KEY, value text)")
        self.ask("PREPARE add(int, text) AS INSERT INTO kept VALUES ($1, $2)")

    def ask(self, statement, *arguments):
        with self.connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            return cursor.fetchall() if cursor.description else None

    def write(self, number):
        self.ask("EXECUTE add(%s, %s)", number, app.value(number))
        self.ask("INSERT INTO mine VALUES (%s, %s)", number, app.value(number))

    def state(self):
        tables = [self.ask(f"SELECT * FROM {name} ORDER BY number") for name in ("kept", "mine")]
        backend = self.ask("SELECT pg_backend_pid(), pg_postmaster_start_time()")
        return f"backend {backend} kept {len(tables[0])} {app.digest(tables[0])} mine {app.digest(tables[1])}"


def check(count):
    run(
        BIN + "/pg_amcheck",
        "--host",
        "/tmp",
        "--username",
        "postgres",
        "--install-missing",
        "--all",
        "--heapallindexed",
    )
    query = f"SELECT count(*) = {count} FROM kept"
    ask = ["psql", "-h", "/tmp", "-U", "postgres", "-tAc", query]
    answer = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    assert answer.strip() == "t", answer


app.main(start, Client, check)
