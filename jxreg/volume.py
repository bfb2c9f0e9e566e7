"""The patient as a volume of linear attenuation, and what is done to it before rendering.

A volume keeps its own grid and affine: nothing is re-oriented, re-centred or resampled on the way
to the renderer, so oblique and sheared affines are as good as any other. Index coordinates are
voxel centres; outside the grid there is air.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jxreg.errors import InputError
from jxreg.packing import Packed, pack
from jxreg.precision import full_precision

MU_WATER = 0.02059
"""Linear attenuation of water at 60 keV [1/mm] (NIST XCOM)."""


class Beam(NamedTuple):
    """A spectrum as a detector sees it, and how what is in its way attenuates each part of it."""

    kappa: Float[np.ndarray, "m n"] | Float[Array, "m n"]
    """Coefficient of each material in each part: mass attenuation [cm^2/g] for area densities, or
    relative to the attenuation in a volume's channels."""
    log_weights: Float[np.ndarray, " n"] | Float[Array, " n"]
    """Logarithm of each part's share of the signal in air."""


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@dataclass(frozen=True)
class Volume:
    """Linear attenuation on a grid in the patient's RAS frame.

    What is derived from `mu` to render fast, `packed`, is dropped by `dataclasses.replace`, so that
    it never tells of another `mu`. Differentiate with respect to `mu`, not to the whole volume.
    """

    mu: Float[Array, "*channels x y z"]
    """Linear attenuation [1/mm]; channels, such as materials, add up to that of the voxel. For
    `jxreg.scene` also densities [g/cm^3], one channel a material."""
    affine: Float[Array, "4 4"]
    """World from index: RAS+ [mm] of the voxel centre (i, j, k); may be oblique or sheared."""
    isocenter: Float[Array, "3"]
    """World point [mm] about which poses turn: by default the centre of the grid."""
    coarser: tuple["Volume", ...] = ()
    """The same volume pooled to larger voxels, finest first; the pyramid of `register`."""
    beam: Beam | None = None
    """Spectrum that X-rays of the volume are taken with, a coefficient for each channel; None for
    one energy, at which the channels just add up (`jxreg.simulation`)."""
    packed: Packed | None = field(default=None, init=False)
    """`mu` as the marches read it fastest, 8 bytes a voxel; None if it was not prepared."""

    @classmethod
    def from_array(
        cls,
        mu: ArrayLike,
        affine: ArrayLike,
        isocenter: ArrayLike | None = None,
        *,
        pyramid_mm: tuple[float, ...] | None = None,
        prepare: bool = True,
        beam: Beam | None = None,
    ) -> Self:
        """Volume from an array of attenuation.

        Args:
            mu: Linear attenuation [1/mm], shape (x, y, z), or (channels, x, y, z).
            affine: World (RAS+ [mm]) from index, 4 x 4.
            isocenter: World point [mm]; by default the centre of the grid.
            pyramid_mm: Voxel sizes of the coarser levels [mm]; by default a 240th, a 120th and a
                60th of the volume's longest side (1.5, 3 and 6 mm for a trunk). They take a quarter
                of the memory of `mu` or less.
            prepare: Whether to pack `mu` for fast rendering, which takes 8 bytes a voxel besides
                the 4 of `mu`.
            beam: Spectrum that X-rays of the channels are taken with.

        Raises:
            InputError: The array is not 3D (4D with channels), is not finite, has a side of one
                voxel, or the affine is singular or not finite.
        """
        mu = np.asarray(mu)
        affine = np.asarray(affine, np.float64)
        _check_grid(mu, affine)
        mu = mu.astype(jnp.zeros(0).dtype)
        if isocenter is None:
            centre = (np.array(mu.shape[-3:]) - 1) / 2
            isocenter = affine[:3, :3] @ centre + affine[:3, 3]
        affine_array, isocenter = jnp.asarray(affine, float), jnp.asarray(isocenter, float)
        finest = cls(jnp.asarray(mu), affine_array, isocenter, beam=beam)
        if prepare:
            finest = _with_packed(finest, pack(mu))
        if pyramid_mm is None:
            longest = float((np.linalg.norm(affine[:3, :3], axis=0) * mu.shape[-3:]).max())
            pyramid_mm = (longest / 240, longest / 120, longest / 60)
        coarser = tuple(_level(finest, mm, prepare) for mm in sorted(pyramid_mm))
        return _with_packed(replace(finest, coarser=coarser), finest.packed)


