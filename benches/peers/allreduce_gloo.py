"""A member of a gloo group that averages tensors when it is asked; see
benches/src/bin/allreduce/words.rs for questions and answers, a line of JSON each.

The time is that of `torch.distributed.all_reduce`, synchronous; dividing by the number of members
is left out of it.
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed as dist

PART = 1 << 20


def value(places, rank):
    return ((places * 7 + 13 * rank) % 1000).to(torch.float32) / 1000


def average(rank, world, elements, repeats):
    tensor = torch.empty(elements)
    for start in range(0, elements, PART):
        end = min(start + PART, elements)
        tensor[start:end] = value(torch.arange(start, end), rank)
    spent = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        dist.all_reduce(tensor)
        spent += time.perf_counter() - began
        tensor *= 1.0 / world
    places = torch.arange(0, elements, 997)
    expected = sum(value(places, r).to(torch.float64) for r in range(world)) / world
    difference = (tensor[places].to(torch.float64) - expected).abs().max().item()
    return {"seconds": spent, "difference": difference}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rank", type=int, required=True)
    arguments.add_argument("--world", type=int, required=True)
    arguments.add_argument("--store", required=True, help="a file that all members reach")
    args = arguments.parse_args()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # All members share the machine's cores.
    torch.set_num_threads(1)
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["op"] == "ready":
            answer = {"version": torch.__version__}
        elif ask["op"] == "meet":
            dist.init_process_group(
                "gloo",
                init_method=f"file://{args.store}",
                rank=args.rank,
                world_size=args.world,
            )
            answer = {}
        elif ask["op"] == "average":
            answer = average(args.rank, args.world, ask["elements"], ask["repeats"])
        else:
            answer = {}
        print(json.dumps(answer), file=out, flush=True)
        if ask["op"] == "quit":
            break


main()
