"""A server of threads in Java: servers/Server.java."""

import app


def start():
    app.become("java", "-cp", "/usr/local/share/java-server", "Server")


app.main(start, app.Lines, app.journal_is_whole)