def _children(volume: Volume):
    return (
        volume.mu,
        volume.affine,
        volume.isocenter,
        volume.coarser,
        volume.beam,
        volume.packed,
    )


def _children_with_keys(volume: Volume):
    names = "mu", "affine", "isocenter", "coarser", "beam", "packed"
    keys = map(jax.tree_util.GetAttrKey, names)
    return tuple(zip(keys, _children(volume), strict=True)), None


def _volume(_, children) -> Volume:
    *given, packed = children
    return _with_packed(Volume(*given), packed)


def _with_packed(volume, packed):
    object.__setattr__(volume, "packed", packed)  # of a volume that nobody else has seen yet
    return volume


jax.tree_util.register_pytree_with_keys(
    Volume, _children_with_keys, _volume, lambda volume: (_children(volume), None)
)


def _level(finest: Volume, voxel_mm: float, prepare: bool) -> Volume:
    """A level of the pyramid; where nothing is pooled it is the volume itself, not a copy."""
    factors = pooling_factors(finest.affine, voxel_mm)
    if factors == (1, 1, 1):
        return finest
    level = pool(finest, factors)
    return prepared(level) if prepare else level


def prepared(volume: Volume) -> Volume:
    """The volume with its attenuation packed anew, for fast rendering after `mu` was replaced.

    It needs the numbers, so it does not trace. Attenuation that cannot be packed (double precision,
    below zero) is rendered as it is.
    """
    return _with_packed(replace(volume), pack(volume.mu))


def coarsest(volume: Volume) -> Volume:
    """The last level of the pyramid."""
    return volume.coarser[-1] if volume.coarser else volume


def mu_from_hu(
    hu: Float[np.ndarray, "..."] | Float[Array, "..."],
    mu_water: float = MU_WATER,
) -> Float[np.ndarray, "..."] | Float[Array, "..."]:
    """Linear attenuation [1/mm] from Hounsfield units; padding below -1000 HU is air.

    Source: the definition of the Hounsfield unit, mu = mu_water (1 + HU / 1000).
    """
    xp = jnp if isinstance(hu, jax.Array) else np
    return mu_water * xp.maximum(0.0, 1.0 + hu / 1000.0)


def spacing(affine: ArrayLike) -> Float[Array, "3"]:
    """Distance of neighbouring voxel centres along each index axis [mm]."""
    return jnp.linalg.norm(jnp.asarray(affine)[:3, :3], axis=0)


@full_precision
def index_from_world(volume: Volume) -> Float[Array, "4 4"]:
    """Inverse of the affine, in closed form, so that it differentiates and batches."""
    linear, shift = volume.affine[:3, :3], volume.affine[:3, 3]
    a, b, c = linear[:, 0], linear[:, 1], linear[:, 2]
    rows = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
    inverse = rows / jnp.dot(a, rows[0])
    top = jnp.concatenate([inverse, -(inverse @ shift)[:, None]], 1)
    return jnp.concatenate([top, jnp.array([[0.0, 0.0, 0.0, 1.0]], top.dtype)])


