#!/usr/bin/env python3
"""The reference benchmark with real NVIDIA DALI, on the CPU: processes load ImageNet-like data, a pause
stands in for the training step.

    bench/dali_train.py DIR... --epochs 3 --process 8 --batch-size 256

Each process reads its own shard through DALI's file reader (`random_shuffle`), decodes, crops, flips and
normalises. The pipeline is built anew in every epoch, as in the reference script: each process lists the
folder again and stays with its shard; other flags of the reader are there to see what they do. `scripts/setup loaders` installs DALI into `.venv-dali`.
"""

import training

IMAGE = 224
# The usual mean and standard deviation of ImageNet's pixels.
MEAN = [0.485 * 255, 0.456 * 255, 0.406 * 255]
STD = [0.229 * 255, 0.224 * 255, 0.225 * 255]
PAGE_BYTES = 4096


def pipeline(args, shard, shards):
    """DALI's pipeline of one process."""
    from nvidia.dali import Pipeline, fn, types

    pipe = Pipeline(batch_size=args.batch_size, num_threads=max(args.workers, 1), device_id=None,
                    seed=12 + args.seed + shard)
    with pipe:
        jpegs, _labels = fn.readers.file(
            file_root=args.dir, random_shuffle=not args.shuffle_after_epoch, shard_id=shard,
            num_shards=shards, stick_to_shard=args.stick_to_shard,
            shuffle_after_epoch=args.shuffle_after_epoch, pad_last_batch=True,
            dont_use_mmap=args.no_mmap, name="Reader")
        sizes = jpegs.shape()
        if args.decode == "none":
            pipe.set_outputs(jpegs, sizes)
            return pipe
        images = fn.decoders.image_random_crop(
            jpegs, device="cpu", output_type=types.RGB, random_aspect_ratio=[0.75, 4 / 3],
            random_area=[0.08, 1.0], num_attempts=100)
        images = fn.resize(images, device="cpu", resize_x=IMAGE, resize_y=IMAGE,
                           interp_type=types.INTERP_TRIANGULAR)
        images = fn.crop_mirror_normalize(
            images, device="cpu", dtype=types.FLOAT, output_layout="CHW", crop=(IMAGE, IMAGE),
            mean=MEAN, std=STD, mirror=fn.random.coin_flip(probability=0.5))
        pipe.set_outputs(images, sizes)
    return pipe


# Of this process, with --keep-pipeline.
KEPT = []


def built(args, shard, shards):
    """A pipeline that is ready: a new one, or that of the epoch before."""
    if KEPT:
        return KEPT[0]
    pipe = pipeline(args, shard, shards)
    pipe.build()
    if args.keep_pipeline:
        KEPT.append(pipe)
    return pipe


def epoch_of(args, epoch, shard, shards):
    """The batches of one epoch of one shard, and how many there are."""
    pipe = built(args, shard, shards)
    count = pipe.reader_meta("Reader")["epoch_size"]
    goes_on = args.keep_pipeline and not args.stick_to_shard and not args.shuffle_after_epoch
    shard = (shard + (epoch - args.first_epoch if goes_on else 0)) % shards
    # As DALI rounds its shards.
    images = count * (shard + 1) // shards - count * shard // shards
    # A kept reader pads all shards to the same number of batches.
    most = -(-count // shards) if args.keep_pipeline else images
    batches = -(-most // args.batch_size)
    return run(args, pipe, images, batches), batches


def run(args, pipe, images, batches):
    """Yields what each batch held. Batches of the next epoch are not asked for."""
    scheduled = 0
    while scheduled < min(batches, pipe.prefetch_queue_depth):
        pipe.schedule_run()
        scheduled += 1
    left = images
    for _ in range(batches):
        data, sizes = pipe.share_outputs()
        # The last batch is filled up with repetitions, which do not count.
        held = min(left, args.batch_size)
        total_bytes = sum(int(sizes.at(i)[0]) for i in range(held))
        if args.decode == "none":
            for i in range(held):
                # A mapped file is read when its pages are touched.
                data.at(i)[::PAGE_BYTES].sum()
        pipe.release_outputs()
        if scheduled < batches:
            pipe.schedule_run()
            scheduled += 1
        left -= held
        yield held, total_bytes, []


def main():
    """The command."""
    training.main(training.arguments(__doc__.split("\n\n")[0], workers=1), epoch_of, ["nvidia.dali"])


if __name__ == "__main__":
    main()
