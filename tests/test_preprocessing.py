"""What is found in X-ray images: fields, borders, metal, text, inversion, scale."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw
from xray_files import CAMERA, saved, xray

from jxreg.io import InputWarning, describe, load_frames, save_camera
from jxreg.io.frame_content import frame_content
from jxreg.io.frame_file import read_exposure
from jxreg.preprocessing import (
    NOTHING,
    Detect,
    border_mask,
    brightness,
    collimation_mask,
    dark_air,
    examine,
    lettering_mask,
    looks_inverted,
    metal_mask,
    noise_law,
    open_field,
)

SIZE = 256
V, U = np.mgrid[:SIZE, :SIZE].astype(float)
ALL = np.ones((SIZE, SIZE), bool)


def body(air=True):
    """Attenuation of a trunk with bones and gas; with air on both sides or not."""
    thickness = np.sqrt(np.maximum(1 - ((U - 128) / (100 if air else 260)) ** 2, 0))
    image = 3 * thickness
    for x in (90, 160):  # two long bones: a wall and marrow
        r = np.abs(U - x - 0.1 * (V - 128))
        image += 0.5 * np.sqrt(np.maximum(1 - (r / 14) ** 2, 0))
        image -= 0.3 * np.sqrt(np.maximum(1 - (r / 10) ** 2, 0))
    rib = np.abs((V % 40) - 20 - 0.002 * (U - 128) ** 2)
    image += 0.25 * np.exp(-0.5 * (rib / 4) ** 2) * (thickness > 0.3)
    return image - 0.6 * np.exp(-0.5 * (np.hypot(V - 190, U - 125) / 15) ** 2)


def exposed(image, field=None, leak=0.002, seed=0, photons=20_000):
    """Grey values of a 12-bit detector: shutters, scatter on both sides of them, noise."""
    field = np.ones_like(image) if field is None else field
    scatter = 0.03 * np.exp(-0.5 * (np.hypot(V - 120, U - 140) / 120) ** 2)
    signal = np.exp(-image) * (leak + (1 - leak) * field) + scatter * (0.3 + 0.7 * field)
    counts = np.random.default_rng(seed).poisson(photons * signal)
    return np.clip(np.round(4095 * counts / (1.2 * photons)), 0, 4095).astype(np.uint16)


def absorbed(grey):
    return np.log(grey.max() / np.maximum(grey, 0.5)).astype(np.float32)


def field_of(image, seen=ALL):
    return open_field(brightness(image, seen), seen)


def rectangle(degrees, height=90.0, width=80.0):
    turn = np.radians(degrees)
    y = (V - 130) * np.cos(turn) + (U - 124) * np.sin(turn)
    x = (U - 124) * np.cos(turn) - (V - 130) * np.sin(turn)
    return ((np.abs(y) < height) & (np.abs(x) < width)).astype(float)


def rod(row0, column0, row1, column1, radius):
    """Chord [px] of a rod in the plane of the image."""
    along = np.array([row1 - row0, column1 - column0], float)
    t = np.clip(((V - row0) * along[0] + (U - column0) * along[1]) / (along @ along), 0, 1)
    away = np.hypot(V - row0 - t * along[0], U - column0 - t * along[1])
    return 2 * np.sqrt(np.maximum(radius**2 - away**2, 0))


# --- field --------------------------------------------------------------------------------------


@pytest.mark.parametrize("air", [True, False])
@pytest.mark.parametrize("degrees", [0.0, 7.0, -31.0])
def test_four_shutters_turned(degrees, air):
    field = rectangle(degrees)
    found = field_of(absorbed(exposed(body(air), field)))
    assert len(found.curves) == 4
    assert found.mask[field == 0].max() == 0
    assert found.mask[rectangle(degrees, 85.0, 75.0) > 0].min() == 1


@pytest.mark.parametrize("side", [(0, 1), (1, 0), (0, -1), (-1, 0)])
def test_one_shutter(side):
    """A single one, for which all the rest of the image speaks."""
    away = (V - 127.5) * side[0] + (U - 127.5) * side[1]
    found = field_of(absorbed(exposed(body(air=False), (away < 95).astype(float))))
    assert len(found.curves) == 1
    assert found.mask[away > 95].max() == 0
    assert found.mask[away < 90].min() == 1


def test_round_field():
    away = np.hypot(V - 122, U - 133)
    found = field_of(absorbed(exposed(body(air=False), (away < 105).astype(float))))
    assert len(found.curves) == 1
    assert found.mask[away > 105].max() == 0
    assert found.mask[away < 101].min() == 1


def test_round_field_cut_by_shutters():
    away = np.hypot(V - 128, U - 128)
    field = (away < 115) & (np.abs(V - 128) < 95)
    found = field_of(absorbed(exposed(body(air=False), field.astype(float))))
    assert len(found.curves) == 3
    assert found.mask[~field].max() == 0
    assert found.mask[(away < 111) & (np.abs(V - 128) < 91)].min() == 1


def limb(degrees=20.0):
    """A straight limb that covers all behind its edge, as a shutter does; but it has a bone."""
    turn = np.radians(degrees)
    deep = (U - 128) * np.cos(turn) + (V - 128) * np.sin(turn)
    image = 2.5 * np.sqrt(np.clip(deep / 150, 0, 1))
    return image + 0.8 * np.exp(-0.5 * ((deep - 70) / 6) ** 2)


@pytest.mark.parametrize("image", [body(), body(air=False), limb(), limb(0.0), body().T])
@pytest.mark.parametrize("noisy", [True, False])
def test_anatomy_is_no_shutter(image, noisy):
    image = absorbed(exposed(image)) if noisy else image.astype(np.float32)
    found = field_of(image)
    assert found.curves == ()
    assert found.mask.all()


def test_a_metal_plate_is_no_shutter():
    """Dark, even, with straight edges, but the image goes on behind it."""
    plate = (np.abs(V - 128) < 15) & (np.abs(U - 128) < 60)
    assert field_of(absorbed(exposed(body(air=False) + 3 * plate))).curves == ()


def test_what_is_closed_already_stays_out_of_it():
    seen = rectangle(0.0) > 0
    image = np.where(seen, absorbed(exposed(body(air=False))), 50.0).astype(np.float32)
    assert open_field(brightness(image, seen), seen).curves == ()


# --- border -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 800, 4095])
def test_frame_of_one_value(value):
    grey = exposed(body(air=False)).astype(np.float32)
    grey[:3], grey[:, -5:] = value, value
    mask = border_mask(-grey, 1.0)
    assert mask[:3].max() == mask[:, -5:].max() == 0
    assert mask[3:, :-5].min() == 1


def test_air_and_noise_are_no_border():
    saturated = np.minimum(exposed(body()), 2000).astype(np.float32)  # air at one value
    assert np.ptp(saturated[:, 0]) == 0
    assert border_mask(-saturated, 1.0).all()
    assert border_mask(np.full((64, 64), 7, np.float32), 1.0).all()
    assert border_mask(body().astype(np.float32), 0.0).all()


def round_field(rows=200, columns=240, outside=0):
    v, u = np.mgrid[:rows, :columns]
    radius = np.hypot(v - rows / 2, u - columns / 2)
    image = 60 + 120 * np.exp(-(radius**2) / 9000) + 5 * np.sin(u / 3)
    return np.where(radius < 95, image, outside).astype(np.uint8), radius


def test_round_dark_border_is_masked():
    image, radius = round_field()
    mask = collimation_mask(image)
    assert mask[radius > 96].max() == 0
    assert mask[radius < 92].min() == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda image, radius: image,  # no border at all
        lambda image, radius: np.where(radius < 95, image, 255),  # saturated air
        lambda image, radius: np.where(radius < 20, 0, image),  # a dark implant inside
        lambda image, radius: np.zeros_like(image),  # nothing to see anywhere
        lambda image, radius: np.where(radius > 136, 0, image),  # a speck in a corner
    ],
)
def test_what_is_not_a_dark_border_stays(change):
    v, u = np.mgrid[:200, :200]
    image = (60 + 50 * np.sin(u / 9) * np.cos(v / 11) + v / 5).astype(np.uint8)
    assert collimation_mask(change(image, np.hypot(v - 100, u - 100))).all()


def test_smooth_anatomy_that_reaches_the_border_stays():
    """A noise-free projection is dark and smooth at the border, but not constant."""
    u = np.linspace(0, 1, 200)
    image = np.tile(4000 * np.exp(-6 * u), (200, 1)).round()
    assert collimation_mask(image).all()


# --- metal --------------------------------------------------------------------------------------


def screws():
    return rod(60, 60, 90, 110, 3) + rod(150, 170, 200, 140, 3) + rod(120, 20, 130, 230, 1)


@pytest.mark.parametrize("air", [True, False])
def test_metal_is_found(air):
    metal = 0.5 * screws()
    mask = metal_mask(absorbed(exposed(body(air) + metal)), ALL)
    assert (mask[metal > 1] == 0).mean() > 0.95
    near = np.hypot(*np.gradient(metal)) + metal > 0
    assert (mask[~near] == 0).mean() < 0.05


@pytest.mark.parametrize("image", [body(), body(air=False), limb()])
def test_bone_is_no_metal(image):
    assert metal_mask(absorbed(exposed(image)), ALL).all()


def test_metal_by_the_edge_of_the_field():
    """The dark outside is no metal, and a bar that leaves the field is found."""
    seen = rectangle(0.0) > 0
    bar = rod(0, 128, 255, 128, 4)
    mask = metal_mask(absorbed(exposed(body(air=False) + 0.5 * bar, rectangle(0.0))), seen)
    assert (mask[(bar > 3) & seen] == 0).mean() > 0.9
    assert mask[seen & (np.abs(U - 128) > 12)].min() == 1


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 4095])
def test_burnt_in_text(value):
    canvas = Image.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(canvas).text((20, 200), "LAO 30 CRA 15", fill=255, font_size=16)
    letters = np.asarray(canvas) > 100
    grey = np.where(letters, value, exposed(body(air=False)).clip(600, 2500)).astype(np.float32)
    mask = lettering_mask(grey)
    assert (mask[letters] == 0).mean() > 0.9
    assert mask[:190].min() == 1
    assert (mask == 0).mean() < 0.06


def test_anatomy_is_no_text():
    for image in (body(), body(air=False), body() + 0.5 * screws()):
        assert lettering_mask(absorbed(exposed(image))).all()


# --- what grey values mean ----------------------------------------------------------------------


def hand():
    """Grey values of two fingers in air, which is exposed to white."""
    finger = np.maximum(rod(255, 100, 60, 90, 25), rod(255, 160, 90, 175, 25))
    return np.minimum(exposed(0.05 * finger), 3000).astype(np.float32)


def test_dark_air_is_inverted():
    assert not dark_air(hand(), 1.0)
    assert dark_air(3000 - hand(), 1.0)
    assert looks_inverted(hand(), 1.0) is None
    assert "air" in (looks_inverted(3000 - hand(), 1.0) or "")


def test_bright_shutters_are_inverted():
    grey = exposed(body(air=False), rectangle(7.0)).astype(np.float32)
    assert looks_inverted(grey, 1.0) is None
    assert "shutters" in (looks_inverted(grey.max() - grey, 1.0) or "")
    clean = exposed(body(air=False)).astype(np.float32)
    assert looks_inverted(clean, 1.0) is None  # and where nothing tells, nothing is said
    assert looks_inverted(clean.max() - clean, 1.0) is None


@pytest.mark.parametrize("image", [body(), limb(), limb(75.0)])
def test_noise_tells_the_scale(image):
    grey = exposed(image, photons=5000).astype(np.float32)
    logarithm = np.round(500 * np.log(np.maximum(grey, 1))).astype(np.float32)
    assert noise_law(grey, ALL, 1.0) == "linear"
    assert noise_law(logarithm, ALL, 1.0) == "log"
    smooth = np.round(4000 * np.exp(-image)).astype(np.float32)
    assert noise_law(smooth, ALL, 1.0) == "unknown"


# --- all together -------------------------------------------------------------------------------


def test_report_in_words():
    metal = 0.5 * screws()
    image = absorbed(exposed(body(air=False) + metal, rectangle(7.0)))
    found = examine(image, detect=Detect(metal=True))
    assert [note.split(":")[0] for note in found.notes] == [
        "4 straight edges of shutters",
        "metal",
    ]
    assert examine(image, detect=NOTHING).notes == ()
    assert examine(image, detect=NOTHING).mask.all()
    only = examine(image)
    assert only.mask[(metal > 1) & (rectangle(7.0, 80, 70) > 0)].min() == 1
    known = np.ones_like(image)
    known[:100] = 0
    assert examine(image, known).mask[:100].max() == 0


@pytest.mark.parametrize("factor", [3, 4])
def test_large_images_are_searched_small(factor):
    """The mask of a large image is that of the small one, to a pixel of it."""
    field = rectangle(7.0)
    small = absorbed(exposed(body(air=False), field))
    large = small.repeat(factor, 0).repeat(factor, 1)[: -factor + 1]
    mask = examine(large).mask
    assert mask.shape == large.shape
    truth = field.repeat(factor, 0).repeat(factor, 1)[: -factor + 1]
    assert (mask[truth == 0] == 0).mean() > 0.995
    assert (mask[truth > 0] == 0).mean() < 0.08


def test_constant_and_non_finite_images():
    assert examine(np.zeros((64, 64), np.float32)).mask.all()
    image = absorbed(exposed(body()))
    image[:, :30] = np.nan
    assert np.isfinite(examine(image).mask).all()
    assert examine(np.full((64, 64), np.nan, np.float32)).notes == ()


# --- files --------------------------------------------------------------------------------------


def written(tmp_path, grey):
    path = tmp_path / "x.png"
    Image.fromarray(grey.astype(np.uint16)).save(path)
    save_camera(tmp_path / "x.json", CAMERA_OF_SIZE)
    return path


CAMERA_OF_SIZE = type(CAMERA).from_sdd(1000.0, (SIZE, SIZE), (1.0, 1.0))


def test_load_frames_masks_and_tells(tmp_path):
    path = written(tmp_path, exposed(body(air=False), rectangle(7.0)))
    with pytest.warns(InputWarning, match="4 straight edges"):
        frames = load_frames(path)
    assert np.asarray(frames.mask)[0][rectangle(7.0) == 0].max() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = load_frames(path, detect=NOTHING)
    assert plain.mask is None
    np.testing.assert_array_equal(plain.image, frames.image)
    found = describe(path)
    assert "4 straight edges" in found.facts["found in the first frame"]
    assert found.facts["usable part of the first frame [%]"] < 50


def test_inverted_files_are_told_and_turned_only_if_asked(tmp_path):
    path = written(tmp_path, 3000 - hand())
    with pytest.warns(InputWarning, match="looks inverted"):
        told = load_frames(path)
    with pytest.warns(InputWarning, match="turned"):
        turned = load_frames(path, detect=Detect(inverted=True))
    right = load_frames(written(tmp_path, hand()), detect=NOTHING)
    correlation = [
        np.corrcoef(np.ravel(f.image), np.ravel(right.image))[0, 1] for f in (told, turned)
    ]
    assert correlation[0] < 0 < 0.95 < correlation[1]


def test_logarithm_without_a_header_is_seen_by_its_noise(tmp_path):
    grey = exposed(body(), photons=5000)
    stored = np.round(500 * np.log(np.maximum(grey, 1)))
    path = written(tmp_path, stored)
    with pytest.warns(InputWarning, match="logarithm"):
        seen = load_frames(path)
    np.testing.assert_array_equal(seen.image, load_frames(path, intensity="log").image)
    plain = load_frames(path, detect=Detect(scale=False))
    np.testing.assert_array_equal(plain.image, load_frames(path, intensity="linear").image)


def test_complete_tags_are_believed(tmp_path):
    """Whatever the noise and the air look like, the attenuation is that of the tags."""
    stored = (3000 - hand())[None].astype(np.uint16)
    path = saved(tmp_path, xray(stored, PixelIntensityRelationshipSign=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = load_frames(path, detect=Detect(field=False, inverted=True))
    np.testing.assert_array_equal(kept.image, load_frames(path, detect=NOTHING).image)


def test_shutters_stand_still_and_metal_moves(tmp_path):
    field = rectangle(0.0)
    stack = [
        exposed(body(air=False) + 0.5 * rod(60 + 30 * k, 80, 60 + 30 * k, 170, 3), field, seed=k)
        for k in range(3)
    ]
    np.save(tmp_path / "x.npy", np.stack(stack))
    with pytest.warns(InputWarning, match="metal in 3 of 3 frames"):
        frames = load_frames(tmp_path / "x.npy", camera=CAMERA_OF_SIZE, detect=Detect(metal=True))
    mask = np.asarray(frames.mask)
    assert mask[:, field == 0].max() == 0
    for k in range(3):
        assert mask[k, 60 + 30 * k, 100:150].max() == 0
        assert mask[k, 60 + 30 * ((k + 1) % 3), 100:150].min() == 1


# --- real images --------------------------------------------------------------------------------

REAL = [
    ("dicom-xray/RG2_J2KR.dcm", "2 straight edges of shutters", (0.28, 0.34)),
    ("dicom-xray/RG3_J2KR.dcm", "2 straight edges of shutters", (0.54, 0.66)),
    ("dicom-xray/XA1_UNC.dcm", "", (0.21, 0.25)),  # a round field that is constant outside
    ("dicom-xray/dx_image.dcm", "", (0.0, 0.01)),
    ("wrist-biplane-xray-ct/xr_rad_uln_cam01_UND.0099.tif", "round field", (0.22, 0.26)),
    ("knee-biplane-xray/L_Hop_Cam1_001_UND.0138.tif", "round field", (0.22, 0.26)),
]


@pytest.mark.parametrize(("name", "words", "closed"), REAL)
def test_real_images(data_dir, name, words, closed):
    if "J2KR" in name:
        pytest.importorskip("openjpeg")
    content = frame_content(read_exposure(data_dir / name), Detect())
    field = [note.split(":")[0] for note in content.notes if "edge" in note or "field" in note]
    assert field == [words] * bool(words)
    masked = 0.0 if content.mask is None else 1 - float(content.mask.mean())
    assert closed[0] <= masked <= closed[1]
    assert not any("inverted" in note for note in content.notes)
