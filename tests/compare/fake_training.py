"""A plugin: processes that import it train with :func:`fakes.train`, and know few truths."""

import functools

import fakes

from threestudio_asd.compare.measure import generators
from threestudio_asd.compare.run import runner

runner.train = fakes.train
generators.truth_images = functools.partial(generators.truth_images, count=12)
