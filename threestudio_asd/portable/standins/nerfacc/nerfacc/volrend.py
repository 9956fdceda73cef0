from threestudio_asd.portable.nerfacc import (  # noqa: F401
    accumulate_along_rays,
    render_transmittance_from_density,
    render_weight_from_density,
)
