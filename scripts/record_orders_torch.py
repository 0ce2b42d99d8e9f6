#!/usr/bin/env python3
"""Records in which order real torch reads a data set, for crates/oracle/tests/golden/torch.txt.

The committed file was made by torch 1.13.0 of Debian 12 (python3-torchvision, which brings python3-torch):

    apt-get install --no-install-recommends python3-torchvision
    /usr/bin/python3 scripts/record_orders_torch.py > crates/oracle/tests/golden/torch.txt

Three kinds of lines; after the colon stand positions in the listing, and every hash is a 64-bit FNV-1a over
little-endian u32:

    randperm SEED FILES HASH: first 32 places
    sampler FILES SEED EPOCH RANKS RANK DROP_LAST SHUFFLE OPENS HASH: first 40 places
    worker FILES SEED EPOCH RANKS RANK WORKERS BATCH WORKER OPENS HASH: first 40 places

A worker's line holds what one process of the DataLoader opened, in its order: the data set notes its process
id at every item.
"""

import os

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class Positions(Dataset):
    """A data set whose items are their positions and the process that read them."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return self.files

    def __getitem__(self, index):
        return index, os.getpid()


def fnv(positions):
    """64-bit FNV-1a over little-endian 32-bit numbers."""
    value = 0xCBF29CE484222325
    for position in positions:
        for byte in position.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def show(positions, first):
    """The hash and the first positions, as they stand on a line."""
    return f"{fnv(positions):016x}: " + " ".join(map(str, positions[:first]))


def randperms():
    for files in (1, 2, 10, 1000, 65537):
        for seed in (0, 1, 42, 200, 524287, 2**32 + 5, 2**63 + 11):
            generator = torch.Generator()
            generator.manual_seed(seed - 2**64 if seed >= 2**63 else seed)
            order = torch.randperm(files, generator=generator).tolist()
            print("randperm", seed, files, show(order, 32))


def samplers():
    for files in (10, 1000, 1003):
        for seed, epoch in ((0, 0), (0, 3), (42, 1), (100, 100)):
            for ranks, rank in ((1, 0), (3, 0), (3, 2), (8, 5)):
                for drop_last in (False, True):
                    for shuffle in (True, False):
                        sampler = DistributedSampler(
                            Positions(files), num_replicas=ranks, rank=rank, seed=seed,
                            shuffle=shuffle, drop_last=drop_last,
                        )
                        sampler.set_epoch(epoch)
                        order = list(sampler)
                        print("sampler", files, seed, epoch, ranks, rank, int(drop_last), int(shuffle),
                              len(order), show(order, 40))


def workers():
    for files, seed, epoch, ranks, rank, count, batch in (
        (1003, 0, 0, 1, 0, 4, 16), (1003, 0, 2, 2, 1, 4, 16), (1000, 42, 0, 2, 0, 3, 5), (1000, 7, 1, 8, 3, 2, 32),
    ):
        data = Positions(files)
        sampler = DistributedSampler(data, num_replicas=ranks, rank=rank, seed=seed)
        sampler.set_epoch(epoch)
        loader = DataLoader(data, batch_size=batch, sampler=sampler, num_workers=count)
        opened = {}
        for positions, processes in loader:
            for position, process in zip(positions.tolist(), processes.tolist()):
                opened.setdefault(process, []).append(position)
        for worker, positions in enumerate(opened.values()):
            print("worker", files, seed, epoch, ranks, rank, count, batch, worker, len(positions),
                  show(positions, 40))


if __name__ == "__main__":
    randperms()
    samplers()
    workers()
