"""A server that keeps an SQLite database open."""

import os
import socketserver
import sqlite3
import subprocess
import sys

import app

FILE = os.environ.get("SQLITE_FILE", app.DATA + "/db")


def serve():
    database = sqlite3.connect(FILE, isolation_level=None, check_same_thread=False)
    if "SQLITE_JOURNAL" in os.environ:
        database.execute("PRAGMA journal_mode = " + os.environ["SQLITE_JOURNAL"])
    database.execute("CREATE TABLE kept (number INTEGER PRIMARY KEY, value TEXT)")
    database.execute("CREATE TEMP TABLE mine (value TEXT)")

    class Connection(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                word, _, text = line.decode().strip().partition(" ")
                if word == "put":
                    database.execute("INSERT INTO kept (value) VALUES (?)", (text,))
                    database.execute("INSERT INTO mine VALUES (?)", (text,))
                tables = [
                    list(database.execute(f"SELECT value FROM {name} ORDER BY rowid")) for name in ("kept", "mine")
                ]
                answer = f"connection {self.client_address} kept {len(tables[0])} {app.digest(tables[0])} {app.digest(tables[1])}"
                self.wfile.write((answer + "\n").encode())

    socketserver.ThreadingTCPServer(("0.0.0.0", 8080), Connection).serve_forever()


def start():
    app.become("python3", __file__, "serve")


def check(count):
    # A second process opens the database while the server has it open.
    for query, expected in (("PRAGMA integrity_check", "ok"), ("SELECT count(*) FROM kept", str(count))):
        answer = subprocess.run(["sqlite3", FILE, query], check=True, capture_output=True, text=True).stdout
        assert answer.strip() == expected, answer


if sys.argv[1] == "serve":
    serve()
else:
    app.main(start, app.Lines, check)
