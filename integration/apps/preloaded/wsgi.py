"""The application of gunicorn.py. 64 MiB are loaded before the workers are forked."""

import hashlib
import os
import threading

PRELOADED = [os.urandom(1 << 20) for _ in range(64)]
values = []
lock = threading.Lock()


def application(environ, start_response):
    with lock:
        if environ["REQUEST_METHOD"] == "PUT":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
            values.append(body)
            with open("/data/journal", "a") as journal:
                journal.write(body + "\n")
        loaded = hashlib.sha256(b"".join(PRELOADED)).hexdigest()[:16]
        held = hashlib.sha256("\n".join(values).encode()).hexdigest()[:16]
    # The peer's port identifies the client's connection.
    text = f"worker {os.getpid()} connection {environ['REMOTE_PORT']} preloaded {loaded} values {len(values)} {held}"
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]
