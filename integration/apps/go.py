"""A server in Go: servers/server.go."""

import app


def start():
    # Servers of Go 1.24 and later use MPTCP if the kernel has it. CRIU can't dump
    # that.
    app.become("go-server", GODEBUG="multipathtcp=0")


app.main(start, app.Http, app.journal_is_whole)
