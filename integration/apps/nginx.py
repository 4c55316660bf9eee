"""nginx with two workers, which stores files by PUT."""

import os

import app

FILES = app.DATA + "/files"
# As root: CRIU needs CAP_SYS_RESOURCE for another user's processes, and some test
# machines lack it.
CONFIGURATION = f"""user root; daemon off; worker_processes 2; pid /data/pid;
error_log {app.DATA}/log; events {{ }}
http {{ access_log off; keepalive_timeout 1h; keepalive_requests 1000000;
  client_body_temp_path {app.DATA}/uploads;
  server {{ listen 8080;
    location /files/ {{ root {app.DATA}; dav_methods PUT; }}
    location / {{ return 200 "connection $connection requests $connection_requests\\n"; }} }} }}
"""


def start():
    os.makedirs(FILES)
    app.become("nginx", "-c", app.file(app.DATA + "/nginx.conf", CONFIGURATION), "-e", app.DATA + "/log")


class Client(app.Http):
    def __init__(self, address):
        super().__init__(address)
        self.files = 0
        self.requests = 0

    def ask(self, *request, **body):
        self.requests += 1
        return super().ask(*request, **body)

    def write(self, number):
        self.ask("PUT", f"/files/{number}", body=app.value(number))
        self.files = number + 1

    def state(self):
        contents = [self.ask("GET", f"/files/{number}") for number in range(self.files)]
        # nginx and this client both count the connection's requests.
        connection, requests = self.ask("GET").split(" requests ")
        assert int(requests) == self.requests, f"{requests} requests, not {self.requests}"
        return f"{connection} files {app.digest(contents)}"


def check(count):
    for number in range(count):
        with open(f"{FILES}/{number}") as file:
            assert file.read() == app.value(number), number
    assert len(os.listdir(FILES)) == count


app.main(start, Client, check)
