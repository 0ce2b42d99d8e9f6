#!/usr/bin/env python3
"""The reference benchmark with real torch, on the CPU: ImageFolder, DistributedSampler and DataLoader load
ImageNet-like data, a pause stands in for the training step.

    bench/torch_train.py DIR... --epochs 3 --process 1 --workers 4 --batch-size 256

`scripts/setup loaders` installs torch and torchvision (Debian's python3-torchvision). Run it with the
Python that has them, /usr/bin/python3 on Debian.
"""

import time

import training

IMAGE = 224
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def read_bytes(path):
    """A loader that only reads: how many bytes there were and how long open, read and close took."""
    started = time.perf_counter()
    with open(path, "rb") as file:
        length = len(file.read())
    return length, time.perf_counter() - started


def timed_pil(path):
    """torchvision's own loader, timed: decoding included. Returns the image, its bytes and the time."""
    from PIL import Image

    started = time.perf_counter()
    with open(path, "rb") as file:
        image = Image.open(file).convert("RGB")
        length = file.seek(0, 2)
    return image, length, time.perf_counter() - started


def collate_bytes(samples):
    """A batch of files that were only read."""
    return len(samples), sum(size for (size, _), _ in samples), [seconds for (_, seconds), _ in samples]


class Decoded:
    """Applies torchvision's transforms to the image and keeps size and time beside it."""

    def __init__(self):
        from torchvision import transforms

        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(IMAGE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=MEAN, std=STD),
        ])

    def __call__(self, loaded):
        image, length, seconds = loaded
        return self.transform(image), length, seconds


def collate_images(samples):
    """A batch of decoded images, stacked as a training loop wants them."""
    import torch

    images = torch.stack([image for (image, _, _), _ in samples])
    return (images.shape[0], sum(size for (_, size, _), _ in samples),
            [seconds for (_, _, seconds), _ in samples])


def epoch_of(args, epoch, shard, shards):
    """The batches of one epoch of one rank, and how many there are."""
    import torch
    from torch.utils.data import DataLoader
    from torch.utils.data.distributed import DistributedSampler
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(1)
    decode = args.decode == "jpeg"
    dataset = ImageFolder(args.dir, transform=Decoded() if decode else None,
                          loader=timed_pil if decode else read_bytes)
    sampler = DistributedSampler(dataset, num_replicas=shards, rank=shard, shuffle=True, seed=args.seed)
    sampler.set_epoch(epoch)
    # Forked, as in a program that torchrun started: this process was spawned, and would hand that on.
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.workers,
                        collate_fn=collate_images if decode else collate_bytes,
                        multiprocessing_context="fork" if args.workers else None)
    return loader, len(loader)


def main():
    """The command."""
    args = training.arguments(__doc__.split("\n\n")[0], workers=4)
    training.main(args, epoch_of, ["torch", "torchvision"])


if __name__ == "__main__":
    main()
