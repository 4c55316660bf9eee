"""A server in Go: servers/server.go."""

import app


def start():
    # Servers of Go 1.24 and later listen by MPTCP where the kernel can do it, which
    # CRIU can't dump.
    app.become("go-server", GODEBUG="multipathtcp=0")


app.main(start, app.Http, app.journal_is_whole)
