"""A plugin: processes that import it train with :func:`fakes.train`, and know few truths."""

import functools

import fakes

from threestudio_asd.compare.measure import figures
from threestudio_asd.compare.run import runner

runner.train = fakes.train
figures.truth_images = functools.partial(figures.truth_images, count=12)
