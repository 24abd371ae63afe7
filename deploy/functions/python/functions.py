"""Functions to try ODGM with, in Python, from nothing but its .proto files. The same in Rust, and more of them: tests/src/functions.

The name of a function up to its first "-" says what it does, the rest is an argument:

    echo               answers what it was called with
    count              adds one to entry "count" of the object it is called on, once for each idempotency key
    fail               refuses: APP_ERROR
    slow, slow-500     waits so many milliseconds, those that it was called with or its argument
    loop, loop-b       writes entry "turn" of the object it is called on, or of object "b" beside it

Start it by `scripts/functions python` or `make functions IN=python`, which make the modules of the .proto files first.
"""

import argparse
import base64
import json
import os
import re
import signal
import time
from concurrent import futures
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from oprc import data_pb2, data_pb2_grpc, invoke_pb2, invoke_pb2_grpc

DEPTH = "odgm-depth"
CAUSE = "odgm-cause"
KEY = "odgm-idempotency-key"
REQUEST_ID = "odgm-request-id"
TRACEPARENT = "traceparent"

# What a function passes on with all that it writes: so the grid knows how deep a chain of triggers is, and what caused it.
PASSED_ON = (DEPTH, CAUSE, TRACEPARENT)

# What says that the node could not answer. Whatever may have come of it: all that is written here may be written again.
OF_THE_NODE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
)

# Calls that run at the same time.
THREADS = 32

# How often a count is tried again because somebody else has written the object in between.
TRIES = 1000

# The longest that "slow" waits, in milliseconds.
LONGEST_MS = 600_000


class Failed(Exception):
    """A call that fails with a gRPC status. Whether the grid tries it again depends on that; see docs/functions.md."""

    def __init__(self, code, detail):
        super().__init__(detail)
        self.code = code


@dataclass
class Call:
    """A call as a function sees it."""

    cls_id: str
    partition_id: int
    object_id: str | None
    function: str
    payload: bytes
    beside: dict

    @classmethod
    def of(cls, request, context, object_id):
        # What travels beside a request is in its metadata, and for callers without such in its options.
        found = dict(request.options)
        found.update({name: value for name, value in context.invocation_metadata() if isinstance(value, str)})
        beside = {name: found[name] for name in (*PASSED_ON, KEY) if name in found}
        return cls(request.cls_id, request.partition_id, object_id, request.fn_id, request.payload, beside)

    @property
    def key(self):
        """The same for every attempt at the same call; empty if the caller gives none."""
        return self.beside.get(KEY, "")

    @property
    def on_object(self):
        if self.object_id is None:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, f"{self.function}: expected to be called on an object")
        return self.object_id

    @property
    def subject(self):
        """What was written, if a trigger tells of that, or else all that the function was called with."""
        try:
            payload = json.loads(self.payload)
        except ValueError:
            return self.payload
        if not isinstance(payload, dict) or not payload.get("event_info"):
            return self.payload
        return base64.b64decode(payload.get("original_payload") or "")


class Grid:
    """What functions read and write."""

    def __init__(self, url):
        self.node = data_pb2_grpc.DataServiceStub(grpc.insecure_channel(re.sub(r"^https?://", "", url)))

    def entry(self, call, object_id, key):
        """The value of an entry, or None, and the version of its object, 0 if that does not exist."""
        request = data_pb2.SingleKeyRequest(
            cls_id=call.cls_id, partition_id=call.partition_id, object_id_str=object_id, key_str=key
        )
        answer = self.ask(self.node.GetValue, request)
        return (answer.value.data if answer.HasField("value") else None), answer.object_version

    def put(self, call, object_id, key, value, request_id=""):
        """Writes an entry; with a request id, it is written once however often this is asked."""
        request = data_pb2.SetKeyRequest(
            cls_id=call.cls_id,
            partition_id=call.partition_id,
            object_id_str=object_id,
            key_str=key,
            value=data_pb2.ValData(data=value.encode()),
        )
        self.ask(self.node.SetValue, request, self.passed_on(call, request_id))

    def put_at(self, call, object_id, entries, version):
        """Writes entries at once if the object still has that version. False: it has not."""
        request = data_pb2.BatchSetValuesRequest(
            cls_id=call.cls_id,
            partition_id=call.partition_id,
            object_id_str=object_id,
            values={key: data_pb2.ValData(data=value.encode()) for key, value in entries.items()},
            expected_object_version=version,
        )
        try:
            self.node.BatchSetValues(request, metadata=self.passed_on(call))
            return True
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.ABORTED:
                return False
            raise self.failed(error) from error

    def ask(self, method, request, metadata=()):
        try:
            return method(request, metadata=metadata)
        except grpc.RpcError as error:
            raise self.failed(error) from error

    @staticmethod
    def passed_on(call, request_id=""):
        metadata = [(name, call.beside[name]) for name in PASSED_ON if name in call.beside]
        return metadata + ([(REQUEST_ID, request_id)] if request_id else [])

    @staticmethod
    def failed(error):
        if error.code() in OF_THE_NODE:
            # The caller tries again later.
            return Failed(grpc.StatusCode.UNAVAILABLE, f"the grid does not answer: {error.details()}")
        return Failed(error.code(), error.details())


