"""The package against a daemon that writes down what it is told: `python -m unittest discover python/tests`."""

import copy
import itertools
import os
import pathlib
import pickle
import stat
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import feedline  # noqa: E402
from fakes import FakeDaemon, Heard, Listed, RandomSampler  # noqa: E402
from feedline import _daemon, _dali, _hint  # noqa: E402

GOLDEN = HERE.parent.parent / "crates/oracle/tests/golden/std_shuffle.txt"
NAMES = [f"c{index // 4}/{index:02}.jpg" for index in range(12)]


class WithDaemon(unittest.TestCase):
    """A daemon for MOUNT, which does not exist: nothing here touches the files."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="feedline-py-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.run = os.path.join(self.folder, "run")
        self.mount = os.path.join(self.folder, "mnt")
        self.set = os.path.join(self.mount, "set")
        self.daemon = FakeDaemon(self.run, self.mount)
        self.running = True
        self.addCleanup(self.stop)
        old = os.environ.get("FEEDLINE_RUN_DIR")
        os.environ["FEEDLINE_RUN_DIR"] = self.run
        self.addCleanup(os.environ.__setitem__, "FEEDLINE_RUN_DIR", old or "")
        _hint._warned.clear()
        self.dataset = Listed(self.set, NAMES)

    def stop(self):
        if self.running:
            self.running = False
            self.daemon.stop()


class Hints(WithDaemon):
    """feedline.hint"""

    def test_files_are_told_below_the_folder_however_they_are_named(self):
        os.makedirs(self.set)
        link = os.path.join(self.folder, "link")
        os.symlink(self.set, link)
        files = [f"{self.set}/a/1.jpg", b"a/2.jpg", pathlib.Path(self.set, "b", "ü 3.jpg"), "./c/4.jpg"]
        outcome = feedline.hint(self.set, files=files)
        self.assertEqual(outcome, feedline.Outcome(True, 4, 4))
        self.assertTrue(outcome)
        self.assertTrue(feedline.hint(link, files=[f"{link}/a/1.jpg", f"{self.set}/a/2.jpg"], strict=True))
        self.assertEqual(
            self.daemon.hints,
            [
                ("/v1/hint", {"path": "set", "from": os.getpid(), "order": {"files": ["a/1.jpg", "a/2.jpg", "b/ü 3.jpg", "c/4.jpg"]}}),
                ("/v1/hint", {"path": "set", "from": os.getpid(), "order": {"files": ["a/1.jpg", "a/2.jpg"]}}),
            ],
        )

    def test_positions_and_seeds_are_told_and_those_that_can_name_nothing_are_not(self):
        with Heard() as heard:
            outcome = feedline.hint(self.set, positions=iter([3, -1, 2**32, True]))
            feedline.hint(self.mount, torch_seeds=[0, 2**64 - 1, 2**64])
        self.assertEqual(repr(self.daemon.orders()[0]), "{'positions': [3, 1]}")
        self.assertEqual(self.daemon.orders(), [{"positions": [3, 1]}, {"torch_seeds": [0, 2**64 - 1]}])
        self.assertIn("2 of 4 entries", outcome.message)
        self.assertEqual(len(heard.messages), 2)

    def test_names_that_are_not_utf8_are_left_out(self):
        with Heard() as heard:
            outcome = feedline.hint(self.set, files=[b"a/\xff.jpg", "a/\udcfe.jpg", "a/1.jpg"])
        self.assertEqual(self.daemon.orders(), [{"files": ["a/1.jpg"]}])
        self.assertEqual((outcome.sent, outcome.matched), (True, 1))
        self.assertIn("2 of 3 entries", heard.messages[0])
        with self.assertRaisesRegex(feedline.HintError, "no entry of the order can name a file"):
            feedline.hint(self.set, files=[b"\xff"], strict=True)

    def test_a_path_that_is_no_mount_is_nobodys_business(self):
        with Heard() as heard:
            outcome = feedline.hint("/etc", files=["passwd"])
            self.assertFalse(outcome)
            self.assertIn("no folder that Feedline has mounted", outcome.message)
            self.assertFalse(feedline.hint(self.mount + "ed", files=["a"]))
            self.assertFalse(feedline.hint("/etc", files=["a"], run_dir="/nonexistent/run"))
        self.assertEqual((heard.messages, self.daemon.hints), ([], []))
        with self.assertRaises(feedline.HintError):
            feedline.hint("/etc", files=["passwd"], strict=True)

    def test_trouble_is_logged_once_and_raised_only_if_strict(self):
        wrong = [
            lambda strict: feedline.hint(self.set, strict=strict),
            lambda strict: feedline.hint(self.set, files=["a"], positions=[1], strict=strict),
            lambda strict: feedline.hint(self.set, files="a.jpg", strict=strict),
            lambda strict: feedline.hint(self.set, files=[1], strict=strict),
            lambda strict: feedline.hint(self.set, positions=[0.5], strict=strict),
            lambda strict: feedline.hint(self.set, positions=[], strict=strict),
        ]
        for call in wrong:
            with self.assertRaises(feedline.HintError):
                call(True)
            _hint._warned.clear()
            with Heard() as heard:
                self.assertFalse(call(False))
                self.assertFalse(call(False))
            self.assertEqual(len(heard.messages), 1, heard.messages)
        self.assertEqual(self.daemon.hints, [])

    def test_what_a_daemon_answers_may_be_anything(self):
        for answer, status, words in [
            (b'{"message": "none of the 1 entries", "kind": "bad_request"}', 400, "none of the 1 entries"),
            (b"no such endpoint", 404, "older"),
            (b"", 200, "no JSON"),
            (b"[1]", 200, "no JSON"),
            (b"{}", 200, "makes no sense"),
            (b'{"files": null, "matched": 1}', 200, "makes no sense"),
            (b"\xff" * 3_000_000, 200, "no JSON"),
        ]:
            self.daemon.answer, self.daemon.status = answer, status
            self.assertFalse(feedline.hint(self.set, files=["a"]))
            with self.assertRaisesRegex(feedline.HintError, words):
                feedline.hint(self.set, files=["a"], strict=True)

    def test_a_daemon_that_died_is_no_trouble(self):
        self.stop()
        with Heard() as heard:
            self.assertFalse(feedline.hint(self.set, files=["a"]))
            self.assertFalse(feedline.hint(self.set, files=["a"]))
        self.assertEqual(len(heard.messages), 1)
        self.assertIn("no Feedline daemon serves", heard.messages[0])

    def test_an_order_that_no_daemon_takes_is_not_sent(self):
        limit, _daemon.BODY_BYTES_MAX = _daemon.BODY_BYTES_MAX, 100
        self.addCleanup(setattr, _daemon, "BODY_BYTES_MAX", limit)
        with self.assertRaisesRegex(feedline.HintError, "send positions"):
            feedline.hint(self.set, files=["a/1.jpg"] * 100, strict=True)
        self.assertEqual(self.daemon.hints, [])


class Finding(WithDaemon):
    """Which daemon serves a path."""

    def test_the_deepest_mount_wins(self):
        inner = FakeDaemon(self.run, os.path.join(self.mount, "inner"))
        self.addCleanup(inner.stop)
        feedline.hint(os.path.join(self.mount, "inner", "x"), files=["a"], strict=True)
        self.assertEqual([hint["path"] for _, hint in inner.hints], ["x"])
        self.assertEqual(self.daemon.hints, [])

    def test_a_run_directory_that_another_could_have_made_is_not_believed(self):
        everybodys = os.path.join(self.folder, "tmp")
        os.mkdir(everybodys)
        os.chmod(everybodys, 0o1777)
        planted = os.path.join(everybodys, "feedline-0")
        os.rename(self.run, planted)
        os.chmod(planted, 0o755)
        with self.assertRaisesRegex(feedline.HintError, "not a private directory"):
            feedline.hint(self.set, files=["a"], strict=True, run_dir=planted)
        self.assertFalse(feedline.hint(self.set, files=["a"], run_dir=planted))
        os.chmod(planted, 0o700)
        self.assertTrue(feedline.hint(self.set, files=["a"], run_dir=planted))
        os.symlink(planted, os.path.join(everybodys, "link"))
        self.assertFalse(feedline.hint(self.set, files=["a"], run_dir=os.path.join(everybodys, "link")))
        self.assertTrue(stat.S_ISDIR(os.lstat(planted).st_mode))

    def test_damaged_registrations_are_passed_over(self):
        for index, text in enumerate([b"", b"[]", b"{}", b'{"mountpoint": 1, "sources": 2}', b"\xff"]):
            folder = os.path.join(self.run, f"damaged-{index}")
            os.mkdir(folder)
            pathlib.Path(folder, "mount.json").write_bytes(text)
        pathlib.Path(self.run, "file").write_bytes(b"")
        self.assertTrue(feedline.hint(self.set, files=["a"], strict=True))

    def test_a_mount_seen_in_a_container_is_known_by_its_source(self):
        mountinfo = (
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
            "30 22 0:50 /train\\040set /data rw shared:1 - fuse.feedline s3://b rw\n"
            "31 30 0:51 / /data/other rw - tmpfs tmpfs rw\n"
            "damaged\n"
        )
        mount = _daemon.mount_of("/data/c0", mountinfo)
        self.assertEqual(mount, ("/data", "/train set", "s3://b"))
        self.assertIsNone(_daemon.mount_of("/data/other/x", mountinfo))
        self.assertIsNone(_daemon.mount_of("/database", mountinfo))
        known = _daemon.daemons(self.run)
        daemon, below = _daemon._in_container("/data/c0", mount, known, self.run)
        self.assertEqual((daemon.mountpoint, below), (self.mount, "train set/c0"))
        with self.assertRaisesRegex(feedline.HintError, "FEEDLINE_RUN_DIR"):
            _daemon._in_container("/data/c0", mount._replace(source="s3://other"), known, self.run)


class Samplers(WithDaemon):
    """feedline.Sampler"""

    def test_each_epoch_is_told_and_yielded_as_drawn(self):
        plain = RandomSampler(self.dataset)
        sampler = feedline.Sampler(RandomSampler(self.dataset), self.dataset)
        for epoch in range(3):
            plain.set_epoch(epoch)
            sampler.set_epoch(epoch)
            order = list(plain)
            self.assertEqual(list(sampler), order)
            self.assertEqual(self.daemon.orders()[epoch], {"files": [NAMES[index] for index in order]})
            self.assertEqual(sampler.last_hint, feedline.Outcome(True, 12, 12))
        self.assertEqual(len(self.daemon.hints), 3)

    def test_each_rank_tells_its_own_part(self):
        for rank in range(3):
            sampler = feedline.Sampler(RandomSampler(self.dataset, rank, 3), self.dataset)
            self.assertEqual(len(sampler), 4)
            order = list(sampler)
            self.assertEqual(self.daemon.orders()[rank], {"files": [NAMES[index] for index in order]})

    def test_it_is_the_wrapped_sampler_in_everything_else(self):
        sampler = feedline.Sampler(RandomSampler(self.dataset), self.dataset)
        sampler.epoch = 5
        self.assertEqual((sampler.epoch, sampler._sampler.epoch, sampler.ranks), (5, 5, 1))
        self.assertFalse(hasattr(sampler, "absent"))
        for copied in (copy.copy(sampler), copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
            self.assertIsInstance(copied, feedline.Sampler)
            self.assertEqual(list(copied), list(sampler))
        self.assertIn("RandomSampler", repr(sampler))

    def test_batches_subsets_joined_sets_and_lists_of_paths_are_understood(self):
        class Subset:
            dataset, indices = self.dataset, [5, 3, 1]

        class Joined:
            datasets, cumulative_sizes = [Subset, self.dataset], [3, 15]

        batches = [[0, 2], (1,)]
        sampler = feedline.Sampler(batches, Subset, strict=True)
        self.assertEqual(list(sampler), batches)
        self.assertEqual(list(feedline.Sampler([2, 3, 14], Joined, self.set, strict=True)), [2, 3, 14])
        paths = [f"{self.set}/{name}" for name in NAMES]
        self.assertEqual(list(feedline.Sampler(iter([7]), paths, strict=True)), [7])
        told = [[NAMES[5], NAMES[1], NAMES[3]], [NAMES[1], NAMES[0], NAMES[11]], [NAMES[7]]]
        self.assertEqual(self.daemon.orders(), [{"files": files} for files in told])
        self.assertEqual([hint["path"] for _, hint in self.daemon.hints], ["set"] * 3)

    def test_indices_that_make_no_sense_are_yielded_and_not_told(self):
        drawn = [3, -1, 12, 10**30, 3]
        sampler = feedline.Sampler(drawn, self.dataset)
        with Heard() as heard:
            self.assertEqual(list(sampler), drawn)
            self.assertEqual(list(sampler), drawn)
        self.assertEqual(self.daemon.orders(), [{"files": [NAMES[3], NAMES[3]]}] * 2)
        self.assertEqual(len(heard.messages), 1)
        self.assertIn("3 of 5 indices", heard.messages[0])
        for odd in (["a", None], [99], []):
            sampler = feedline.Sampler(odd, self.dataset)
            self.assertEqual(list(sampler), odd)
            self.assertFalse(sampler.last_hint)
            with self.assertRaises(feedline.HintError):
                list(feedline.Sampler(odd, self.dataset, strict=True))

    def test_a_sampler_without_an_end_is_told_as_far_as_it_makes_sense(self):
        sampler = feedline.Sampler(itertools.count(), self.dataset)
        self.assertEqual(list(itertools.islice(sampler, 70_000)), list(range(70_000)))
        self.assertEqual(self.daemon.orders(), [{"files": NAMES}])

    def test_a_data_set_without_paths_is_no_trouble(self):
        sampler = feedline.Sampler([1, 0], object())
        with Heard() as heard:
            self.assertEqual((list(sampler), list(sampler)), ([1, 0], [1, 0]))
        self.assertEqual(len(heard.messages), 1)
        self.assertIn("list of its paths", heard.messages[0])

    def test_on_files_of_no_mount_nothing_is_drawn_ahead(self):
        drawn = []
        source = (drawn.append(index) or index for index in range(10))
        sampler = feedline.Sampler(source, Listed("/etc", NAMES))
        with Heard() as heard:
            self.assertEqual(next(iter(sampler)), 0)
        self.assertEqual((drawn, heard.messages, self.daemon.hints), ([0], [], []))

    def test_a_sampler_that_fails_fails_as_without_the_wrapper(self):
        def failing():
            yield 1
            raise KeyError("mine")

        with self.assertRaises(KeyError):
            list(feedline.Sampler(failing(), self.dataset))


class Dali(WithDaemon):
    """feedline.dali_hint"""

    def test_a_folder_needs_no_hint(self):
        for options in ({}, {"random_shuffle": True}, {"shuffle_after_epoch": True}):
            outcome = feedline.dali_hint(self.set, **options)
            self.assertFalse(outcome)
            self.assertIn("nothing is needed", outcome.message)
        self.assertIn("each epoch", feedline.dali_hint(self.set, files=NAMES, shuffle_after_epoch=True).message)
        self.assertEqual(self.daemon.hints, [])

    def test_a_list_is_told_from_the_shard_of_the_process_on(self):
        names = NAMES[::-1]
        feedline.dali_hint(self.set, files=names, strict=True)
        feedline.dali_hint(self.set, files=names, shard_id=1, num_shards=5, strict=True)
        feedline.dali_hint(self.set, files=names, shard_id=4, num_shards=5, stick_to_shard=True, strict=True)
        self.assertEqual(
            [order["files"] for order in self.daemon.orders()], [names, names[2:] + names[:2], names[9:]]
        )
        absolute = [f"{self.set}/{name}" for name in names]
        feedline.dali_hint(files=absolute, strict=True)
        self.assertEqual(self.daemon.hints[-1], ("/v1/hint", {"path": "set", "from": os.getpid(), "order": {"files": names}}))

    def test_a_file_list_is_read_as_dali_reads_it(self):
        listed = os.path.join(self.folder, "list.txt")
        pathlib.Path(listed).write_bytes(b"c0/a b.jpg 0\nc1/2.jpg\t17 \n\nc2/3.jpg -1\n")
        feedline.dali_hint(self.set, file_list=listed, strict=True)
        self.assertEqual(self.daemon.orders(), [{"files": ["c0/a b.jpg", "c1/2.jpg", "c2/3.jpg"]}])
        with Heard() as heard:
            self.assertFalse(feedline.dali_hint(self.set, file_list=listed + ".absent"))
            self.assertFalse(feedline.dali_hint(self.set, file_list=listed, files=NAMES))
            self.assertFalse(feedline.dali_hint(self.set, files=[]))
            self.assertFalse(feedline.dali_hint(self.set, files=NAMES, shard_id=2, num_shards=2))
        self.assertGreaterEqual(len(heard.messages), 2)

    def test_a_shuffled_list_is_told_as_dali_shuffles_it(self):
        feedline.dali_hint(self.set, files=NAMES, random_shuffle=True, strict=True)
        expected = list(NAMES)
        _dali.std_shuffle(expected, _dali.DALI_SEED)
        self.assertEqual(self.daemon.orders(), [{"files": expected}])
        self.assertNotEqual(expected, NAMES)

    def test_the_shuffle_is_that_of_the_library(self):
        sizes = 0
        for line in GOLDEN.read_text(encoding="utf-8").splitlines():
            head, _, tail = line.partition(" |")
            count, digest, *first = head.split(" ")
            first, last = [int(place) for place in first], [int(place) for place in tail.split()]
            order = list(range(int(count)))
            _dali.std_shuffle(order, _dali.DALI_SEED)
            self.assertEqual((order[: len(first)], order[len(order) - len(last) :]), (first, last), count)
            if len(order) <= 10_000:
                self.assertEqual(_fnv(order), int(digest, 16), count)
            sizes += 1
        self.assertEqual(sizes, 15)


def _fnv(order):
    """FNV-1a over the places as 32-bit words, as the golden file has it."""
    digest = 0xCBF2_9CE4_8422_2325
    for byte in itertools.chain.from_iterable(place.to_bytes(4, "little") for place in order):
        digest = ((digest ^ byte) * 0x0100_0000_01B3) & 0xFFFF_FFFF_FFFF_FFFF
    return digest


if __name__ == "__main__":
    unittest.main()
