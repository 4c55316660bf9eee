"""MariaDB: a session with a temporary table and a variable."""

import os
import subprocess

import app

FILES = app.DATA + "/files"


def start():
    os.makedirs(FILES)
    install = ["mariadb-install-db", "--user=root", "--datadir=" + FILES, "--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    grant = app.file(
        app.DATA + "/grant.sql",
        "CREATE DATABASE app;\nCREATE USER client@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON *.* TO client@'%';\n",
    )
    app.become(
        "mariadbd", "--user=root", "--datadir=" + FILES, "--bind-address=0.0.0.0",
        "--socket=/tmp/mariadb.sock", "--pid-file=/tmp/mariadb.pid", "--init-file=" + grant,
    )  # fmt: skip


class Client:
    def __init__(self, address):
        import pymysql

        self.connection = app.patiently(
            lambda: pymysql.connect(host=address, user="client", password="secret", database="app", autocommit=True),
            pymysql.err.OperationalError,
        )
        self.ask("CREATE TABLE kept (number int PRIMARY KEY, value text)")
        self.ask("CREATE TEMPORARY TABLE mine (number int PRIMARY KEY, value text)")
        self.ask("SET @last = -1")

    def ask(self, statement, *arguments):
        with self.connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            return cursor.fetchall()

    def write(self, number):
        for table in ("kept", "mine"):
            self.ask(f"INSERT INTO {table} VALUES (%s, %s)", number, app.value(number))
        self.ask("SET @last = %s", number)

    def state(self):
        tables = [self.ask(f"SELECT * FROM {name} ORDER BY number") for name in ("kept", "mine")]
        session = self.ask("SELECT CONNECTION_ID(), @last")
        return f"session {session} kept {len(tables[0])} {app.digest(tables[0])} mine {app.digest(tables[1])}"


def check(count):
    login = ["--socket=/tmp/mariadb.sock", "--user=root"]
    subprocess.run(["mariadb-check", *login, "--all-databases", "--check", "--extended"], check=True)
    ask = ["mariadb", *login, "--skip-column-names", "-e", "SELECT count(*) FROM app.kept"]
    answer = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    assert int(answer) == count, answer


app.main(start, Client, check)
