"""RabbitMQ: a durable queue, and one that is exclusive to the connection."""

import os
import subprocess

import app

ENVIRONMENT = {
    "HOME": app.DATA,
    "RABBITMQ_NODENAME": "rabbit@localhost",
    "RABBITMQ_MNESIA_BASE": app.DATA + "/mnesia",
    "RABBITMQ_LOG_BASE": app.DATA + "/logs",
    "RABBITMQ_CONFIG_FILE": app.DATA + "/rabbitmq.conf",
    "RABBITMQ_ENABLED_PLUGINS_FILE": app.DATA + "/plugins",
}
BIN = "/usr/lib/rabbitmq/bin"


def start():
    app.file(app.DATA + "/rabbitmq.conf", "loopback_users = none\n")
    app.become(BIN + "/rabbitmq-server", **ENVIRONMENT)


class Client:
    def __init__(self, address):
        import pika

        # No heartbeats: the server does not answer during a restore.
        parameters = pika.ConnectionParameters(host=address, heartbeat=0)
        self.connection = app.patiently(lambda: pika.BlockingConnection(parameters), pika.exceptions.AMQPError, OSError)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.channel.queue_declare("kept", durable=True)
        self.mine = self.channel.queue_declare("", exclusive=True).method.queue
        self.persistent = pika.BasicProperties(delivery_mode=2)

    def write(self, number):
        for queue in ("kept", self.mine):
            self.channel.basic_publish("", queue, app.value(number), self.persistent)

    def messages(self, queue):
        """All messages in order; they stay in the queue."""
        held, tag = [], 0
        while True:
            method, _, body = self.channel.basic_get(queue)
            if method is None:
                break
            held.append(body.decode())
            tag = method.delivery_tag
        if held:
            self.channel.basic_nack(tag, multiple=True, requeue=True)
        return held

    def state(self):
        queues = [self.messages(queue) for queue in ("kept", self.mine)]
        return f"queue {self.mine} kept {len(queues[0])} {app.digest(queues[0])} mine {app.digest(queues[1])}"


def check(count):
    ask = [BIN + "/rabbitmqctl", "--quiet", "list_queues", "name", "messages"]
    answer = subprocess.run(ask, check=True, capture_output=True, text=True, env=os.environ | ENVIRONMENT).stdout
    assert f"kept\t{count}\n" in answer, answer


app.main(start, Client, check)
