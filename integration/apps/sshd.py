"""sshd, and a client in a shell whose variables are the state."""

import os
import subprocess

import app

KEY = "/out/key"


def start():
    os.makedirs("/run/sshd", exist_ok=True)
    os.makedirs("/root/.ssh", mode=0o700, exist_ok=True)
    os.makedirs(app.DATA)
    subprocess.run(["ssh-keygen", "-A"], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY], check=True)
    with open(KEY + ".pub") as key:
        app.file("/root/.ssh/authorized_keys", key.read())
    app.become("/usr/sbin/sshd", "-D", "-e")


class Client:
    def __init__(self, address):
        app.connect(address, 22).close()
        # Otherwise ssh sends chaff after each line to hide keystroke timing, and a
        # checkpoint lacks the packets that follow it.
        options = ["ObscureKeystrokeTiming=no"]
        options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        command = ["ssh", "-tt", "-i", KEY] + [word for option in options for word in ("-o", option)]
        self.ssh = subprocess.Popen(command + [address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("stty -echo; PS1=; list=")

    def ask(self, line):
        # The terminal echoes typed text, so the mark is typed in a form that differs.
        self.ssh.stdin.write(line + '; echo "the ""end"\n')
        self.ssh.stdin.flush()
        answer = []
        while (said := self.ssh.stdout.readline()).strip() != "the end":
            assert said, f"closed after {answer}; ssh ended with {self.ssh.wait()}"
            answer.append(said.strip())
        return answer

    def write(self, number):
        self.ask(f'list="$list {app.value(number)}"; echo {app.value(number)} >>{app.JOURNAL}')

    def state(self):
        return " ".join(self.ask("echo shell $$ $(tty) $SSH_CONNECTION values $(echo $list | sha256sum)"))


app.main(start, Client, app.journal_is_whole)
