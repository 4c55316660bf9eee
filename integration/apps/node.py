"""A server of node, with a worker thread."""

import app


def start():
    app.become("node", "/apps/node.js")


app.main(start, app.Http, app.journal_is_whole)
