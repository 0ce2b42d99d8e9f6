"""Tells a Feedline mount in which order a training job will read.

A mount fetches ahead of the reads. It recognises the usual orders by itself; this package is for those that
nobody could recognise: torch's ``RandomSampler``, a sampler of one's own, a file list::

    sampler = feedline.Sampler(RandomSampler(ds), ds)

Nothing here raises into a training loop, and nothing happens on a path that is no Feedline mount.
"""

from ._dali import dali_hint
from ._daemon import HintError
from ._hint import Outcome, hint
from ._sampler import Sampler

__all__ = ["HintError", "Outcome", "Sampler", "dali_hint", "hint"]
