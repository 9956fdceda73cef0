"""What benchmarks/gpu.py measures: each part in a process of its own.

A part is a function of its :class:`Setup`; it hands every figure to ``setup.tell`` as soon as it
has it, so that a part that is cut off leaves what it had.
"""

import gc
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from xml.etree import ElementTree

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Setup:
    """How a part is to run, and where its figures go.

    Attributes:
        device: "cuda" or "cpu".
        reduced: everything small: for a test of the benchmark itself.
        tell: takes all figures so far; ``headline`` among them is the one to print.
    """

    device: str
    reduced: bool
    tell: Callable[[dict[str, Any]], None]

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


@contextmanager
def going_on(figures: dict[str, Any], name: str) -> Iterator[None]:
    """What the block raises becomes the part's ``error``; the part goes on to what follows."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        figures["error"] = f"{name}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """CUDA's messages end in lines of advice: the first says what happened."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def kernels(setup: Setup) -> None:
    """Each kernel against its torch reference; those of the rasteriser on a small picture."""
    import kernels as benchmark
    import raster

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(setup.device)
    points, rays, quads, size = (2000, 64, 5, 16) if setup.reduced else (100_000, 4096, 8, 24)
    figures: dict[str, Any] = {"points": points, "levels": 8, "rays": rays}
    figures |= {"triangles": 2 * quads**2, "pixels": size**2, "milliseconds": {}}
    groups = (
        lambda: benchmark.hash_grid(points, device),
        lambda: benchmark.rays(rays, device),
        lambda: raster.pairs(size, quads, device),
    )
    seconds = 0.01 if setup.reduced else 0.5
    for group in groups:
        for name, pair in group().items():
            with going_on(figures, name):
                ((_, found),) = benchmark.compare({name: pair}, device, seconds)
                figures["milliseconds"][name] = found
            rows = figures["milliseconds"].values()
            errors = [row["largest_relative_error"] for row in rows]
            worst = max(errors, default=None, key=lambda e: (isinstance(e, str), e))
            figures["headline"] = f"{len(errors)} kernels, largest relative error {worst}"
            setup.tell(figures)


def raster(setup: Setup) -> None:
    """The rasteriser's kernels on 20,000 triangles."""
    import raster as benchmark
    from kernels import least_ms

    torch.manual_seed(0)
    torch.set_num_threads(1)
    device, size = torch.device(setup.device), 32 if setup.reduced else 512
    figures: dict[str, Any] = {"triangles": benchmark.TRIANGLES, "size": size, "milliseconds": {}}
    for name, make in {"surface": benchmark.surface, "soup": benchmark.soup}.items():
        times = figures["milliseconds"][name] = {}
        for what, run in benchmark.runs(*make(device), size).items():
            times[what] = least_ms(run, device, 0.01 if setup.reduced else 0.5)
            setup.tell(figures)
    surface = figures["milliseconds"]["surface"]["rasterize"]
    setup.tell(figures | {"headline": f"rasterize {surface} ms (surface)"})


#: Neither validation nor checkpoints nor a progress bar among the measured steps.
BARE = (
    "data.n_test_views=1",
    "trainer.val_check_interval=100000",
    "trainer.enable_progress_bar=false",
    "checkpoint.every_n_train_steps=100000",
)
_SMALL_PICTURES = ("data.batch_size=2", "data.width=16", "data.height=16")
_SMALL_NERF = (*_SMALL_PICTURES, "system.renderer.num_samples_per_ray=16")
_SPHERE = (
    "system.geometry_convert_from=null",
    "system.geometry.shape_init=sphere",
    "system.geometry.shape_init_params=0.5",
)
_TINY = ROOT / "configs" / "tiny"


def _nerf(setup: Setup, _: Path) -> tuple[Path, tuple[str, ...]]:
    return HERE / "nerf.yaml", _SMALL_NERF if setup.reduced else ()


