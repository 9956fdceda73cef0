"""Geometries of the bundled host; importing the package registers them."""

from threestudio_asd.studio.models.geometry import (
    given_mesh,
    implicit_volume,
    tetrahedra_sdf_grid,
)

__all__ = ["given_mesh", "implicit_volume", "tetrahedra_sdf_grid"]
