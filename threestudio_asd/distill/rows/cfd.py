"""CFD: SDS along one flow, with noise that stays on the surface.

    grad = 2 (sigma / alpha) (e^s - n)

(Consistent Flow Distillation, Yan et al. 2025, arXiv:2501.05445.) n is the noise of a field that
every camera sees the same of and that is renewed slowly: ``cfd`` reads one on the scene's surface,
``cfd-2d`` one noise, for images, which no camera sees. With a noising that draws it afresh this is
SDS with another weight. t falls from step to step instead of being drawn. In x_0 units the term is
the difference between the render and the denoised render, so that with a fixed field descent is a
step of the teacher's flow: with lambda = sigma / alpha, a gradient step of size (lambda - lambda')
/ (2 lambda) takes x + lambda n where DDIM would.

Its code counts the guidance scale from the other end, e_y + k (e_y - e_n), except with perp-neg
(``convert_threestudio_sds_scale``: 70 there is 71 here, and 70 with perp-neg). Its loss is |g|^2 /
B without 1/2, hence the factor 2. The keys ``weighting_strategy`` and ``recon_std_rescale`` change
nothing there: w is sigma / alpha always. How its field differs: ``docs/noise-fields.md``.
"""

from dataclasses import replace

from threestudio_asd.distill.methods import Method, register_method
from threestudio_asd.distill.noise_fields import FIXED, SURFACE

CFD = register_method(
    Method(
        name="cfd",
        target="guided",
        source="noise",
        critic_objective=None,
        paper="Consistent Flow Distillation, Yan et al. 2025, arXiv:2501.05445",
        noising=SURFACE,
        weighting="asd",
        factor=2.0,
    )
)
CFD_2D = register_method(replace(CFD, name="cfd-2d", noising=FIXED))
