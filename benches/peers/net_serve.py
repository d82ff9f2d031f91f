"""The protocol of net_ray.py and net_monarch.py, and what both sides of a message agree on.

A driver sends one JSON command a line and reads one JSON answer a line, so that it can let several
programs take turns on one machine. Every command may name a `way`, one of those that the program
lists; without one it takes the first. Every answer to a measurement says its `way`.

    {"op": "ready"}                                                {"ok", "version", ...}
    {"op": "sequential", "size": 256, "count": 2000}               {"seconds", "p50_us", "p99_us",
                                                                    "count", "checksum"}
    {"op": "pipelined", "size": 256, "count": 20000, "window": 64} {"seconds", "count", "checksum"}
    {"op": "oneway", "size": 256, "count": 100000}                 {"seconds", "count", "checksum",
                                                                    "sent_seconds"}
    {"op": "bulk", "bytes": 270000000, "receivers": 4}             {"seconds", "bytes", "receivers",
                                                                    "checksums", "checksum_seconds",
                                                                    "checksum_again_seconds"}
    {"op": "quit"}                                                 {"ok"}

The end of its input ends it too, without an answer.

The receiver is always an actor in a process of its own. A message is `size` bytes: its number, from
0, in the first 8 (little-endian), then zeros. The checksum adds up the numbers that came back
(`oneway`: that arrived), so it is count * (count - 1) / 2. An object of `bulk` is the 64-bit words
0, 1, 2, ...; each receiver adds them up modulo 2^64, which `seconds` includes. The slowest receiver
took `checksum_seconds` for it, and `checksum_again_seconds` when all did it once more after the
clock was stopped. The object exists before the clock starts.

What a program cannot do is answered with `{"unsupported": reason}`. An error, or an operation that
lasts longer than `--timeout`, is one last line, `{"error": ...}`, and exit code 1. Whatever
libraries print goes to stderr.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import deque

import numpy as np

NUMBER = 8
"""Bytes of a message that hold its number."""


class Unsupported(Exception):
    """The system has no such operation, for the reason given."""


# --- Messages ----------------------------------------------------------------------------------


def messages(size, count):
    """That many messages of that size, each made when it is asked for."""
    if size < NUMBER:
        raise ValueError(f"a message has at least {NUMBER} bytes")
    rest = bytes(size - NUMBER)
    return (number.to_bytes(NUMBER, "little") + rest for number in range(count))


def number_of(message):
    return int.from_bytes(message[:NUMBER], "little")


def words(size):
    """An object of that many bytes."""
    if size % 8 != 0 or size <= 0:
        raise ValueError("an object consists of whole 64-bit words")
    return np.arange(size // 8, dtype=np.uint64)


# --- Measurements ------------------------------------------------------------------------------


def sequential(size, count, call):
    """One call after the other; `call` sends a message and waits for what comes back."""
    checksum = 0
    latencies = []
    start = time.perf_counter()
    for message in messages(size, count):
        before = time.perf_counter()
        reply = call(message)
        latencies.append(time.perf_counter() - before)
        checksum += number_of(reply)
    seconds = time.perf_counter() - start
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e6
    return {
        "seconds": seconds,
        "p50_us": float(p50),
        "p99_us": float(p99),
        "count": count,
        "checksum": checksum,
    }


def pipelined(size, count, window, send, wait):
    """`window` calls under way: one more is sent when the oldest has come back."""
    checksum = 0
    under_way = deque()
    start = time.perf_counter()
    for message in messages(size, count):
        if len(under_way) == window:
            checksum += number_of(wait(under_way.popleft()))
        under_way.append(send(message))
    while under_way:
        checksum += number_of(wait(under_way.popleft()))
    return {"seconds": time.perf_counter() - start, "count": count, "checksum": checksum}


def oneway(size, count, send, arrived):
    """Messages without answers; then `arrived` asks how many there were and for their checksum."""
    start = time.perf_counter()
    for message in messages(size, count):
        send(message)
    sent = time.perf_counter() - start
    came, checksum = arrived()
    return {
        "seconds": time.perf_counter() - start,
        "sent_seconds": sent,
        "count": came,
        "checksum": checksum,
    }


def bulk(size, receivers, transfer, again):
    """`transfer` brings the object to every receiver, `again` has them add up what they hold; both
    return one (checksum, seconds for it) per receiver."""
    start = time.perf_counter()
    found = transfer()
    seconds = time.perf_counter() - start
    repeated = again()
    return {
        "seconds": seconds,
        "bytes": size,
        "receivers": receivers,
        "checksums": [checksum for checksum, _ in found],
        "checksum_seconds": max(seconds for _, seconds in found),
        "checksum_again_seconds": max(seconds for _, seconds in repeated),
    }


# --- Commands ----------------------------------------------------------------------------------


def take_stdout():
    """A function that writes an answer to stdout, where nothing else can write from now on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lambda value: print(json.dumps(value), file=out, flush=True)


class Deadline:
    """Ends the program with an error when what it guards takes too long: these systems can wait
    for ever for what was lost."""

    def __init__(self, seconds, write, what):
        self.timer = threading.Timer(seconds, self.expire)
        self.timer.daemon = True
        self.message = f"{what} took longer than {seconds} s"
        self.write = write

    def expire(self):
        self.write({"error": self.message})
        os._exit(1)

    def __enter__(self):
        self.timer.start()

    def __exit__(self, *_):
        self.timer.cancel()


def answer(system, command):
    if command["op"] == "ready":
        return {"ok": True, **system.describe()}
    operations = system.operations()
    if command["op"] not in operations:
        raise ValueError(f"unknown op {command['op']!r}")
    ways = operations[command["op"]]
    way = command.get("way", next(iter(ways), None))
    if way not in ways:
        raise ValueError(f"{command['op']} has no way {way!r}, only {list(ways)}")
    values = {key: command[key] for key in command if key not in ("op", "way")}
    try:
        return {"way": way, **ways[way](**values)}
    except Unsupported as reason:
        return {"way": way, "unsupported": str(reason)}


def serve(make, args, write):
    """Answers commands with the system that `make(args)` starts. A system has `describe()`,
    `operations()` (by name, the ways of each, the fastest first) and `stop()`."""
    try:
        with Deadline(args.timeout, write, "starting"):
            system = make(args)
        for line in sys.stdin:
            command = json.loads(line)
            if command["op"] == "quit":
                with Deadline(args.timeout, write, "stopping"):
                    system.stop()
                write({"ok": True})
                return
            with Deadline(args.timeout, write, command["op"]):
                reply = answer(system, command)
            write(reply)
        with Deadline(args.timeout, write, "stopping"):
            system.stop()
    except Exception as error:
        write({"error": f"{type(error).__name__}: {error}"})
        sys.stdout.flush()
        sys.exit(1)


def parser(description):
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument(
        "--timeout", type=float, default=600.0, help="seconds that one command may take"
    )
    return arguments
