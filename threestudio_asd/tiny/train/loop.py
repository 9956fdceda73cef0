"""The one training loop of the world's models: resumable, with progress and atomic checkpoints."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from threestudio_asd.files import written_whole


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
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def run(
    name: str,
    folder: Path,
    model: nn.Module,
    loss_at: Callable[[int, torch.Generator], Tensor],
    total: int,
    lr: float,
    seed: int,
    weight_decay: float = 1e-3,
    ema: float = 0.998,
    save_every: int = 100,
    on_save: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Train ``model`` for ``total`` steps and return its averaged state dict.

    ``loss_at(step, generator)`` draws its batch from a generator seeded with (seed, step), so a
    run resumed from ``folder/<name>.ckpt`` sees what an uninterrupted one would have seen.
    """
    path = folder / f"{name}.ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    scheduler = LambdaLR(optimizer, warmup_then_decay(total))
    average = Average(model, ema)
    start, seconds = 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        average.state = saved["average"]
        start, seconds = saved["step"], saved["seconds"]
    began, running = time.time(), None
    model.train()
    for step in range(start, total):
        loss = loss_at(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update(model, step)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done % 20 == 0:
            spent = seconds + time.time() - began
            left = (total - done) * (time.time() - began) / (done - start)
            print(
                f"{name} {done}/{total} loss {running:.4f} {spent:.0f}s left {left:.0f}s",
                flush=True,
            )
        if done % save_every == 0 or done == total:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "average": average.state,
                "step": done,
                "seconds": seconds + time.time() - began,
            }
            with written_whole(path) as partial:
                torch.save(state, partial)
            if on_save is not None:
                on_save(done)
    return average.state