def _nerf_sds(setup: Setup, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """benchmarks/nerf.yaml with the guidance of tiny/sds-nerf.yaml in place of ASD's."""
    from omegaconf import OmegaConf, open_dict

    config, sds = OmegaConf.load(HERE / "nerf.yaml"), OmegaConf.load(_TINY / "sds-nerf.yaml")
    with open_dict(config):
        config.system_type = sds.system_type
        config.system.guidance_type = sds.system.guidance_type
        config.system.guidance = sds.system.guidance
        del config.system.loss.lambda_asd, config.system.loss.lambda_lora
        del config.system.optimizer.params.guidance
        config.system.loss.lambda_sds = sds.system.loss.lambda_sds
    file = folder / "nerf-sds.yaml"
    OmegaConf.save(config, file)
    return file, _SMALL_NERF if setup.reduced else ()


def _geometry(setup: Setup, _: Path) -> tuple[Path, tuple[str, ...]]:
    """From a sphere: a stage that starts from a trial does the same work in a step."""
    small = (*_SMALL_PICTURES, "system.geometry.isosurface_resolution=16") if setup.reduced else ()
    return _TINY / "asd-geometry.yaml", (*_SPHERE, *small)


def _images(setup: Setup, _: Path) -> tuple[Path, tuple[str, ...]]:
    small = ("system.n_particles=2", "data.batch_size=2") if setup.reduced else ()
    return _TINY / "asd-2d.yaml", small


Training = Callable[[Setup, Path], tuple[Path, tuple[str, ...]]]


def _train(setup: Setup, training: Training, on_step: Callable[[int], None]) -> None:
    from training import train

    gc.collect()
    if setup.cuda:
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        config, overrides = training(setup, Path(folder))
        train(on_step, *BARE, *overrides, config=config)


def scenes(setup: Setup) -> None:
    """Iterations per second and peak memory of trainings, and what they spend beside the networks.

    The speed is that of undisturbed steps, between two synchronisations; the share outside UNet and
    VAE that of further ones, in which :class:`NetworkTime` takes the networks' times.
    """
    warm, timed, marked = (1, 1, 1) if setup.reduced else (30, 60, 20)
    figures: dict[str, Any] = {"warm_up_steps": warm, "steps": timed, "marked_steps": marked}
    figures["how"] = (
        "the share outside UNet and VAE is 1 - (the union of their calls, forward and backward) / "
        f"whole, by {'CUDA events' if setup.cuda else 'wall time'}, in steps after the timed ones"
    )
    named = {"nerf, ASD": _nerf, "nerf, SDS": _nerf_sds, "geometry, ASD": _geometry}
    for name, training in named.items():
        with going_on(figures, name):
            figures[name] = _scene(setup, training, warm, timed, marked)
        speeds = {key: figures[key]["iterations_per_second"] for key in named if key in figures}
        figures["headline"] = "; ".join(f"{key} {speed} it/s" for key, speed in speeds.items())
        setup.tell(figures)


def _scene(setup: Setup, training: Training, warm: int, timed: int, marked: int) -> dict[str, Any]:
    from training import Enough

    from threestudio_asd.compare.machine import forget_peak_memory, peak_memory_mb

    figures: dict[str, Any] = {}
    marks = Marks(setup.cuda)
    ends: list[Any] = []
    began = 0.0

    with NetworkTime(marks) as networks:

        def on_step(step: int) -> None:
            nonlocal began
            if step == warm:
                setup.synchronize()
                forget_peak_memory()
                began = time.perf_counter()
            elif step == warm + timed:
                setup.synchronize()
                seconds, peak = time.perf_counter() - began, peak_memory_mb()
                figures["iterations_per_second"] = round(timed / seconds, 2)
                figures["peak_mib"] = None if peak is None else round(peak, 1)
                networks.on = True
                ends.append(marks.now())
            elif step > warm + timed:
                ends.append(marks.now())
            if step == warm + timed + marked:
                setup.synchronize()
                networks.on = False
                whole = marks.seconds(ends[0], ends[-1])
                within = networks.seconds(ends[0])
                figures["milliseconds_of_a_marked_step"] = round(1e3 * whole / marked, 3)
                figures["milliseconds_in_unet_and_vae"] = round(1e3 * within / marked, 3)
                figures["share_outside_unet_and_vae"] = round(1 - within / whole, 3)
                raise Enough

        _train(setup, training, on_step)
    return figures


class Marks:
    """Moments on the device's own clock: CUDA events on the current stream, else wall time."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two marks, both reached: synchronise first."""
        return begin.elapsed_time(end) / 1e3 if self.cuda else end - begin


class NetworkTime:
    """While ``on``: when teacher and critic's UNet and the VAE's encoder run.

    Within the block their calls are marked at begin and end. Of a backward pass, the begin is when
    the gradient of the call's output is known; the end, when that of its input (the encoder) or of
    the last trained parameter (the critic) is. Calls overlap where autograd interleaves them.
    """

    def __init__(self, marks: Marks) -> None:
        self.marks, self.on = marks, False
        self._spans: list[list[Any]] = []
        self._critic: list[Any] | None = None  # the span of the critic's backward pass
        self._watched: set[int] = set()

    def __enter__(self) -> "NetworkTime":
        from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
        from threestudio_asd.teachers.unet import FrozenUNet

        self._undo = [
            (FrozenUNet, "predict", FrozenUNet.predict),
            (StableDiffusionTeacher, "encode", StableDiffusionTeacher.encode),
        ]
        (_, _, predict), (_, _, encode) = self._undo
        FrozenUNet.predict = self._marked(predict, self._watch_critic)
        StableDiffusionTeacher.encode = self._marked(encode, self._watch_encoder)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, method in self._undo:
            setattr(owner, name, method)

    def seconds(self, origin: Any) -> float:
        """The length of the union of all spans; ``origin`` is a mark before them."""
        at = self.marks.seconds
        total, reached = 0.0, 0.0
        for begin, end in sorted((at(origin, b), at(origin, e)) for b, e in self._spans):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total

    def _marked(self, method: Callable[..., Any], watch: Callable[..., None]) -> Callable[..., Any]:
        def run(owner: Any, rows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if not self.on:
                return method(owner, rows, *args, **kwargs)
            begin = self.marks.now()
            output = method(owner, rows, *args, **kwargs)
            self._spans.append([begin, self.marks.now()])
            if output.requires_grad:
                watch(owner, rows, output)
            return output

        return run

    def _begin(self) -> list[Any]:
        now = self.marks.now()
        self._spans.append([now, now])
        return self._spans[-1]

    def _watch_encoder(self, _: Any, images: torch.Tensor, latents: torch.Tensor) -> None:
        span: list[Any] = []

        def begin(_: torch.Tensor) -> None:
            span.append(self._begin())

        def end(_: torch.Tensor) -> None:
            if span:
                span[0][1] = self.marks.now()

        latents.register_hook(begin)
        if images.requires_grad:
            images.register_hook(end)

    def _watch_critic(self, net: Any, _: torch.Tensor, prediction: torch.Tensor) -> None:
        from threestudio_asd.parallel import trained

        def begin(_: torch.Tensor) -> None:
            self._critic = self._begin()

        def end(_: torch.Tensor) -> None:
            if self.on and self._critic is not None:
                self._critic[1] = self.marks.now()

        prediction.register_hook(begin)
        for parameter in trained(net.unet):
            if id(parameter) not in self._watched:
                self._watched.add(id(parameter))
                parameter.register_post_accumulate_grad_hook(end)


def waits(setup: Setup) -> None:
    """Where a training step waits for the device: how often, by our innermost line.

    As torch counts: waits of Warp, and explicit ones, are not among them. Those of a backward pass
    count for the line that asked for it.
    """
    warm, counted = (1, 1) if setup.reduced else (10, 10)
    figures: dict[str, Any] = {"warm_up_steps": warm, "steps": counted}
    if not setup.cuda:
        reason = "only torch on CUDA tells of its synchronisations"
        setup.tell(figures | {"trainings": None, "reason": reason, "headline": f"none: {reason}"})
        return
    figures["trainings"] = {}
    for name, training in {"nerf": _nerf, "geometry": _geometry, "2d": _images}.items():
        with going_on(figures, name):
            figures["trainings"][name] = count_waits(setup, training, warm, counted)
        counts = (f"{n} {f['per_step']}" for n, f in figures["trainings"].items())
        figures["headline"] = "waits per step: " + ", ".join(counts)
        setup.tell(figures)


def count_waits(setup: Setup, training: Training, warm: int, counted: int) -> dict[str, Any]:
    """The waits of a step of ``training``: their number, and that of each line."""
    from training import Enough

    found: Counter[tuple[str, str | None]] = Counter()

    with recorded_waits(found) as listen:

        def on_step(step: int) -> None:
            if step == warm:
                setup.synchronize()
                torch.cuda.set_sync_debug_mode("warn")
            elif step == warm + counted:
                torch.cuda.set_sync_debug_mode("default")
                raise Enough
            if step >= warm:
                listen()  # in each step: other libraries put filters of their own before it

        try:
            _train(setup, training, on_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    rows = [
        {"line": line, "in": inner, "per_step": round(n / counted, 2)}
        for (line, inner), n in found.most_common()
    ]
    return {"per_step": round(found.total() / counted, 2), "lines": rows}


#: What torch says of a wait, in the mode "warn".
WAIT = "called a synchronizing CUDA operation"


@contextmanager
def recorded_waits(found: Counter[tuple[str, str | None]]) -> Iterator[Callable[[], None]]:
    """Counts torch's warnings of waits by :func:`origin`, in any thread, instead of showing them.

    Others are shown as before. Yields what takes hold of warnings once more.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def record(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            if WAIT in str(message):
                found[origin(sys._getframe(1))] += 1
            else:
                show(message, *args, **kwargs)

        def listen() -> None:
            warnings.showwarning = record
            warnings.filterwarnings("always", message=f".*{WAIT}")

        listen()
        yield listen


def origin(frame: FrameType | None) -> tuple[str, str | None]:
    """(file:line of this package's innermost frame, that of a frame further in if there is one).

    A wait below no line of ours has the innermost line of any package instead.
    """
    import threestudio_asd

    package = Path(threestudio_asd.__file__).absolute().parent
    inner = None
    while frame is not None:
        file = Path(frame.f_code.co_filename).absolute()
        if file.is_relative_to(package):
            return f"{file.relative_to(package.parent)}:{frame.f_lineno}", inner
        if inner is None and file.name not in ("warnings.py", Path(__file__).name):
            inner = f"{_as_imported(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return inner or "unknown", None


def _as_imported(file: Path) -> Path:
    """Relative to the folder of ``sys.path`` in which it lies, as an import names it."""
    folders = [Path(entry).absolute() for entry in sys.path if entry]
    around = [folder for folder in folders if file.is_relative_to(folder)]
    return file.relative_to(max(around, key=lambda f: len(f.parts), default=file.parent))


def step(setup: Setup, dtype: str) -> None:
    """The ASD step against the official schedule of passes, at Stable Diffusion 2.1's size."""
    import asd_step
    import diffusers

    torch.set_num_threads(1)
    unet, repeats, seconds = ("least", 1, 1.0) if setup.reduced else ("sd", 31, 25.0)
    figures: dict[str, Any] = {"unet": unet, "dtype": dtype, "batch": 1}
    figures |= {"diffusers": diffusers.__version__}
    figures["cudnn_tf32"] = torch.backends.cudnn.allow_tf32
    figures["matmul_tf32"] = torch.backends.cuda.matmul.allow_tf32
    cases = asd_step.new_cases(unet, setup.device, dtype)
    figures |= asd_step.compare(cases, repeats, setup.device, seconds)
    ratios = (f"{name} {figures[name]['ratio']}x" for name in cases)
    figures["headline"] = f"{dtype}: shared step faster by " + ", ".join(ratios)
    setup.tell(figures)
    if not setup.cuda:
        setup.tell(figures | {"peak_mib": None})  # of a CPU, only the whole process's is known
        return
    figures["peak_mib"] = {}
    for name, case in cases.items():
        figures["peak_mib"][name] = {
            way: _peak_mib(getattr(case, way)) for way in ("shared", "hidden", "official")
        }
        setup.tell(figures)


def _peak_mib(run: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


#: Tests that do more where there is CUDA.
CUDA_TESTS = (
    "tests/kernels",
    "tests/studio/test_core_device.py",
    "tests/studio/test_models_rasterizer.py",
    "tests/cli/test_doctor.py",
    "tests/compare/test_machine.py",
    "tests/portable",
)


def tests(setup: Setup) -> None:
    """How many of the tests that do more on CUDA pass, and which fail."""
    chosen = ("tests/compare/test_machine.py",) if setup.reduced else CUDA_TESTS
    figures: dict[str, Any] = {"files": list(chosen)}
    figures["shapes_checked"] = importlib.util.find_spec("beartype") is not None
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "1" if setup.reduced else "8", "--dist", "worksteal"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        code = _followed([*command, f"--junitxml={report}"], setup, figures)
        if code not in (0, 1) or not report.exists():
            raise RuntimeError(f"pytest ended with status {code}")
        figures |= _counted(ElementTree.parse(report).getroot())
    n_failed = len(figures["failed"])
    figures["headline"] = (
        f"{figures['passed']} passed, {n_failed} failed, {figures['skipped']} skipped"
    )
    setup.tell(figures)


def _followed(command: list[str], setup: Setup, figures: dict[str, Any]) -> int:
    """Run pytest; its status. Its report comes at the end: until then lines are counted."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    seen: Counter[str] = Counter()
    failed: list[str] = []
    told = time.perf_counter()
    for line in process.stdout:
        print(line, end="", flush=True)
        outcome = re.search(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b", line)
        if outcome is None:
            continue
        seen[outcome[0].lower()] += 1
        if outcome[0] in ("FAILED", "ERROR"):
            failed += re.findall(r"tests/\S+", line)
        if time.perf_counter() - told > 1:
            setup.tell(figures | {"so_far": {**seen, "names": failed}})
            told = time.perf_counter()
    return process.wait()


def _counted(report: ElementTree.Element) -> dict[str, Any]:
    """Of pytest's JUnit report."""
    passed, skipped, failed = 0, 0, {}
    for case in report.iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            name = f"{case.get('classname')}::{case.get('name')}"
            failed[name] = (wrong[0].get("message") or "").strip().splitlines()[:1]
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failed": failed}


PARTS: dict[str, Callable[[Setup], None]] = {
    "kernels": kernels,
    "raster": raster,
    "scenes": scenes,
    "waits": waits,
    "step-fp32": lambda setup: step(setup, "fp32"),
    "step-fp16": lambda setup: step(setup, "fp16"),
    "step-bf16": lambda setup: step(setup, "bf16"),
    "tests": tests,
}
