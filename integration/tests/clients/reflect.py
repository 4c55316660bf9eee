"""A client that knows nothing of our messages: it asks the daemon for them.

reflect.py [--dump=DIRECTORY] TARGET TOKEN [CA CERTIFICATE KEY]

Starts a job, lists the jobs until it has ended, and prints its ID, state and exit code.
With --dump, dumps the job into a directory and restores it, and prints the size of its
memory, the checkpoint's path and the process ID.
"""

import faulthandler
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def field(number, data):
    """Encodes a field of bytes."""
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def fields(data):
    """Yields the numbers and bytes of a message's fields."""

    def varint():
        nonlocal data
        value = shift = 0
        while True:
            byte, data = data[0], data[1:]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while data:
        tag = varint()
        length = varint()
        if tag & 7 == 2:
            yield tag >> 3, data[:length]
            data = data[length:]


class Daemon:
    """The daemon at an address, with the messages that it has told."""

    def __init__(self, target, token, tls):
        if tls:
            ca, certificate, key = (open(path, "rb").read() for path in tls)
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
            self.channel = grpc.secure_channel(target, credentials)
        else:
            self.channel = grpc.insecure_channel(target)
        self.metadata = [("authorization", "Bearer " + token)] if token else []
        self.pool = descriptor_pool.DescriptorPool()
        self.added = set()

    def learn(self, service):
        """Asks for the file of a service, and for the files that it needs."""
        self.ask(field(4, service.encode()))
        return self.pool.FindServiceByName(service)

    def ask(self, request):
        raw = {"request_serializer": bytes, "response_deserializer": bytes}
        reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        ask = self.channel.stream_stream(reflection, **raw)
        for answer in ask(iter([request]), metadata=self.metadata):
            for number, files in fields(answer):
                if number != 4:
                    continue
                for _, encoded in fields(files):
                    file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
                    if file.name in self.added:
                        continue
                    self.added.add(file.name)
                    for needed in file.dependency:
                        self.ask(field(3, needed.encode()))
                    self.pool.Add(file)

    def message(self, name):
        found = self.pool.FindMessageTypeByName("cedana.daemon.v1." + name)
        if hasattr(message_factory, "GetMessageClass"):
            return message_factory.GetMessageClass(found)
        return message_factory.MessageFactory(self.pool).GetPrototype(found)

    def call(self, service, name, kind, request):
        method = service.methods_by_name[name]
        call = getattr(self.channel, kind)(
            f"/{service.full_name}/{name}",
            request_serializer=self.message(method.input_type.name).SerializeToString,
            response_deserializer=self.message(method.output_type.name).FromString,
        )
        return call(request, metadata=self.metadata)


def name_of(message, key):
    """The name of an enum's value."""
    kind = message.DESCRIPTOR.fields_by_name[key].enum_type
    return kind.values_by_number[getattr(message, key)].name


def watch(daemon, jobs):
    """Starts a job, and lists the jobs until it has ended."""
    start = daemon.message("StartJobRequest")(arguments=[b"sh", b"-c", b"exit 3"])
    job = daemon.call(jobs, "StartJob", "unary_unary", start).job
    request = daemon.message("ListJobsRequest")(all=True, watch=True)
    for part in daemon.call(jobs, "ListJobs", "unary_stream", request):
        for listed in part.jobs:
            name = name_of(listed, "state")
            if listed.id == job.id and name == "JOB_STATE_ENDED":
                print(listed.id, listed.user, name, listed.exit.code)
                return


def dump(daemon, jobs, directory):
    """Starts a job, dumps it, and restores it."""
    checkpoints = daemon.learn("cedana.daemon.v1.CheckpointService")
    start = daemon.message("StartJobRequest")(arguments=[b"sleep", b"1000"])
    job = daemon.call(jobs, "StartJob", "unary_unary", start).job
    request = daemon.message("DumpRequest")(directory=directory.encode())
    request.subject.job.id = job.id
    for answer in daemon.call(checkpoints, "Dump", "unary_stream", request):
        last = answer.WhichOneof("message")
        if last == "done":
            print("dumped", job.id, answer.done.raw_bytes, answer.done.path.decode())
    assert last == "done", "the last message of a dump"
    request = daemon.message("RestoreRequest")()
    request.job.job.id = job.id
    for answer in daemon.call(checkpoints, "Restore", "unary_stream", request):
        last = answer.WhichOneof("message")
        if last == "done":
            print("restored", answer.done.job.id, answer.done.pid)
    assert last == "done", "the last message of a restore"


def main():
    # A client that hangs says where.
    faulthandler.dump_traceback_later(120, exit=True)
    words = sys.argv[1:]
    directory = words.pop(0).removeprefix("--dump=") if words[0].startswith("--dump=") else None
    target, token, *tls = words
    daemon = Daemon(target, token, tls)
    jobs = daemon.learn("cedana.daemon.v1.JobService")
    if directory:
        dump(daemon, jobs, directory)
    else:
        watch(daemon, jobs)


main()
