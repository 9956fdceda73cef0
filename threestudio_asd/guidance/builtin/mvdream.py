"""``mvdream-multiview-diffusion-guidance``: the extension threestudio-mvdream's."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.builtin.on_asd import OnASD, translated
from threestudio_asd.guidance.checks import require_models


@host.register("mvdream-multiview-diffusion-guidance")
class MultiviewDiffusionGuidance(OnASD, host.BaseObject):
    """Score distillation from a model that sees several views of a scene together (MVDream,
    arXiv:2308.16512), with the keys of threestudio-mvdream.

    A batch holds the views of one scene after the other. Each scene draws a t of its own, shared by
    its views; threestudio-mvdream draws one for the whole batch. ``grad_clip`` limits either loss's
    gradient with respect to the latents, and ``grad_norm`` is that gradient's norm before the
    division by the batch.
    """

    @dataclass
    class Config(host.BaseObject.Config):
        model_name: str = "sd-v2.1-base-4view"
        """A published model of MVDream's."""
        ckpt_path: str | None = None
        """Its file on this machine."""
        pretrained_model_name_or_path: str | None = None
        """Another model in place of it: a folder in Stable Diffusion's format whose
        ``unet/views.json`` says how many views it takes; or, beside ``ckpt_path``, the model that
        the file's was trained from, where it is not on the hub."""
        guidance_scale: float = 50.0
        """s of e_null + s (e_y - e_null)."""
        grad_clip: Any | None = None
        half_precision_weights: bool = True

        min_step_percent: float = 0.02
        max_step_percent: float = 0.98
        """Fractions of the schedule between which t is drawn; numbers or schedules."""

        camera_condition_type: str = "rotation"
        """What the model is told of a camera: ``rotation``, the matrix to the world with its
        position scaled to unit length, is all there is."""
        view_dependent_prompting: bool = False

        n_view: int = 4
        image_size: int = 256
        """The model's; both are here to be checked."""
        recon_loss: bool = True
        """Half the squared distance to the rescaled reconstruction, in latents; false is SDS with
        w = sigma^2."""
        recon_std_rescale: float = 0.5
        """How far, in [0, 1], the reconstruction's contrast is pulled back to that without
        guidance."""

    cfg: Config

    @staticmethod
    def require_usable(cfg: Any) -> None:
        """See ``checks.require_models``."""
        require_models(host.parse_structured(StableDiffusionASDGuidance.Config, ours(cfg)))

    def configure(self) -> None:
        cfg = self.cfg
        self.asd = StableDiffusionASDGuidance(ours(cfg))
        views, size = self.teacher.views_at_once, self.teacher.image_size
        if cfg.n_view != views:
            raise UserError(
                f"system.guidance.n_view is {cfg.n_view}, and the model takes {views} views of a "
                f"scene at a time; set system.guidance.n_view and data.n_view to {views}."
            )
        if cfg.image_size != size:
            raise UserError(
                f"system.guidance.image_size is {cfg.image_size}, and the model's pictures have "
                f"{size} pixels a side; set it to {size} (renders of any size are resized to it)."
            )

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """``loss_sds`` of one step for renders in [0, 1] (or latents), and scalars for the log.

        Args:
            batch: threestudio's cameras: ``elevation``, ``azimuth`` (degrees),
                ``camera_distances`` and ``c2w``; the views of a scene one after the other.

        Raises:
            UserError: The batch holds a part of a scene, or views that are not of one.
        """
        views = Views.of(batch)
        text = self.asd.conditions(prompt_utils, views)
        found = self.asd.distil(rgb, text, views, self.cfg.guidance_scale, rgb_as_latents)
        return found.losses("loss_sds")


def ours(cfg: Any) -> dict[str, Any]:
    """The config of our guidance that ``cfg`` describes.

    Raises:
        UserError: An unknown ``camera_condition_type``.
    """
    if cfg.camera_condition_type != "rotation":
        raise UserError(
            f"Unknown system.guidance.camera_condition_type '{cfg.camera_condition_type}'; MVDream "
            "is told cameras as 'rotation' alone."
        )
    teacher = {"teacher_type": "stable-diffusion"}
    if cfg.pretrained_model_name_or_path is None:
        teacher = {
            "teacher_type": "mvdream",
            "teacher": {"model_name": cfg.model_name},
            "pretrained_model_name_or_path": "",  # whatever that model was trained from
        }
    method = {"method": "sds"}
    if cfg.recon_loss:
        method = {
            "method": "mvdream",
            "weighting_strategy": "asd",
            "settings": {"recon_std_rescale": cfg.recon_std_rescale},
        }
    return translated(
        cfg,
        **teacher,
        **method,
        camera_condition_type="none",  # the critic's, of which there is none
    )
