"""Calls, messages and objects between actors of Ray, one command at a time.

    pip install -r requirements-net.txt
    python net_ray.py

net_serve.py says what it reads and writes. Everything is on loopback, without the dashboard, usage
statistics or TLS. The ways:

`call`: actor.echo.remote(message) and ray.get, on an actor with four threads: a quarter faster than
with one thread in `pipelined` and `oneway` and no slower in `sequential`; an async actor takes
almost twice the time. A message below 100 KB travels in the call itself, not through the object
store. `oneway` asks for no return value, which makes it another tenth faster; Ray has no
back-pressure there, and what the actor has not taken waits in the sender's memory.

`compiled`: a Compiled Graph of one call, Ray's way for the same call many times over: messages pass
through shared memory to a loop that holds the actor, which can do nothing else meanwhile and keeps
a core busy while it waits. It is made and taken down outside the time that is reported.

`shared`: ray.put of a NumPy array, and one call per receiver with the reference as its argument.
Object stores belong to a machine: this copies the object once, into shared memory, where every
receiver reads it in place. Nothing is transferred.

`nodes`: the same with the receivers on a second Ray node, started on this machine for it. Then the
object does pass through a socket, from one object store to the other: once, however many receivers
read it there.
"""

import os
import secrets

# Ray reads these when it is imported, and its processes inherit them. Its ports are open to the
# network, so that its tokens stay on, as they are by default; this one is not kept anywhere.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)

import threading  # noqa: E402
import time  # noqa: E402
from contextlib import contextmanager  # noqa: E402

import numpy as np  # noqa: E402
import ray  # noqa: E402
from net_serve import Unsupported, bulk, oneway, parser, pipelined, sequential  # noqa: E402
from net_serve import serve, take_stdout, words  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.dag import InputNode  # noqa: E402

CPUS = 16
"""What the nodes say they have, so that no actor waits for one."""

THREADS = 4

STORE_BYTES = 1_500_000_000

# Addresses of loopback on Linux. Ray replaces 127.0.0.1 by an address of the network.
ADDRESSES = {"near": "127.0.0.2", "far": "127.0.0.3"}


def node(name):
    return {
        "num_cpus": CPUS,
        "object_store_memory": STORE_BYTES,
        "node_ip_address": ADDRESSES[name],
        "resources": {name: CPUS},
    }


@ray.remote(num_cpus=0)
class Echo:
    def __init__(self):
        self.changed = threading.Condition()
        self.count = 0
        self.checksum = 0

    def echo(self, message):
        return message

    def take(self, message):
        number = int.from_bytes(message[:8], "little")
        with self.changed:
            self.count += 1
            self.checksum += number
            self.changed.notify()

    def arrived(self, count):
        """Threads may overtake each other: waits until that many messages are there."""
        with self.changed:
            self.changed.wait_for(lambda: self.count >= count)
            found = self.count, self.checksum
            self.count = self.checksum = 0
        return found


@ray.remote(num_cpus=0)
class Receiver:
    def __init__(self):
        self.object = None

    def get(self, array):
        self.object = array  # kept: `again` must not fetch it anew
        return self.again()

    def again(self):
        start = time.perf_counter()
        checksum = int(np.sum(self.object))
        return checksum, time.perf_counter() - start

    def forget(self):
        self.object = None


def echo_actor(threads):
    return Echo.options(resources={"near": 1}, max_concurrency=threads).remote()


class System:
    def __init__(self, args):
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"include_dashboard": False, **node("near")},
        )
        ray.init(
            address=self.cluster.address,
            log_to_driver=False,
            logging_level="warning",
            _node_ip_address=ADDRESSES["near"],
        )
        self.actor = echo_actor(THREADS)
        self.receivers = {"near": [], "far": []}
        self.objects = {}
        ray.get(self.actor.arrived.remote(0))

    def describe(self):
        return {"version": ray.__version__}

    def operations(self):
        return {
            "sequential": {"call": self.sequential, "compiled": self.sequential_compiled},
            "pipelined": {"call": self.pipelined, "compiled": self.pipelined_compiled},
            "oneway": {"call": self.oneway},
            "bulk": {"shared": self.bulk_shared, "nodes": self.bulk_nodes},
        }

    def sequential(self, size, count):
        echo = self.actor.echo
        return sequential(size, count, lambda message: ray.get(echo.remote(message)))

    def pipelined(self, size, count, window):
        return pipelined(size, count, window, self.actor.echo.remote, ray.get)

    @contextmanager
    def graph(self, size, window):
        """The compiled call for messages of that size: its buffers are of a fixed one. Only for one
        command, since its actor's loop keeps a core busy even when there is nothing to do."""
        actor = echo_actor(1)
        with InputNode() as message:
            call = actor.echo.bind(message)
        graph = call.experimental_compile(
            _max_inflight_executions=window,
            _buffer_size_bytes=size + 4096,
        )
        try:
            ray.get(graph.execute(bytes(size)))
            yield graph.execute
        finally:
            graph.teardown()
            ray.kill(actor)

    def sequential_compiled(self, size, count):
        with self.graph(size, 1) as execute:
            return sequential(size, count, lambda message: ray.get(execute(message)))

    def pipelined_compiled(self, size, count, window):
        with self.graph(size, window) as execute:
            return pipelined(size, count, window, execute, ray.get)

    def oneway(self, size, count):
        # Without return values nothing has to be kept or counted for a call that was made.
        take = self.actor.take.options(num_returns=0).remote
        return oneway(size, count, take, lambda: ray.get(self.actor.arrived.remote(count)))

    def bulk_shared(self, bytes, receivers):
        return self.bulk(bytes, receivers, "near")

    def bulk_nodes(self, bytes, receivers):
        if not self.receivers["far"]:
            self.cluster.add_node(**node("far"))
        return self.bulk(bytes, receivers, "far")

    def bulk(self, size, count, node):
        if size > STORE_BYTES // 2:
            raise Unsupported(f"the object store has {STORE_BYTES} bytes")
        if size not in self.objects:
            self.objects = {size: words(size)}
        array = self.objects[size]
        actors = self.receivers[node]
        while len(actors) < count:
            actors.append(Receiver.options(resources={node: 1}).remote())
        actors = actors[:count]
        ray.get([actor.forget.remote() for actor in actors])

        def transfer():
            reference = ray.put(array)
            return ray.get([actor.get.remote(reference) for actor in actors])

        def again():
            return ray.get([actor.again.remote() for actor in actors])

        found = bulk(size, count, transfer, again)
        ray.get([actor.forget.remote() for actor in actors])
        return found

    def stop(self):
        ray.shutdown()
        self.cluster.shutdown()


def main():
    args = parser(__doc__.splitlines()[0]).parse_args()
    serve(System, args, take_stdout())


if __name__ == "__main__":
    main()
