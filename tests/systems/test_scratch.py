import time, sys
import contextlib
import pytest
from pretended_device import pretended, tally
from test_on_device import COARSE, SMALL
import cProfile, pstats
@pytest.mark.on_device
@pytest.mark.parametrize("on", [False, True])
def test_nerf(launch, logged, on):
    t=time.process_time()
    pr=cProfile.Profile()
    with pretended() if on else contextlib.nullcontext(), tally() as counts:
        if on: pr.enable()
        assert launch(*COARSE, "trainer.max_steps=3", config="tiny/asd-nerf.yaml") == 0
        pr.disable()
    print("cpu seconds", time.process_time()-t)
    print({k:v for k,v in logged().items() if "loss_" in k})
    if on:
        for s in counts.steps:
            print(sum(s.values()), sum(s.uploads.values()), sum(s.operations.values()))
            print(sorted(s.kinds.items()))
        pstats.Stats(pr).sort_stats("cumtime").print_stats(60)
