"""gunicorn --preload: workers that share the memory loaded before they are forked."""

import app


def start():
    app.become(
        "gunicorn", "--preload", "--workers", "4", "--worker-class", "gthread", "--threads", "4",
        "--keep-alive", "3600", "--bind", "0.0.0.0:8080", "--chdir", "/apps/preloaded", "wsgi:application",
    )  # fmt: skip


app.main(start, app.Http, app.journal_is_whole)
