"""What both reference scripts share: their arguments, their processes, what they print, the sum.

A script is a loader (`epoch()` of one process) and this file: the processes start together in each
epoch, every process prints its own lines, process 0 of the node adds them up, and rank 0 adds up the
nodes. Nothing here is about DALI or torch.

A loader yields, for each batch, how many images and bytes of files it held, and the times that single
files took where it knows them (else an empty list).
"""

import argparse
import ctypes
import importlib
import json
import multiprocessing
import os
import queue
import resource
import signal
import socket
import sys
import time
import traceback

# How long rank 0 waits for the other nodes, and they for it: a slow node is late by less than this.
NODES_WAIT_S = 600
# From linux/prctl.h.
PR_SET_PDEATHSIG = 1
# More would be a mistake, not a result.
ANSWER_BYTES_MAX = 1 << 24


def arguments(description, workers):
    """The command line; `workers` is the default number of workers of each process."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="RANK and WORLD_SIZE (nodes) come from the environment, 0 and 1 without them. With "
        "MASTER_ADDR and MASTER_PORT set as well, rank 0 adds up all nodes; else each adds up itself.",
    )
    add = parser.add_argument
    add("data", metavar="DIR", nargs="+",
        help="folder of class folders, or one that holds them in train/; a second one is not read")
    add("--epochs", type=int, default=3)
    add("--process", type=int, default=8, help="processes on this node, each reads a shard")
    add("-b", "--batch-size", type=int, default=256, help="images in a batch of one process")
    add("-p", "--print-freq", type=int, default=10, help="print every so many batches; 0 never")
    add("-j", "--workers", type=int, default=workers,
        help="threads (DALI) or DataLoader workers (torch) of each process")
    add("--decode", choices=["jpeg", "none"], default="jpeg",
        help="jpeg: decode, crop, flip, normalise; none: only read the files")
    add("--step-ms", type=float, default=500, help="pause that stands in for a training step")
    add("--seed", type=int, default=0, help="of the loader's own random choices")
    add("--first-epoch", type=int, default=0, help="number of the first epoch")
    add("--no-mmap", action="store_true", help="DALI: read files instead of mapping them")
    add("--keep-pipeline", action="store_true",
        help="DALI: one pipeline for all epochs, so that each process goes on with the next shard")
    add("--stick-to-shard", action="store_true", help="DALI: each process stays with its shard")
    add("--shuffle-after-epoch", action="store_true",
        help="DALI: shuffle the whole list after each epoch instead of the buffer; needs --keep-pipeline")
    add("--stdin", action="store_true",
        help="for programs: say when ready, wait for a line on standard input before each epoch, and print "
        "its result, each as a line of JSON")
    add("--json", metavar="FILE", help="write the results to this file")
    args = parser.parse_args()
    for name in ["epochs", "process", "batch_size"]:
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is at least 1")
    args.rank = int(os.environ.get("RANK", "0"))
    args.world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= args.rank < args.world_size:
        parser.error(f"RANK {args.rank} is not below WORLD_SIZE {args.world_size}")
    inner = os.path.join(args.data[0], "train")
    args.dir = inner if os.path.isdir(inner) else args.data[0]
    if not os.path.isdir(args.dir):
        parser.error(f"{args.dir} is no folder")
    return args


def percentile(values, percent):
    """The nearest rank of `percent` in sorted `values`; 0 for none."""
    if not values:
        return 0.0
    return values[max(0, -(-len(values) * percent // 100) - 1)]


def latency_us(seconds):
    """Percentiles of durations, in microseconds."""
    ordered = sorted(seconds)
    return {"p50_us": percentile(ordered, 50) * 1e6, "p99_us": percentile(ordered, 99) * 1e6,
            "max_us": percentile(ordered, 100) * 1e6}


def cpu_seconds():
    """CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def one_epoch(args, process, epoch, epoch_of):
    """Runs an epoch of one process, from listing the folder to the last step."""
    started = begun = time.perf_counter()
    cpu = cpu_seconds()
    shard = args.rank * args.process + process
    batches, count = epoch_of(args, epoch, shard, args.world_size * args.process)
    images = total_bytes = number = 0
    waits, files = [], []
    for batch_images, batch_bytes, batch_files in batches:
        waits.append(time.perf_counter() - begun)
        images += batch_images
        total_bytes += batch_bytes
        files += batch_files
        number += 1
        time.sleep(args.step_ms / 1e3)
        now = time.perf_counter()
        if args.print_freq and number % args.print_freq == 0:
            print(f"Epoch: [{epoch}][{number}/{count}]\tProcess {process}\t"
                  f"Time {now - begun:.3f} ({(now - started) / number:.3f})\t"
                  f"Data {waits[-1]:.3f} ({sum(waits) / number:.3f})\t"
                  f"Speed {batch_images / (now - begun):.1f} ({images / (now - started):.1f})",
                  file=args.out, flush=True)
        begun = now
    seconds = time.perf_counter() - started
    return {"epoch": epoch, "process": process, "images": images, "bytes": total_bytes, "batches": number,
            "seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "waits": waits, "files": files}


def work(args, process, loader, barrier, results, orders):
    """A process: waits for each epoch, reads it, reports it. The first error ends it, with its story."""
    # Whatever ends the parent, no process goes on loading the machine.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    args.out = sys.stderr if args.stdin else sys.stdout
    epoch_of, modules = loader
    try:
        for module in modules:
            importlib.import_module(module)
        results.put({"process": process})
        while (epoch := orders.get()) is not None:
            barrier.wait(NODES_WAIT_S)
            results.put(one_epoch(args, process, epoch, epoch_of))
    except BaseException:
        results.put({"process": process, "error": traceback.format_exc()})
        raise


def add_up(epoch, parts, seconds):
    """The sum of some processes or nodes."""
    images = sum(part["images"] for part in parts)
    waits = [wait for part in parts for wait in part["waits"]]
    files = [one for part in parts for one in part["files"]]
    return {
        "epoch": epoch,
        "images": images,
        "bytes": sum(part["bytes"] for part in parts),
        "batches": sum(part["batches"] for part in parts),
        "seconds": seconds,
        "images_per_s": images / seconds if seconds > 0 else 0.0,
        "cpu_seconds": sum(part["cpu_seconds"] for part in parts),
        "waits": waits,
        "files": files,
    }


def result_of(summed):
    """What is printed and written: percentiles in place of single times."""
    summed = dict(summed)
    waits, files = summed.pop("waits"), summed.pop("files")
    return {**summed, "batch_wait": latency_us(waits), "file": latency_us(files) if files else None}


def line(who, result):
    """One line for people."""
    wait, file = result["batch_wait"], result["file"]
    text = (f"Epoch {result['epoch']} {who}: {result['images']} images in {result['seconds']:.2f} s, "
            f"{result['images'] / max(result['seconds'], 1e-9):.1f} images/s, "
            f"{result['bytes'] / 1e6 / max(result['seconds'], 1e-9):.0f} MB/s, "
            f"batch wait p50 {wait['p50_us'] / 1e3:.1f} ms p99 {wait['p99_us'] / 1e3:.1f} ms")
    if file:
        text += f", file p50 {file['p50_us'] / 1e3:.2f} ms p99 {file['p99_us'] / 1e3:.2f} ms"
    return text


class Node:
    """The processes of this node."""

    def __init__(self, args, loader):
        # A fresh interpreter each: neither DALI nor torch survives a fork of a process that used it.
        context = multiprocessing.get_context("spawn")
        self.barrier = context.Barrier(args.process)
        self.results = context.Queue(2 * args.process)
        self.orders = [context.Queue(1) for _ in range(args.process)]
        self.processes = [
            context.Process(target=work, args=(args, process, loader, self.barrier, self.results, orders))
            for process, orders in enumerate(self.orders)
        ]
        for process in self.processes:
            process.start()
        self.answers("start")

    def epoch(self, number):
        """Runs one epoch in all of them and returns their parts."""
        for orders in self.orders:
            orders.put(number)
        return self.answers(f"epoch {number}")

    def answers(self, what):
        """One answer of each process, in their order; ends the program if one fails."""
        parts = []
        while len(parts) < len(self.processes):
            try:
                part = self.results.get(timeout=1)
            except queue.Empty:
                dead = [p for p in self.processes if p.exitcode not in (None, 0)]
                if dead and self.results.empty():
                    self.kill()
                    sys.exit(f"a process ended in the middle of its {what}, exit code {dead[0].exitcode}")
                continue
            if "error" in part:
                self.kill()
                sys.exit(f"process {part['process']} failed:\n{part['error']}")
            parts.append(part)
        return sorted(parts, key=lambda part: part["process"])

    def end(self):
        """Lets them end."""
        for orders in self.orders:
            orders.put(None)
        for process in self.processes:
            process.join(NODES_WAIT_S)

    def kill(self):
        """Ends them at once."""
        for process in self.processes:
            process.kill()


def receive(stream):
    """All that a node sends until it closes, as JSON."""
    data = bytearray()
    while chunk := stream.recv(1 << 16):
        data += chunk
        if len(data) > ANSWER_BYTES_MAX:
            raise ValueError("a node sent more than any result can be")
    return json.loads(data)


def cluster(args, sums):
    """Rank 0: the sums of all nodes, epoch by epoch. Others send theirs and return None."""
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if args.rank > 0:
        deadline = time.monotonic() + NODES_WAIT_S
        while True:
            try:
                with socket.create_connection(address, timeout=NODES_WAIT_S) as stream:
                    stream.sendall(json.dumps(sums).encode())
                return None
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    nodes = [sums]
    with socket.create_server(address) as server:
        server.settimeout(NODES_WAIT_S)
        while len(nodes) < args.world_size:
            stream, _ = server.accept()
            with stream:
                nodes.append(receive(stream))
    return [add_up(parts[0]["epoch"], parts, max(part["seconds"] for part in parts)) for parts in zip(*nodes)]


def main(args, epoch_of, modules):
    """Runs all epochs, prints, and writes the JSON. `modules` are what the loader imports: their versions
    are recorded, and no epoch waits for them."""
    versions = {name: importlib.import_module(name).__version__ for name in modules}
    out = sys.stderr if args.stdin else sys.stdout
    node = Node(args, (epoch_of, modules))
    if args.stdin:
        print(json.dumps({"versions": versions}), flush=True)
    sums, per_process = [], []
    for epoch in range(args.first_epoch, args.first_epoch + args.epochs):
        if args.stdin and not sys.stdin.readline():
            break
        parts = node.epoch(epoch)
        # The processes start together, so the epoch is as long as the slowest of them.
        seconds = max(part["seconds"] for part in parts)
        for part in parts:
            shown = result_of(add_up(epoch, [part], part["seconds"]))
            per_process.append({"process": part["process"], **shown})
            print(line(f"process {part['process']}", shown), file=out)
        sums.append(add_up(epoch, parts, seconds))
        shown = result_of(sums[-1])
        print(line(f"sum of {len(parts)} processes", shown), file=out, flush=True)
        if args.stdin:
            print(json.dumps(shown), flush=True)
    node.end()
    if args.world_size > 1 and "MASTER_ADDR" in os.environ:
        sums = cluster(args, sums)
        for result in sums or []:
            print(line(f"sum of {args.world_size} nodes", result_of(result)), file=out)
    elif args.world_size > 1:
        print(f"rank {args.rank} of {args.world_size} alone: set MASTER_ADDR and MASTER_PORT for the sum of "
              "all nodes", file=out)
    if args.json and sums is not None:
        written = {"versions": versions, "arguments": {k: v for k, v in vars(args).items() if k != "out"},
                   "epochs": [result_of(result) for result in sums], "processes": per_process}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(written, file, indent=2)
            file.write("\n")
