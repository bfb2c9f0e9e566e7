"""What the numbers in a volume mean, by its modality: named models from values to materials.

Each model takes the values of a volume and gives `Mixture`: densities of materials. Structural MR
has none: its numbers say nothing about X-rays.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from jxreg.errors import InputError
from jxreg.physics import tissue
from jxreg.physics.materials import Material, material
from jxreg.physics.tissue import ENERGY_CT, Thresholds

SOFT_HU = 40.0
"""What soft tissue has in a CT."""
CONTRAST_MG_ML = 15.0
"""Iodine in an artery during an angiography [mg/ml]; an MRA says nothing about it."""


class Mixture(NamedTuple):
    """Materials of a volume, and how much of each is in every voxel."""

    materials: tuple[Material, ...]
    densities: Float[Array, "m x y z"]
    """Mass of each material by volume [g/cm^3]."""
    energy_ct: float = ENERGY_CT
    """Energy at which they attenuate as the CT says [keV]."""


Model = Callable[[Any], Mixture]
"""From the values of a volume to its materials."""


def ct(
    hu: ArrayLike,
    thresholds: Thresholds = Thresholds(),
    *,
    metal: Material | str | None = None,
    energy_ct: float = ENERGY_CT,
) -> Mixture:
    """A CT: soft tissue and bone, and a metal if the patient has one.

    Args:
        hu: Hounsfield units.
        thresholds: Where the ramps are; traced.
        metal: What an implant is made of. Its density is what the CT says, which ends at 3071 HU in
            most; where that matters, put the implant in as a label or as an object.
        energy_ct: Effective energy of the CT [keV].
    """
    hu = jnp.asarray(hu, float)
    materials = (material("soft"), material("bone"))
    if metal is not None:
        materials += (material(metal) if isinstance(metal, str) else metal,)
    shares = tissue.fractions(hu, thresholds, metal=metal is not None)
    return Mixture(materials, tissue.densities(hu, shares, materials, energy_ct), energy_ct)


def cbct(values: ArrayLike, thresholds: Thresholds = Thresholds(), **options) -> Mixture:
    """A cone-beam CT: recalibrated to Hounsfield units (`recalibrated`), then as `ct`."""
    return ct(recalibrated(np.asarray(values)), thresholds, **options)


def deepdrr(hu: ArrayLike) -> Mixture:
    """A CT by the thresholds and densities of DeepDRR: air, soft tissue and bone."""
    materials = tuple(material(name) for name in ("air", "soft", "bone"))
    return Mixture(materials, tissue.hard_densities(jnp.asarray(hu, float)))


def cta(
    hu: ArrayLike,
    vessels: Shaped[np.ndarray, "x y z"] | None = None,
    *,
    above: ArrayLike = 100.0,
    energy_ct: float = ENERGY_CT,
) -> Mixture:
    """A CT with iodine in the vessels: soft tissue, bone and iodine.

    Args:
        hu: Hounsfield units.
        vessels: Where the vessels are; without it what exceeds `above` is iodine, bone too.
        above: Hounsfield units of blood without contrast agent, at most; traced.
        energy_ct: Effective energy of the CT [keV].

    Raises:
        InputError: The mask of the vessels is on another grid.
    """
    hu = jnp.asarray(hu, float)
    if vessels is not None and vessels.shape != hu.shape:
        fix = "give the mask on the grid of the CT"
        raise InputError("vessels", f"a mask of {vessels.shape}", f"one of {hu.shape}", fix)
    soft, iodine = tissue.contrast_densities(hu, above, energy_ct)
    if vessels is None:
        both = material("soft"), material("iodine")
        return Mixture(both, jnp.stack([soft, iodine]), energy_ct)
    inside, plain = jnp.asarray(vessels) > 0, ct(hu, energy_ct=energy_ct)
    parts = [jnp.where(inside, soft, plain.densities[0])]
    parts += [jnp.where(inside, 0, plain.densities[1]), jnp.where(inside, iodine, 0)]
    return Mixture((*plain.materials, material("iodine")), jnp.stack(parts), energy_ct)


def rotational_angiography(values: ArrayLike, *, above: ArrayLike = 300.0) -> Mixture:
    """3D rotational angiography: iodine alone, from what exceeds `above` [HU].

    Of a subtracted image (`frame.subtracted`) this is all that there is.
    """
    _, iodine = tissue.contrast_densities(jnp.asarray(values, float), above)
    return Mixture((material("iodine"),), iodine[None])


def mra(values: ArrayLike, *, window: tuple[float, float] = (98.0, 99.9)) -> Mixture:
    """Time-of-flight MRA: vessels as if they held contrast agent, and nothing else.

    The numbers have no scale: between two percentiles the concentration rises from none to that of
    an angiography. Compare with a similarity that no scale changes.

    Args:
        values: As they come.
        window: Percentiles.
    """
    values = np.asarray(values, np.float64)
    low, high = np.percentile(values, window)
    if not high > low:
        raise InputError(
            "MRA", "no bright voxels", "vessels brighter than the rest", "check the modality"
        )
    shown = tissue.smooth_step(jnp.asarray(values, float), low, high)
    return Mixture((material("iodine"),), (1e-3 * CONTRAST_MG_ML * shown)[None])


def labels(ids: ArrayLike, of: Mapping[int, Material | str]) -> Mixture:
    """A label map: each label is a material in its own density.

    Args:
        ids: Label of each voxel; rounded, since a `Volume` of labels has them to single precision.
        of: Material of each label; a label without one is nothing.
    """
    known = {n: material(one) if isinstance(one, str) else one for n, one in of.items()}
    if not known:
        raise InputError("labels", "no materials", "a material for each label", "name some")
    ids, materials = np.rint(np.asarray(ids)), tuple(dict.fromkeys(known.values()))
    shape = (len(materials), *ids.shape)
    made = np.zeros(shape, np.float32)
    for number, one in known.items():
        made[materials.index(one)] += (ids == number) * np.float32(one.density)
    return Mixture(materials, jnp.asarray(made, float))


def relabelled(
    mixture: Mixture, ids: Int[np.ndarray, "x y z"], of: Mapping[int, Material | str]
) -> Mixture:
    """A mixture in which some labels are a material in its own density, whatever was there."""
    given = labels(ids, of)
    free = jnp.asarray(~np.isin(ids, list(of)))
    materials = tuple(dict.fromkeys((*mixture.materials, *given.materials)))
    made = {one: jnp.zeros(ids.shape, mixture.densities.dtype) for one in materials}
    for one, density in zip(mixture.materials, mixture.densities, strict=True):
        made[one] = made[one] + density * free
    for one, density in zip(given.materials, given.densities, strict=True):
        made[one] = made[one] + density
    return Mixture(materials, jnp.stack([made[one] for one in materials]), mixture.energy_ct)


def recalibrated(values: Shaped[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Hounsfield units of a cone-beam CT, from its peaks of air and of soft tissue.

    The two most frequent values on either side of Otsu's threshold are taken for -1000 and 40 HU;
    what is darker than air or brighter than enamel is cut.

    Raises:
        InputError: There are no peaks, since nearly all values are the same.
    """
    values = np.asarray(values, np.float64)
    low, high = np.percentile(values, (0.1, 99.5))
    if not high > low:
        fix = "check the modality"
        raise InputError("cone-beam CT", f"{low:g} nearly everywhere", "air and soft tissue", fix)
    count, edges = np.histogram(values, 256, (low, high))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(count)
    moment = np.cumsum(count * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / below[-1] - moment) ** 2 / (below * (below[-1] - below))
    split = int(np.nanargmax(np.where(np.isfinite(between), between, -1))) + 1
    air, soft = middle[:split][count[:split].argmax()], middle[split:][count[split:].argmax()]
    return np.clip(-1000 + (values - air) * (1000 + SOFT_HU) / (soft - air), -1000, 3500)


MODELS: dict[str, Callable[..., Mixture]] = {
    "ct": ct,
    "cbct": cbct,
    "deepdrr": deepdrr,
    "cta": cta,
    "3d-ra": rotational_angiography,
    "3d-dsa": rotational_angiography,
    "mra": mra,
    "labels": labels,
}
"""Intensity models by the name of the modality."""


def model(name: str, **options: Any) -> Model:
    """The intensity model of a modality.

    Args:
        name: A key of `MODELS`, in small letters or capitals.
        options: What that model takes besides the values.

    Raises:
        InputError: There is no such model; structural MR has none.
    """
    if name.lower() in MODELS:
        return functools.partial(MODELS[name.lower()], **options)
    if name.lower() in ("mr", "mri"):
        raise InputError(
            "modality",
            "a structural MR, whose values say nothing about the attenuation of X-rays",
            "a CT, a label map (labels) or a synthetic CT made from the MR (ct)",
            "segment the MR and name a material for each label",
        )
    raise InputError("modality", f"{name!r}", " ".join(MODELS), "name one of these")
