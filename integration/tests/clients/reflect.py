"""A client that knows nothing of our messages: it asks the daemon for them.

reflect.py TARGET TOKEN [CA CERTIFICATE KEY]

Starts a job, lists the jobs until it has ended, and prints its ID, state and exit code.
"""

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


def main():
    target, token, *tls = sys.argv[1:]
    if tls:
        ca, certificate, key = (open(path, "rb").read() for path in tls)
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        channel = grpc.secure_channel(target, credentials)
    else:
        channel = grpc.insecure_channel(target)
    metadata = [("authorization", "Bearer " + token)] if token else []
    raw = {"request_serializer": bytes, "response_deserializer": bytes}
    reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    ask = channel.stream_stream(reflection, **raw)
    pool = descriptor_pool.DescriptorPool()
    added = set()

    def add(request):
        for answer in ask(iter([request]), metadata=metadata):
            for number, files in fields(answer):
                if number != 4:
                    continue
                for _, encoded in fields(files):
                    file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
                    if file.name in added:
                        continue
                    added.add(file.name)
                    for needed in file.dependency:
                        add(field(3, needed.encode()))
                    pool.Add(file)

    add(field(4, b"cedana.daemon.v1.JobService"))

    def message(name):
        found = pool.FindMessageTypeByName("cedana.daemon.v1." + name)
        if hasattr(message_factory, "GetMessageClass"):
            return message_factory.GetMessageClass(found)
        return message_factory.MessageFactory(pool).GetPrototype(found)

    service = pool.FindServiceByName("cedana.daemon.v1.JobService")

    def call(name, kind):
        method = service.methods_by_name[name]
        return getattr(channel, kind)(
            f"/{service.full_name}/{name}",
            request_serializer=message(method.input_type.name).SerializeToString,
            response_deserializer=message(method.output_type.name).FromString,
        )

    start = message("StartJobRequest")(arguments=[b"sh", b"-c", b"exit 3"])
    job = call("StartJob", "unary_unary")(start, metadata=metadata).job
    watch = message("ListJobsRequest")(all=True, watch=True)
    for part in call("ListJobs", "unary_stream")(watch, metadata=metadata):
        for listed in part.jobs:
            state = listed.DESCRIPTOR.fields_by_name["state"].enum_type
            name = state.values_by_number[listed.state].name
            if listed.id == job.id and name == "JOB_STATE_ENDED":
                print(listed.id, listed.user, name, listed.exit.code)
                return


main()