def answer(payload, status=invoke_pb2.RESPONSE_STATUS_OKAY):
    return invoke_pb2.InvocationResponse(payload=payload, status=status)


def echo(call, argument, grid):
    return answer(call.payload)


def count(call, argument, grid):
    """The count and the mark of the call are written at once, and only if the object is as it was read. So a call that is made
    again finds its mark, and of two that are made at the same time one is refused and looks again."""
    mark = "by." + re.sub(r"[^a-z0-9._:-]", ".", call.key.lower())
    for _ in range(TRIES):
        counted, version = grid.entry(call, call.on_object, mark)
        if counted is not None and call.key:
            return answer(counted)
        before, _ = grid.entry(call, call.on_object, "count")
        now = str(int(before or b"0") + 1)
        entries = {"count": now, mark: now} if call.key else {"count": now}
        if grid.put_at(call, call.on_object, entries, version):
            return answer(now.encode())
    raise Failed(grpc.StatusCode.ABORTED, f"{call.object_id} was written {TRIES} times while it was to be counted")


def fail(call, argument, grid):
    return answer(b"fail refuses whatever it is asked", invoke_pb2.RESPONSE_STATUS_APP_ERROR)


def slow(call, argument, grid):
    text = argument if argument is not None else call.subject.decode(errors="replace")
    if not text.strip().isdecimal() or int(text) > LONGEST_MS:
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, f"slow: expected milliseconds, at most {LONGEST_MS}")
    time.sleep(int(text) / 1000)
    return answer(f"waited {int(text)} ms".encode())


def loop(call, argument, grid):
    """Writes an entry that may well have a trigger that leads back here. The grid knows by the depth and cause that are passed on
    when that is enough. The key as request id has it written once, however often this is called."""
    depth = call.beside.get(DEPTH, "0")
    grid.put(call, argument if argument is not None else call.on_object, "turn", depth, request_id=call.key)
    return answer(depth.encode())


FUNCTIONS = {"echo": echo, "count": count, "fail": fail, "slow": slow, "loop": loop}


class Service(invoke_pb2_grpc.OprcFunctionServicer):
    def __init__(self, grid):
        self.grid = grid

    def InvokeFn(self, request, context):
        return self.run(Call.of(request, context, None), context)

    def InvokeObj(self, request, context):
        # The string wins; the number is for clients that have no strings.
        object_id = request.object_id_str if request.HasField("object_id_str") else str(request.object_id)
        return self.run(Call.of(request, context, object_id), context)

    def run(self, call, context):
        name, dash, argument = call.function.partition("-")
        function = FUNCTIONS.get(name)
        if function is None:
            expected = ", ".join(FUNCTIONS)
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"there is no function {call.function!r}: expected {expected}")
        try:
            return function(call, argument if dash else None, self.grid)
        except Failed as failed:
            context.abort(failed.code, str(failed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7001, help="the port of the loopback interface; 0 chooses one")
    parser.add_argument("--port-file", help="where the port is written as soon as it is listened on")
    parser.add_argument("--grid", default="http://127.0.0.1:8080", help="the node that functions read and write at")
    options = parser.parse_args()

    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    invoke_pb2_grpc.add_OprcFunctionServicer_to_server(Service(Grid(options.grid)), server)
    checks = health.HealthServicer()
    checks.set("oprc.OprcFunction", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    print(f"functions listen on http://127.0.0.1:{port}, and write to {options.grid}", flush=True)
    if options.port_file:
        # Whoever waits for the file never sees a part of it.
        with open(options.port_file + ".part", "w") as file:
            file.write(str(port))
        os.replace(options.port_file + ".part", options.port_file)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: server.stop(grace=None))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
