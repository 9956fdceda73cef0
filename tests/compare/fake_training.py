"""A plugin: processes that import it train with :func:`fakes.train`, and know few truths."""

import functools

import fakes

from threestudio_asd.compare import measure, runner

runner.train = fakes.train
measure.truth_images = functools.partial(measure.truth_images, count=12)
