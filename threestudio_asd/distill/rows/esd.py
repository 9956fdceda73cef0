"""ESD: VSD whose critic forgets a part of the camera, so that views do not all become the same.

    grad = w(t) (e^s - [e_phi + (1 - l) (e_phi(camera) - e_phi)]),    l = 1/2

(Taming Mode Collapse in Score Distillation for Text-to-3D Generation, Wang et al. 2024,
arXiv:2401.00909.) e_phi without a camera is the score of all views together; its share l is the
weight of the renders' entropy over views. l = 0 is VSD.

The authors' setting for it in threestudio's VSD is ``guidance_scale_lora`` = 1 - l, the critic's
guidance from no camera to the camera: this row's ``critic_scale``. The critic learns both by camera
dropout, as in VSD (``lora_cfg_training``). With ``share_noise: false`` the numbers are that code's.
"""

from dataclasses import replace

from threestudio_asd.distill.methods import VSD, register_method

ESD = register_method(
    replace(
        VSD,
        name="esd",
        paper="Entropic Score Distillation, Wang et al. 2024, arXiv:2401.00909",
        critic_scale=0.5,
    )
)
