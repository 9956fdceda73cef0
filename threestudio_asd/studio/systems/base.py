"""Base classes of the systems that a config trains: threestudio's keys and life cycle."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl

from threestudio_asd.errors import UserError
from threestudio_asd.studio.base import (
    Updateable,
    update_end_if_possible,
    update_if_possible,
)
from threestudio_asd.studio.checkpoint.store import (
    BATCHES_KEY,
    batches_seen,
    find_last_path,
    load_module_weights,
    require_compatible,
)
from threestudio_asd.studio.config.schedule import C
from threestudio_asd.studio.config.structured import parse_structured
from threestudio_asd.studio.device import cleanup
from threestudio_asd.studio.systems.finite import FiniteStepsMixin
from threestudio_asd.studio.systems.optimizers import parse_optimizer, parse_scheduler
from threestudio_asd.studio.systems.saving import SaverMixin
from threestudio_asd.studio.systems.seeding import seed_step


class BaseSystem(FiniteStepsMixin, pl.LightningModule, Updateable, SaverMixin):
    """Base class of what a config's ``system_type`` names.

    Construction: ``configure()``, then the weights of ``cfg.weights``, then
    ``post_configure()``. Modules that a checkpoint must hold are built in ``configure()`` or in
    Lightning's ``setup(stage)``, not later.

    Each training batch starts with all random generators seeded from (``seed``, its number).
    """

    @dataclass
    class Config:
        loggers: dict = field(default_factory=dict)
        loss: dict = field(default_factory=dict)
        optimizer: dict = field(default_factory=dict)
        scheduler: dict | None = None
        weights: str | None = None
        weights_ignore_modules: list[str] | None = None
        cleanup_after_validation_step: bool = False
        cleanup_after_test_step: bool = False

    cfg: Config
    seed: int = 0
    batches_started: int = 0
    """Training batches so far, over all resumes; a checkpoint carries it."""

    def __init__(self, cfg: Any, resumed: bool = False) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self._resumed = resumed
        self._resumed_eval: tuple[int, int] | None = None
        if self.cfg.loggers.get("wandb", {}).get("enable", False):
            raise UserError(
                "system.loggers.wandb.enable=true is not implemented in the bundled host: it logs"
                " to CSV and TensorBoard."
            )
        self.cfg.weights = find_last_path(self.cfg.weights)
        self.configure()
        if self.cfg.weights is not None:
            self.load_weights(self.cfg.weights, self.cfg.weights_ignore_modules)
        self.post_configure()

    def configure(self) -> None:
        """Build the modules."""

    def post_configure(self) -> None:
        """Called when the weights are loaded."""

    def load_weights(self, weights: str, ignore_modules: Iterable[str] | None = None) -> None:
        """Load a checkpoint's weights (not its training state), except ``ignore_modules``."""
        state, epoch, global_step = load_module_weights(weights, ignore_modules=ignore_modules)
        try:
            self.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise UserError(
                f"system.weights={weights} was made with another config; name the modules to"
                f" leave out in system.weights_ignore_modules ({' '.join(str(error).split())})"
            ) from error
        self.do_update_step(epoch, global_step, on_load_weights=True)

    def set_resume_status(self, current_epoch: int, global_step: int) -> None:
        """Evaluate as if training stood here: Lightning restores both only when it trains."""
        self._resumed_eval = (current_epoch, global_step)

    @property
    def resumed(self) -> bool:
        """Whether a checkpoint of this trial is going to be loaded."""
        return self._resumed

    @property
    def true_global_step(self) -> int:
        return self.global_step if self._resumed_eval is None else self._resumed_eval[1]

    @property
    def true_current_epoch(self) -> int:
        return self.current_epoch if self._resumed_eval is None else self._resumed_eval[0]

    def C(self, value: Any) -> int | float:
        """The scheduled scalar ``value`` at the current step."""
        return C(value, self.true_current_epoch, self.true_global_step)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = parse_optimizer(self.cfg.optimizer, self)
        if self.cfg.scheduler is None:
            return {"optimizer": optimizer}
        return {
            "optimizer": optimizer,
            "lr_scheduler": parse_scheduler(self.cfg.scheduler, optimizer),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another config's weights; evaluation leaves out modules that only training has."""
        state = checkpoint["state_dict"]
        path = str(self.trainer.ckpt_path)
        absent = require_compatible(state, self.state_dict(), path)
        if absent and self.trainer.state.fn == "fit":
            raise UserError(
                f"the checkpoint {path} belongs to another config: {absent[0]} has no place."
                " Use the trial's own configs/parsed.yaml."
            )
        for name in absent:
            del state[name]
        self.batches_started = batches_seen(checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[BATCHES_KEY] = self.batches_started

    def preprocess_data(self, batch: Any, stage: str) -> None:
        """Change the batch in place before it is used; ``stage`` is "train", "validation", ..."""

    def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
        seed_step(self.seed, self.batches_started)
        self.batches_started += 1
        self._start_step(batch, "train", self.trainer.train_dataloader)

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._start_step(batch, "validation", self.trainer.val_dataloaders)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_step(batch, "test", self.trainer.test_dataloaders)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._start_step(batch, "predict", self.trainer.predict_dataloaders)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.crossed()  # what was logged in a step without a backward pass
        self._end_step(self.trainer.train_dataloader)

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_step(self.trainer.val_dataloaders, self.cfg.cleanup_after_validation_step)

    def on_test_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_step(self.trainer.test_dataloaders, self.cfg.cleanup_after_test_step)

    def on_predict_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end_step(self.trainer.predict_dataloaders, self.cfg.cleanup_after_test_step)

    def on_validation_model_eval(self) -> None:
        self._modes = {module: module.training for module in self.modules()}
        self.eval()

    def on_validation_model_train(self) -> None:
        # Through train(), because renderers override it; then frozen modules go back to eval.
        self.train()
        for module, training in self._modes.items():
            module.training = training
        del self._modes

    def _start_step(self, batch: Any, stage: str, loader: Any) -> None:
        self.preprocess_data(batch, stage)
        self.dataset = loader.dataset
        update_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def _end_step(self, loader: Any, clean: bool = False) -> None:
        self.dataset = loader.dataset
        update_end_if_possible(self.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step_end(self.true_current_epoch, self.true_global_step)
        if clean:
            cleanup()