def crop(volume: Volume, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Volume:
    """The sub-grid start <= index < stop. World coordinates and the isocenter stay as they are."""
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    affine = np.array(volume.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ np.array(start)
    return _rebuilt(volume, np.asarray(volume.mu)[(..., *window)], affine)


def crop_air(volume: Volume, threshold: float = 0.1 * MU_WATER, margin: int = 2) -> Volume:
    """Removes the surrounding air: the box of voxels above `threshold` [1/mm] plus a margin.

    A volume without any voxel above the threshold is returned as it is.
    """
    mu = np.asarray(volume.mu)
    body = np.asarray((mu > threshold).reshape(-1, *mu.shape[-3:]).any(0))
    if not body.any():
        return volume
    start, stop = [], []
    for axis, size in enumerate(body.shape):
        inside = np.flatnonzero(np.moveaxis(body, axis, 0).reshape(size, -1).any(1))
        low = max(min(inside[0] - margin, size - 2), 0)  # a volume has two voxels a side
        high = max(min(inside[-1] + 1 + margin, size), low + 2)
        start.append(int(low))
        stop.append(int(high))
    return crop(volume, tuple(start), tuple(stop))


def pooling_factors(affine: ArrayLike, voxel_mm: float) -> tuple[int, int, int]:
    """How many voxels of each axis make one of about `voxel_mm`; never less than one."""
    factors = np.maximum(1, np.round(voxel_mm / np.asarray(spacing(np.asarray(affine, float)))))
    x, y, z = (int(f) for f in factors)
    return x, y, z


@full_precision
def pool(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """Averages blocks of voxels. A remainder is completed with copies of the last slice.

    So no slice is lost, and a face that cuts through the anatomy keeps its attenuation.
    """
    if factors == (1, 1, 1):
        return replace(volume, coarser=())
    mu = volume.mu
    sizes = mu.shape[-3:]
    rest = [(0, -n % f) for n, f in zip(sizes, factors, strict=True)]
    mu = jnp.pad(mu, [(0, 0)] * (mu.ndim - 3) + rest, mode="edge")
    split = [k for n, f in zip(mu.shape[-3:], factors, strict=True) for k in (n // f, f)]
    mu = mu.reshape(*mu.shape[:-3], *split).mean((-5, -3, -1))
    scale = jnp.asarray(factors, volume.affine.dtype)
    linear = volume.affine[:3, :3]
    affine = volume.affine.at[:3, 3].add(linear @ ((scale - 1) / 2))
    affine = affine.at[:3, :3].multiply(scale)
    return Volume(mu, affine, volume.isocenter, beam=volume.beam)


@full_precision
def resample(volume: Volume, shape: tuple[int, int, int], affine: ArrayLike) -> Volume:
    """The volume on another grid, by linear interpolation; air outside.

    Use it to bring volumes to one grid. It is never needed for rendering.
    """
    affine = np.asarray(affine, np.float64)
    to_old = np.linalg.inv(np.asarray(volume.affine, np.float64)) @ affine
    mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
    sample = jax.vmap(lambda m, x: jax.scipy.ndimage.map_coordinates(m, x, 1), in_axes=(0, None))
    linear, shift = jnp.asarray(to_old[:3, :3]), jnp.asarray(to_old[:3, 3])

    @jax.jit
    def slab(k):
        i, j = jnp.meshgrid(*(jnp.arange(n, dtype=mu.dtype) for n in shape[:2]), indexing="ij")
        index = jnp.stack([i, j, jnp.full_like(i, k)])
        return sample(mu, jnp.einsum("ab,bij->aij", linear, index) + shift[:, None, None])

    slabs = jax.lax.map(slab, jnp.arange(shape[2], dtype=mu.dtype))
    resampled = jnp.moveaxis(slabs, 0, -1).reshape(*volume.mu.shape[:-3], *shape)
    return _rebuilt(volume, np.asarray(resampled), affine)


def _rebuilt(volume: Volume, mu: np.ndarray, affine: np.ndarray) -> Volume:
    """A changed volume with a pyramid of the same voxel sizes."""
    sizes = tuple(float(np.mean(np.asarray(spacing(v.affine)))) for v in volume.coarser)
    prepare = volume.packed is not None
    return Volume.from_array(
        mu, affine, volume.isocenter, pyramid_mm=sizes, prepare=prepare, beam=volume.beam
    )


def _check_grid(mu: np.ndarray, affine: np.ndarray) -> None:
    if mu.ndim not in (3, 4) or min(mu.shape[-3:]) < 2:
        raise InputError(
            "volume",
            f"an array of shape {mu.shape}",
            "(x, y, z) or (channels, x, y, z) with at least 2 voxels a side",
            "give one 3D volume, not a slice or a time series",
        )
    if not np.isfinite(mu).all():
        bad = int(np.size(mu) - np.isfinite(mu).sum())
        raise InputError(
            "volume",
            f"{bad} voxels are NaN or infinite",
            "finite attenuation",
            "replace them with air (0) first",
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(
            "affine",
            f"shape {affine.shape} or values that are not finite",
            "a finite 4 x 4 matrix, world from index [mm]",
            "correct the header",
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise InputError(
            "affine",
            f"voxel spacing {lengths.tolist()} mm, or axes in one plane",
            "three independent axes with positive spacing",
            "correct the header",
        )
