"""X-ray images without a header: PNG, TIFF, JPEG, BMP and NPY."""

from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike, Shaped

from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import check_size, existing_file, reading
from jxreg.io.exposure import Exposure, Geometry

EXPECTED = "a grey image (PNG, TIFF, JPEG, BMP or NPY)"
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")
_RANGE = "jxreg attenuation range"  # PNG text entry: attenuation of black and of white


def read_raster(path: str | Path) -> Exposure:
    """Reads one image or a stack of frames.

    Whole numbers are taken as intensity (bright where much arrived), floats as attenuation, and a
    PNG of `write_png` as the attenuation it was made from. `load_frames` can be told otherwise.

    Raises:
        InputError: The file is damaged, in colour, or not an image.
    """
    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED):
        pixels, span = _read_npy(path) if path.suffix.lower() == ".npy" else _read_image(path)
    if pixels.ndim not in (2, 3) or min(pixels.shape) < 1:
        raise InputError(
            str(path),
            f"shape {pixels.shape}",
            "(rows, columns) or (frames, rows, columns)",
            "save one grey image, or a stack of them",
        )
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    if span is not None:
        low, high = span
        attenuation = low + (high - low) * pixels.astype(np.float32) / 65535
        return Exposure(attenuation.astype(np.float32), "attenuation", geometry=_UNKNOWN)
    return _understood(path, pixels)


def write_png(path: str | Path, image: ArrayLike) -> None:
    """Writes one attenuation image as a 16-bit PNG, bone bright, its range in a text entry.

    `load_frames` reads the attenuation back to 1 / 65535 of its range.

    Raises:
        InputError: The image is not 2D or not finite, or the file cannot be written.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    values = np.asarray(image, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(
            str(path),
            f"an image of shape {values.shape}",
            "finite (rows, columns)",
            "write one frame",
        )
    low, high = float(values.min()), float(values.max())
    grey = np.round(65535 * (values - low) / ((high - low) or 1.0)).astype(np.uint16)
    info = PngInfo()
    info.add_text(_RANGE, f"{low!r} {high!r}")
    write_atomic(path, lambda file: Image.fromarray(grey).save(file, "PNG", pnginfo=info))


def write_npy(path: str | Path, image: ArrayLike) -> None:
    """Writes an array as NPY, float32.

    Raises:
        InputError: The file cannot be written.
    """
    values = np.asarray(image, np.float32)
    write_atomic(path, lambda file: np.save(file, values, allow_pickle=False))


_UNKNOWN = Geometry(
    missing=(
        "no geometry: give sdd= and pixel_spacing= (--sdd, --pixel-spacing) [mm], "
        "or put a camera file beside it",
    )
)


def _understood(path: Path, pixels: np.ndarray) -> Exposure:
    kind = pixels.dtype.kind
    if kind not in "uif" or not np.isfinite(pixels).all():
        raise InputError(
            str(path),
            f"pixels of type {pixels.dtype}, or not finite",
            "finite numbers",
            "convert the image",
        )
    values = pixels.astype(np.float32)
    if kind == "f":
        return Exposure(values, "attenuation", quantum=0.0, geometry=_UNKNOWN)
    bits = 8 if pixels.dtype.itemsize == 1 else max(8, int(pixels.max()).bit_length())
    return Exposure(values, "linear", levels=1 << bits, geometry=_UNKNOWN)


def _read_npy(path: Path) -> tuple[Shaped[np.ndarray, "..."], None]:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    check_size(path, values.shape, values.dtype.itemsize)
    return np.array(values), None


def _read_image(path: Path) -> tuple[Shaped[np.ndarray, "..."], tuple[float, float] | None]:
    from PIL import Image

    with Image.open(path, formats=["PNG", "TIFF", "JPEG", "BMP"]) as image:
        frames = getattr(image, "n_frames", 1)
        check_size(path, (frames, image.height, image.width), 4)
        text = getattr(image, "text", {}).get(_RANGE)
        pages = []
        for index in range(frames):
            image.seek(index)
            image.load()
            pages.append(_grey(path, image))
    span = None if text is None else tuple(float(x) for x in text.split())
    return np.stack(pages), span  # pyright: ignore[reportReturnType]


def _grey(path: Path, image) -> Shaped[np.ndarray, "rows columns"]:
    if image.mode in ("P", "LA", "PA"):
        image = image.convert("RGBA")
    values = np.asarray(image)
    if values.ndim == 3:  # a frame grabber's grey image in three equal channels
        if (values[..., :3] != values[..., :1]).any():
            raise InputError(str(path), "a colour image", "grey values", "convert it to grey")
        values = values[..., 0]
    return values.astype(np.uint8) if values.dtype == bool else values
