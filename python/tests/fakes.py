"""A daemon that writes down what it is told, and samplers and data sets like torch's without torch."""

import contextlib
import http.server
import json
import logging
import os
import random
import socketserver
import threading


# Only what a test listens to counts; nothing is printed.
logging.getLogger("feedline").addHandler(logging.NullHandler())


class FakeDaemon:
    """Registers for ``mountpoint`` in ``run_dir`` and answers every hint with ``answer``."""

    def __init__(self, run_dir, mountpoint, sources=("s3://b",)):
        self.hints = []
        self.answer = None
        self.status = 200
        folder = os.path.join(run_dir, os.path.basename(mountpoint))
        os.makedirs(folder)
        entry = {"mountpoint": mountpoint, "sources": list(sources), "pid": 1}
        with open(os.path.join(folder, "mount.json"), "w", encoding="utf-8") as file:
            json.dump(entry, file)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """One request."""

            def do_POST(self):
                """Writes the body down."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.hints.append((self.path, json.loads(body)))
                entries = next(iter(outer.hints[-1][1]["order"].values()))
                answer = outer.answer
                if answer is None:
                    answer = json.dumps({"files": len(entries), "matched": len(entries)}).encode()
                self.send_response(outer.status)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(answer)

            def address_string(self):
                return "socket"

            def log_message(self, *_):
                """Nothing."""

        self.server = socketserver.ThreadingUnixStreamServer(os.path.join(folder, "admin.sock"), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def orders(self):
        """The orders told so far."""
        return [hint["order"] for _, hint in self.hints]

    def stop(self):
        """Ends it; its socket file stays, as that of a daemon that was killed."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class ImageFolder:
    """What torchvision's ImageFolder has: root and samples."""

    def __init__(self, root):
        self.root = root
        self.samples = []
        for index, name in enumerate(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())):
            for file in sorted(os.listdir(os.path.join(root, name))):
                self.samples.append((os.path.join(root, name, file), index))

    def __len__(self):
        return len(self.samples)


class Listed:
    """A data set that is a list of samples."""

    def __init__(self, root, names):
        self.root = root
        self.samples = [(f"{root}/{name}", 0) for name in names]

    def __len__(self):
        return len(self.samples)


class RandomSampler:
    """Another order in each epoch, of a rank's part: torch's RandomSampler and DistributedSampler in one."""

    def __init__(self, dataset, rank=0, ranks=1):
        self.dataset, self.rank, self.ranks, self.epoch = dataset, rank, ranks, 0

    def set_epoch(self, epoch):
        """As DistributedSampler's."""
        self.epoch = epoch

    def __iter__(self):
        order = list(range(len(self.dataset)))
        random.Random(self.epoch).shuffle(order)
        return iter(order[self.rank :: self.ranks])

    def __len__(self):
        return len(range(self.rank, len(self.dataset), self.ranks))


class Heard(logging.Handler):
    """What the package logged, while it is entered."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("feedline").addHandler(self)
        return self

    def __exit__(self, *_):
        logging.getLogger("feedline").removeHandler(self)
