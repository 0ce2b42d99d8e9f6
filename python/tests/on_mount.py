"""One thing done with the package on a real mount: on_mount.py WHAT FOLDER; prints JSON. Run by the tests of the CLI."""

import json
import os
import sys

import feedline
from fakes import Heard, ImageFolder, RandomSampler


def sampler(folder):
    """Begins an epoch and reads nothing."""
    dataset = ImageFolder(folder)
    wrapped = feedline.Sampler(RandomSampler(dataset), dataset, strict=True)
    order = list(wrapped)
    assert order == list(RandomSampler(dataset)) != sorted(order), order
    names = [os.path.relpath(dataset.samples[index][0], folder) for index in order]
    told = wrapped.last_hint
    return {"sent": told.sent, "files": told.files, "matched": told.matched, "order": names, "read": 0}


def epochs(folder):
    """Three epochs of two ranks, one after the other, read in their order."""
    dataset = ImageFolder(folder)
    images = total = 0
    for epoch in range(3):
        for rank in range(2):
            wrapped = feedline.Sampler(RandomSampler(dataset, rank, 2), dataset, strict=True)
            wrapped.set_epoch(epoch)
            for index in wrapped:
                with open(dataset.samples[index][0], "rb") as file:
                    total += len(file.read())
                images += 1
    return {"epochs": 3, "images": images, "bytes": total}


def hostile(folder):
    """Hints of which nothing can be taken."""
    calls = [
        ({"files": ["absent/1.jpg", "../../etc/passwd", "/etc/passwd", ""]}, "none of the 4 entries"),
        ({"files": [b"c0/\xff.jpg"]}, "can name a file"),
        ({"files": ["c0/000.jpg"] * 70_000}, "at most 65536"),
        ({"positions": [6, 7, 2**32 - 1]}, "none of the 3 entries"),
        ({"positions": [-1, 2**40]}, "can name a file"),
        ({"torch_seeds": list(range(10_001))}, "at most 10000"),
        ({"files": ["\n" * 4_000]}, "none of the 1 entries"),
    ]
    refused = 0
    for order, words in calls:
        try:
            feedline.hint(folder, strict=True, **order)
        except feedline.HintError as error:
            assert words in str(error), (words, str(error))
            refused += 1
        with Heard() as heard:
            assert not feedline.hint(folder, **order)
        assert len(heard.messages) <= 1, heard.messages
    for path, words in ((f"{folder}/absent", "no such"), (f"{folder}/c0/000.jpg", "is a file")):
        try:
            feedline.hint(path, files=["a"], strict=True)
        except feedline.HintError as error:
            assert words in str(error), (words, str(error))
            refused += 1
    assert refused == len(calls) + 2, refused
    return {"refused": refused}


def mixed(folder):
    """Entries that name files among others that name none."""
    with Heard() as heard:
        told = feedline.hint(folder, files=["c0/000.jpg", b"\xff", "absent", os.path.join(folder, "c2/005.jpg")])
    assert len(heard.messages) == 1 and "2 of 4 entries" in heard.messages[0], heard.messages
    return {"files": told.files, "matched": told.matched}


def unmounted(folder):
    """The folder is no mount any more."""
    with Heard() as heard:
        told = feedline.hint(folder, files=["c0/000.jpg"])
        order = list(feedline.Sampler([1, 0], [f"{folder}/c0/000.jpg", f"{folder}/c0/001.jpg"]))
    assert order == [1, 0], order
    return {"sent": told.sent, "logged": len(heard.messages)}


def path_and_length(path):
    """A loader for ImageFolder that decodes nothing."""
    with open(path, "rb") as file:
        return path, len(file.read())


def real_torch(folder):
    """Samplers of torch in a DataLoader with two workers: RandomSampler, a Subset's, two ranks' DistributedSampler."""
    import torch
    from torch.utils.data import DataLoader, DistributedSampler, RandomSampler as TorchRandom, Subset
    from torchvision.datasets import ImageFolder as TorchFolder

    def seeded(dataset):
        return TorchRandom(dataset, generator=torch.Generator().manual_seed(7))

    whole = TorchFolder(folder, loader=path_and_length)
    half = Subset(whole, range(0, len(whole), 2))
    cases = [(whole, seeded), (half, seeded)]
    cases += [(whole, lambda ds, rank=rank: DistributedSampler(ds, 2, rank, seed=3)) for rank in range(2)]
    images = total = 0
    for dataset, make in cases:
        wrapped = feedline.Sampler(make(dataset), dataset, strict=True)
        plain = list(make(dataset))
        loader = DataLoader(dataset, batch_size=4, sampler=wrapped, num_workers=2, collate_fn=list)
        samples = [sample for batch in loader for sample, _ in batch]
        expected = [whole.samples[index * 2 if dataset is half else index][0] for index in plain]
        assert [path for path, _ in samples] == expected, samples
        assert (len(wrapped), wrapped.last_hint.matched) == (len(plain), len(plain)), wrapped.last_hint
        images += len(samples)
        total += sum(length for _, length in samples)
    return {"images": images, "bytes": total}


if __name__ == "__main__":
    what = {one.__name__: one for one in (sampler, epochs, hostile, mixed, unmounted, real_torch)}[sys.argv[1]]
    print(json.dumps(what(sys.argv[2])))
