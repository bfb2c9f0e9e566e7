"""Makes gvxr.npz, an X-ray of three materials by gVirtualXray: run it where gvxr is installed.

gVirtualXray (gvxr 2.1.0, BSD) traces meshes with the coefficients of xraylib. On a machine without
a display it needs EGL of Mesa (Debian: libegl1 libegl-mesa0 libgl1-mesa-dri libxcb-res0
libxcb-ewmh2 libxcb-composite0 libxcb-xinerama0 libxcb-keysyms1 libxcb-icccm4).
"""

import json
from pathlib import Path

import numpy as np
from gvxrPython3 import gvxr  # type: ignore

from jxreg.physics import material, tube_spectrum

RINGS, SECTORS = 300, 600
KVP = 90.0
SIZE, PIXEL_MM = (48, 64), 5.0
SOURCE, DETECTOR = (120.0, -690.0, 60.0), (-57.6, 331.2, -28.8)
ELLIPSOIDS = (  # material, centre [mm], semi-axes [mm]; the first one holds the others
    ("soft", (0.0, 0.0, 0.0), (110.0, 70.0, 90.0)),
    ("bone", (30.0, 5.0, 10.0), (28.0, 22.0, 36.0)),
    ("titanium", (-40.0, -10.0, -15.0), (7.0, 7.0, 30.0)),
)


def axes() -> tuple[np.ndarray, np.ndarray]:
    """Directions of columns and rows on the detector."""
    beam = np.subtract(DETECTOR, SOURCE)
    along = np.cross(beam, (0.0, 0.0, 1.0))
    along /= np.linalg.norm(along)
    down = np.cross(beam / np.linalg.norm(beam), along)
    return along, down


def mesh(name: str, centre, semi_axes) -> None:
    """An ellipsoid; its vertices a little outside, so that the facets lie on it in the mean."""
    polar, turn = np.pi * np.arange(RINGS + 1) / RINGS, 2 * np.pi * np.arange(SECTORS) / SECTORS
    out = 1 + (np.pi / RINGS) ** 2 / 12 + (2 * np.pi / SECTORS) ** 2 / 24
    a, b = np.meshgrid(polar, turn, indexing="ij")
    unit = np.stack([np.sin(a) * np.cos(b), np.sin(a) * np.sin(b), np.cos(a)], -1).reshape(-1, 3)
    vertices = np.asarray(centre) + out * unit * np.asarray(semi_axes)
    i, j = np.meshgrid(np.arange(RINGS), np.arange(SECTORS), indexing="ij")
    corner = [k * SECTORS + (j + m) % SECTORS for k, m in ((i, 0), (i + 1, 0), (i + 1, 1), (i, 1))]
    first, second = (np.stack([corner[0], x, y], -1) for x, y in (corner[1:3], corner[2:4]))
    triangles = np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])
    gvxr.makeTriangularMesh(name, vertices.ravel().tolist(), triangles.ravel().tolist(), "mm")
    one = material(name)
    numbers = {"H": 1, "C": 6, "N": 7, "O": 8, "Na": 11, "Mg": 12, "P": 15, "S": 16, "Cl": 17}
    numbers |= {"K": 19, "Ca": 20, "Ti": 22}
    elements, shares = zip(*one.fractions, strict=True)
    gvxr.setMixture(name, [numbers[s] for s in elements], list(shares))
    gvxr.setDensity(name, one.density, "g/cm3")


def main() -> None:
    """Writes the attenuation image and everything that made it."""
    gvxr.createWindow(-1, 0, "EGL")
    along, down = axes()
    gvxr.setSourcePosition(*SOURCE, "mm")
    gvxr.usePointSource()
    gvxr.setDetectorPosition(*DETECTOR, "mm")
    gvxr.setDetectorUpVector(*(-down))
    gvxr.setDetectorRightVector(*along)
    gvxr.setDetectorNumberOfPixels(SIZE[1], SIZE[0])
    gvxr.setDetectorPixelSize(PIXEL_MM, PIXEL_MM, "mm")
    spectrum = tube_spectrum(KVP)
    for energy, photons in zip(*spectrum, strict=True):
        gvxr.addEnergyBinToSpectrumPerPixelAtSDD(float(energy), "keV", float(photons))
    for number, (name, centre, semi_axes) in enumerate(ELLIPSOIDS):
        mesh(name, centre, semi_axes)
        add = gvxr.addPolygonMeshAsInnerSurface if number else gvxr.addPolygonMeshAsOuterSurface
        add(name)
    image = np.array(gvxr.computeXRayImage())[::-1]
    p = -np.log(image / gvxr.getTotalEnergyWithDetectorResponse())
    made = {
        "program": gvxr.getVersionOfCoreGVXR(),
        "ellipsoids": ELLIPSOIDS,
        "facets": [RINGS, SECTORS],
        "kvp": KVP,
        "pixel_mm": PIXEL_MM,
        "source": SOURCE,
        "detector": DETECTOR,
        "columns": along.tolist(),
        "rows": down.tolist(),
    }
    path = Path(__file__).with_name("gvxr.npz")
    np.savez_compressed(
        path,
        attenuation=p.astype(np.float32),
        energies=np.asarray(spectrum.energies),
        photons=np.asarray(spectrum.photons),
        made=np.array(json.dumps(made)),
    )
    print(path, path.stat().st_size, "bytes; largest attenuation", p.max())


if __name__ == "__main__":
    main()
