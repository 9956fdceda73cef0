"""The one training loop of the world's models: resumable, with progress and atomic checkpoints."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from threestudio_asd.files import written_whole
from threestudio_asd.stop import Stopped, Watch, drop_lost_streams


def warmup_then_decay(total: int, warmup: int = 200, decay_from: float = 0.6) -> Callable:
    """Learning-rate factor: linear warm-up, constant, then linear to 2 % over the last part."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = step / total
        if progress < decay_from:
            return 1.0
        return max(0.02, (1 - progress) / (1 - decay_from))

    return factor


class Average(nn.Module):
    """Exponential moving average of a model's parameters and buffers."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        # Early on a long memory would keep the random initialisation alive.
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        real = [key for key, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.state[key] for key in real], [state[key] for key in real], 1 - decay
        )
        for key in state.keys() - set(real):
            self.state[key].copy_(state[key])


@dataclass
class _Training:
    """All that goes on changing, with the number of steps and the seconds behind it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    average: Average
    step: int = 0
    seconds: float = 0.0

    def load(self, path: Path) -> None:
        device = next(self.model.parameters()).device
        saved = torch.load(path, map_location=device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.average.state = saved["average"]
        self.step, self.seconds = saved["step"], saved["seconds"]

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.state,
            "step": self.step,
            "seconds": self.seconds,
        }
        with written_whole(path) as partial:
            torch.save(state, partial)

    def advance(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update(self.model, self.step)
        self.step += 1


def run(
    name: str,
    folder: Path,
    model: nn.Module,
    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]],
    total: int,
    lr: float,
    seed: int,
    weight_decay: float = 1e-3,
    ema: float = 0.998,
    save_every: int = 100,
    on_save: Callable[[int], None] | None = None,
    decay_from: float = 0.6,
    faster: Mapping[str, float] | None = None,
    replayed: bool = True,
) -> dict[str, Tensor]:
    """Train ``model`` for ``total`` steps and return its averaged state dict.

    ``model(*draw(step, generator))`` is the loss. The generator, on the model's device, is seeded
    with (seed, step), so a run resumed from ``folder/<name>.ckpt`` sees what an uninterrupted one
    would have seen. On CUDA products are taken in TF32.

    Args:
        decay_from: The share of the steps after which the learning rate falls.
        faster: Beginnings of parameters' names, and the factor of their learning rate.
        replayed: On CUDA, record the pass forward and backward once and replay it; all batches
            have the same shapes then.

    Raises:
        Stopped: A signal came; the step that it came in is the last one in the checkpoint.
    """
    path = folder / f"{name}.ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    groups = _groups(model, lr, faster or {})
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    scheduler = LambdaLR(optimizer, warmup_then_decay(total, decay_from=decay_from))
    training = _Training(model, optimizer, scheduler, Average(model, ema))
    if path.exists():
        training.load(path)
    start, before, began, running = training.step, training.seconds, time.time(), None
    model.train()
    loss_of = model
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it
    if device.type == "cuda" and replayed:
        # Launching its thousand kernels takes longer than running them.
        sample = draw(start, torch.Generator(device))
        loss_of = torch.cuda.make_graphed_callables(model, sample, allow_unused_input=True)
    with Watch(_tell) as watch:
        for step in range(start, total):
            generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
            loss = loss_of(*draw(step, generator))
            training.advance(loss)
            loss = loss.detach().clone()  # a replayed pass writes to the same place again
            running = loss if running is None else torch.lerp(running, loss, 0.02)
            done, spent = training.step, time.time() - began
            training.seconds = before + spent
            due = done % save_every == 0 or done == total
            if due or watch.signum is not None:
                training.save(path)
            if watch.signum is not None:
                drop_lost_streams()  # a `tee` may have got the signal, too
                print(f"Saved {path} at step {done}; the same command goes on.", flush=True)
                raise Stopped(watch.signum)
            if done % 20 == 0:
                left = (total - done) * spent / (done - start)
                line = f"{name} {done}/{total} loss {running.item():.4f} {training.seconds:.0f}s"
                print(f"{line} left {left:.0f}s", flush=True)
            if due and on_save is not None:
                on_save(done)
    return training.average.state


def _groups(model: nn.Module, lr: float, faster: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters that are trained, by learning rate."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((f for start, f in faster.items() if name.startswith(start)), 1.0)
        if parameter.requires_grad:
            found.setdefault(factor, []).append(parameter)
    return [{"params": group, "lr": factor * lr} for factor, group in found.items()]


def note(name: str, folder: Path, model: nn.Module, **facts: Any) -> None:
    """Write ``folder/<name>.json``: how the model was trained, on what, and in how many seconds."""
    trained = torch.load(folder / f"{name}.ckpt", weights_only=True, map_location="cpu")
    device = next(model.parameters()).device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    facts |= {"seconds": round(trained["seconds"]), "hardware": hardware}
    with written_whole(folder / f"{name}.json") as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n")


def _tell(signum: Signals) -> None:
    print(f"{signum.name}: training ends after this step.", flush=True)
