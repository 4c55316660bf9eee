"""Chromium without a screen, and a DevTools client: scripts, DOM, new pages."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import app

PAGE = app.DATA + "/page.html"


def start():
    app.file(PAGE, "<title>app</title><ul id=list></ul><script>values = []</script>")
    # DevTools listens on 127.0.0.1 only.
    subprocess.Popen([sys.executable, __file__, "forward"], start_new_session=True)
    app.become(
        "chromium", "--headless", "--no-sandbox", "--remote-debugging-port=9222",
        "--user-data-dir=" + app.DATA + "/profile", "file://" + PAGE, HOME=app.DATA,
    )  # fmt: skip


def forward():
    def pour(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    server = socket.create_server(("0.0.0.0", 9223))
    while True:
        outer, _ = server.accept()
        try:
            inner = socket.create_connection(("127.0.0.1", 9222))
        except OSError:
            outer.close()
            continue
        for pair in ((outer, inner), (inner, outer)):
            threading.Thread(target=pour, args=pair).start()


def pages(address):
    """The page that Chromium opened at the start."""
    with urllib.request.urlopen(f"http://{address}:9223/json/list", timeout=30) as answer:
        found = [page for page in json.load(answer) if page["url"] == "file://" + PAGE]
    if not found:
        raise OSError("no page yet")
    return found


class Client:
    def __init__(self, address):
        import websocket

        page = app.patiently(lambda: pages(address), OSError, ValueError)[0]
        url = f"ws://{address}:9223/devtools/page/{page['id']}"
        self.page = page["id"]
        self.connection = websocket.create_connection(url, suppress_origin=True, timeout=60)
        self.number = 0
        self.loaded()

    def ask(self, method, **parameters):
        self.number += 1
        self.connection.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.connection.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def loaded(self):
        deadline = time.monotonic() + 30
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page is not loaded"
            time.sleep(0.05)

    def write(self, number):
        # Script, DOM and storage, and another page in a new renderer.
        self.evaluate(
            f"values.push('{app.value(number)}');"
            f"list.append(Object.assign(document.createElement('li'), {{textContent: '{app.value(number)}'}}));"
            f"localStorage.setItem('{number}', '{app.value(number)}')"
        )
        target = self.ask("Target.createTarget", url="data:text/html,<p>new")["targetId"]
        self.ask("Target.closeTarget", targetId=target)

    def state(self):
        origin = self.evaluate("performance.timeOrigin")
        values = self.evaluate("values")
        shown = self.evaluate("[...document.querySelectorAll('li')].map(e => e.textContent)")
        stored = self.evaluate("JSON.stringify(Object.entries(localStorage).sort())")
        drawn = len(self.ask("Page.captureScreenshot")["data"]) > 0
        return (
            f"page {self.page} since {origin} values {len(values)} {app.digest(values)} "
            f"shown {app.digest(shown)} stored {app.digest([stored])} drawn {drawn}"
        )


def check(count):
    # Another client of the same page.
    stored = Client("127.0.0.1").evaluate("localStorage.length")
    assert stored == count, stored


if sys.argv[1] == "forward":
    forward()
else:
    app.main(start, Client, check)
