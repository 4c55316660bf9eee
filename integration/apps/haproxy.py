"""HAProxy before the server in Go: a connection through two processes."""

import subprocess

import app

CONFIGURATION = """global
    nbthread 4
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
frontend web
    bind :80
    default_backend servers
backend servers
    http-reuse never
    server go 127.0.0.1:8080
"""


def start():
    app.file(app.DATA + "/haproxy.cfg", CONFIGURATION)
    # See go.py.
    subprocess.Popen(["env", "GODEBUG=multipathtcp=0", "go-server"], start_new_session=True)
    app.connect("127.0.0.1", 8080).close()
    app.become("haproxy", "-W", "-f", app.DATA + "/haproxy.cfg")


class Client(app.Http):
    port = 80


app.main(start, Client, app.journal_is_whole)
