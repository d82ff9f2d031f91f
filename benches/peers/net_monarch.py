"""Calls, messages and objects between actors of Monarch, one command at a time.

    pip install -r requirements-net.txt
    python net_monarch.py

net_serve.py says what it reads and writes. Every actor is in a process of its own, spawned on this
host. Processes of one host talk through Unix sockets, whatever transport is enabled; nothing is
encrypted. The ways:

`call`: endpoint.call_one(message). An actor whose endpoints are plain functions, without tracing
spans, is as fast as any. `sequential` waits with `Future.get`, `pipelined` with as many tasks of
asyncio as calls may be under way: 1.1 to 1.6 times faster than `get` on the oldest call.

`broadcast`: endpoint.broadcast(message), to an actor with async endpoints, which takes messages
faster than one with plain ones. Messages keep their order. There is no back-pressure.

`buffer`: an RDMABuffer over the object, Monarch's way for large ones: receivers get a handle and
read it into memory of their own, which they keep for the next object; the first time it is made and
paged in. Without RDMA hardware, as here, it comes in chunks through Monarch's own messages. Chunks
of 8 MB instead of 64 make it about twice as fast. More than one chunk at a time helped little with
64 MB, and made it 3 times slower with 16 MB and 100 times with 2 MB.

`message`: the object as bytes in the argument of a call; they travel about twice as fast as a
NumPy array.
"""

import asyncio
import time
from importlib.metadata import version

import numpy as np
from monarch.actor import Actor, endpoint, shutdown_context, this_host
from monarch.config import configure
from monarch.rdma import RDMABuffer
from net_serve import bulk, messages, number_of, oneway, parser, sequential, serve
from net_serve import take_stdout, words

CHUNK_MB = 8


class Echo(Actor):
    @endpoint(instrument=False)
    def echo(self, message):
        return message


class Sink(Actor):
    def __init__(self):
        self.count = 0
        self.checksum = 0

    @endpoint(instrument=False)
    async def take(self, message):
        self.count += 1
        self.checksum += int.from_bytes(message[:8], "little")

    @endpoint
    async def arrived(self):
        found = self.count, self.checksum
        self.count = self.checksum = 0
        return found


class Receiver(Actor):
    def __init__(self):
        self.object = None

    @endpoint
    async def read(self, buffer):
        if self.object is None or self.object.nbytes != buffer.size():
            self.object = np.zeros(buffer.size() // 8, dtype=np.uint64)
        await buffer.read_into(memoryview(self.object).cast("B"))
        return self.sum()

    @endpoint
    async def take(self, message):
        self.object = np.frombuffer(message, dtype=np.uint64)
        return self.sum()

    @endpoint
    async def again(self):
        return self.sum()

    @endpoint
    async def clear(self):
        """Forgets a message; memory to read into is kept, but holds nothing of the last object."""
        if self.object is None or not self.object.flags.writeable:
            self.object = None
        else:
            self.object.fill(0)

    def sum(self):
        start = time.perf_counter()
        checksum = int(np.sum(self.object))
        return checksum, time.perf_counter() - start


class System:
    def __init__(self, _):
        configure(rdma_max_chunk_size_mb=CHUNK_MB)
        host = this_host()
        self.host = host
        process = host.spawn_procs({"actors": 1})
        self.echo = process.spawn("echo", Echo).echo.call_one
        self.sink = process.spawn("sink", Sink)
        self.sink.arrived.call_one().get()
        self.receivers = {}
        self.objects = {}

    def describe(self):
        return {"version": version("torchmonarch")}

    def operations(self):
        return {
            "sequential": {"call": self.sequential},
            "pipelined": {"call": self.pipelined},
            "oneway": {"broadcast": self.oneway},
            "bulk": {"buffer": self.bulk_buffer, "message": self.bulk_message},
        }

    def sequential(self, size, count):
        return sequential(size, count, lambda message: self.echo(message).get())

    def pipelined(self, size, count, window):
        return asyncio.run(self.tasks(size, count, window))

    async def tasks(self, size, count, window):
        left = messages(size, count)
        checksum = 0

        async def call():
            nonlocal checksum
            for message in left:
                reply = await self.echo(message)  # not in the sum, which other tasks change too
                checksum += number_of(reply)

        start = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(window)))
        return {"seconds": time.perf_counter() - start, "count": count, "checksum": checksum}

    def oneway(self, size, count):
        arrived = self.sink.arrived.call_one
        return oneway(size, count, self.sink.take.broadcast, lambda: arrived().get())

    def object(self, size):
        if size not in self.objects:
            array = words(size)
            self.objects = {size: (RDMABuffer(memoryview(array).cast("B")), array.tobytes())}
        return self.objects[size]

    def mesh(self, count):
        if count not in self.receivers:
            processes = self.host.spawn_procs({"receivers": count})
            self.receivers[count] = processes.spawn("receivers", Receiver)
        return self.receivers[count]

    def bulk_buffer(self, bytes, receivers):
        buffer, _ = self.object(bytes)
        return self.bulk(bytes, receivers, lambda mesh: mesh.read.call(buffer))

    def bulk_message(self, bytes, receivers):
        _, message = self.object(bytes)
        return self.bulk(bytes, receivers, lambda mesh: mesh.take.call(message))

    def bulk(self, size, count, send):
        mesh = self.mesh(count)
        mesh.clear.call().get()
        found = bulk(
            size,
            count,
            lambda: list(send(mesh).get().values()),
            lambda: list(mesh.again.call().get().values()),
        )
        mesh.clear.call().get()
        return found

    def stop(self):
        shutdown_context().get()


def main():
    args = parser(__doc__.splitlines()[0]).parse_args()
    serve(System, args, take_stdout())


if __name__ == "__main__":
    main()
