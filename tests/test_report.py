"""Records, words and pages of registrations; pictures."""

import json
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg import plot, report
from jxreg import pose as pose_
from jxreg.camera import Camera
from jxreg.descent import Trace
from jxreg.io import load_camera
from jxreg.register import Registration, Status
from jxreg.report import words

ISOCENTER = jnp.array([10.0, -20.0, 30.0])
EVIL = '<script>alert(1)</script>{{ 7 * 7 }}"><img src=x onerror=alert(2)>'


def a_camera(mirrored=True):
    return Camera.from_sdd(1000.0, (60, 80), (2.0, 1.5), mirrored=mirrored)


def a_pose(**changes):
    angles = {"primary_degrees": 30.0, "secondary_degrees": -12.0, "roll_degrees": 5.0}
    offset = (1.0, -2.0, 3.0)
    return pose_.from_carm(
        **(angles | changes), source_to_isocenter=700.0, isocenter=ISOCENTER, offset=offset
    )


def a_result(status=Status.OK, pose=None, **changes):
    steps = 6
    trace = Trace(
        jnp.linspace(0.3, 0.9, steps),
        jnp.array([5.0, 1.0, 0.0, 2.0, 0.1, 0.0]),
        jnp.array([0, 0, 0, 1, 1, 1]),
        None,
    )
    fields = {
        "pose": a_pose() if pose is None else pose,
        "status": jnp.int32(status),
        "probability": jnp.float32(0.95),
        "similarity": jnp.float32(0.9),
        "initial_similarity": jnp.float32(0.3),
        "covariance": jnp.diag(jnp.array([0.1, 0.2, 3.0, 0.01, 0.02, 0.03]) ** 2),
        "coverage": jnp.float32(0.8),
        "kept": jnp.float32(0.7),
        "trace": trace,
    }
    return Registration(**(fields | changes))


def a_record(result=None, mirrored=True, start=None, **context):
    return report.registration_record(
        a_result() if result is None else result,
        a_pose(primary_degrees=25.0) if start is None else start,
        a_camera(mirrored),
        ISOCENTER,
        report.Context(**context),
    )


def test_record_is_strict_json_and_tells_the_carm():
    record = a_record(source := a_result())
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["status"] == "OK"
    np.testing.assert_allclose(
        record["camera_from_world"], source.pose.as_matrix(), atol=1e-4
    )  # float32 quaternion, distances of 1 m
    carm = record["carm"]
    # the depth is counted from the start's 703 mm
    expected = (30.0, -12.0, 5.0, 703.0)
    found = [carm[f"{k}_degrees"] for k in ("primary", "secondary", "roll")]
    np.testing.assert_allclose([*found, carm["source_to_isocenter"]], expected, atol=1e-3)
    np.testing.assert_allclose(carm["offset"], (1.0, -2.0, 0.0), atol=1e-3)
    np.testing.assert_allclose(record["moved"]["rotation_degrees"], 5.0, atol=1e-3)


def test_numbers_that_are_not_finite_become_null():
    nothing = a_result(
        Status.NON_FINITE, similarity=jnp.float32(jnp.nan), covariance=jnp.full((6, 6), jnp.inf)
    )
    record = a_record(nothing)
    assert record["similarity"] is None
    assert record["standard_deviation"]["offset"] == [None, None, None]
    assert record["standard_deviation"]["primary_degrees"] is None
    assert "–" in report.report_html(record, {})


def test_deviations_are_the_jacobian_of_the_angles():
    from jxreg.report.record import _deviations, _shown

    def displayed(twist, pose):
        moved = pose_.perturb(pose, twist, ISOCENTER)
        carm = pose_.to_carm(moved, source_to_isocenter=0.0, isocenter=ISOCENTER)
        return jnp.concatenate([jnp.stack([carm.primary, carm.secondary, carm.roll]), carm.offset])

    jacobian_at = jax.jit(jax.jacfwd(displayed))
    rng = np.random.default_rng(0)
    for primary, secondary in ((0.0, 0.0), (-150.0, 55.0), (100.0, -60.0)):
        root = rng.normal(size=(6, 6))
        covariance = root @ root.T
        pose = a_pose(primary_degrees=primary, secondary_degrees=secondary)
        jacobian = np.asarray(jacobian_at(jnp.zeros(6), pose), np.float64)
        expected = np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))
        angles, offset = _deviations(_shown(pose, pose, ISOCENTER).angles, covariance)
        np.testing.assert_allclose([*angles, *offset], expected, rtol=1e-4)  # float32 Jacobian


def test_words_of_the_carm():
    assert words.laterality(12.34) == "LAO 12.3°"
    assert words.laterality(-5.0) == "RAO 5.0°"
    assert words.laterality(-0.01) == "0.0°"
    assert words.tilt(4.0) == "cranial 4.0°"
    assert words.tilt(-4.0) == "caudal 4.0°"
    assert words.tilt(None) == "–"
    assert words.number(-0.001, 2) == "0.00"
    assert words.number(-1.5, 1, " mm") == "−1.5 mm"


def test_directions_are_those_of_the_displayed_image():
    # offset (1, -2) mm: right and up as the source sees it; a mirror exchanges left and right
    rows = {row.name: row for row in words.pose_rows(a_record(mirrored=False))}
    assert rows["Across"].result == "1.0 mm right"
    assert rows["Up and down"].result == "2.0 mm up"
    assert rows["Image rotation"].result == "5.0° clockwise"
    rows = {row.name: row for row in words.pose_rows(a_record(mirrored=True))}
    assert rows["Across"].result == "1.0 mm left"
    assert rows["Image rotation"].result == "5.0° anticlockwise"
    assert rows["Primary angle"].change == "+5.0°"


def test_change_of_an_angle_takes_the_short_way():
    record = a_record(
        a_result(pose=a_pose(primary_degrees=-179.0)), start=a_pose(primary_degrees=179.0)
    )
    assert words.pose_rows(record)[0].change == "+2.0°"


def test_edge_letters():
    straight = a_pose(primary_degrees=0.0, secondary_degrees=0.0, roll_degrees=0.0)
    # at 0/0 the source is behind the patient: the right is on the right, mirrored on the left
    letters = words.edge_letters(a_record(a_result(pose=straight), mirrored=False))
    assert letters == {"right": "R", "left": "L", "top": "H", "bottom": "F"}
    letters = words.edge_letters(a_record(a_result(pose=straight), mirrored=True))
    assert (letters["left"], letters["right"]) == ("R", "L")
    lateral = a_pose(primary_degrees=90.0, secondary_degrees=0.0, roll_degrees=0.0)
    # the detector on the patient's left, the source on the right: the front is on the right
    letters = words.edge_letters(a_record(a_result(pose=lateral), mirrored=False))
    assert (letters["left"], letters["right"]) == ("P", "A")


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_its_page(status):
    record = a_record(a_result(status))
    page = report.report_html(record, {})
    verdict = words.verdict(record)
    assert verdict.headline in page
    assert f'class="verdict {verdict.kind}"' in page
    assert (verdict.kind == "good") == (status == Status.OK)


def test_reasons_name_the_threshold():
    config = {"thresholds": {"probability": 0.4, "kept": 0.2}}
    record = a_record(
        a_result(Status.SUSPECT, probability=jnp.float32(0.3), similarity=jnp.float32(0.25)),
        config=config,
        title="x",
    )
    assert record["reasons"] == [
        "The probability that it is right is 0.30; it must be above 0.40.",
        "The start matches better: the similarity fell by 0.050.",
    ]


def test_reasons_for_what_is_out_of_view_or_still_moves():
    config = {"thresholds": {"overlap": 0.25, "step_mm": 0.05}}
    (told,) = a_record(
        a_result(Status.OUT_OF_VIEW, coverage=jnp.float32(0.03)), config=config, title="x"
    )["reasons"]
    assert "covered 3 %" in told
    assert "25 % of the volume must be on the image" in told
    (told,) = a_record(a_result(Status.NOT_CONVERGED), config=config, title="x")["reasons"]
    assert told.startswith("The last step was 0.10 mm long")
    assert told.endswith("below 0.05 mm.")
    for status in (Status.OUT_OF_VIEW, Status.NOT_CONVERGED):  # no limit known
        assert len(a_record(a_result(status))["reasons"]) == 1
    for status in (Status.OK, Status.NO_SIGNAL, Status.NON_FINITE):
        assert a_record(a_result(status), config=config)["reasons"] == []


def test_small_loss_is_no_reason():
    from jxreg.verdict import Evidence, Thresholds, judge

    def told(loss):
        similarity = jnp.float32(0.8)
        first = similarity + loss
        evidence = Evidence(
            jnp.bool_(True), jnp.float32(1), jnp.float32(1), jnp.float32(1), similarity, first,
            jnp.float32(1), jnp.float32(0),
        )  # fmt: skip
        result = a_result(Status.SUSPECT, similarity=similarity, initial_similarity=first)
        return int(judge(evidence, Thresholds())), a_record(result)["reasons"]

    assert told(words.TOLERATED_LOSS - 1e-3) == (Status.OK, [])
    status, reasons = told(words.TOLERATED_LOSS + 1e-3)
    assert status == Status.SUSPECT
    assert len(reasons) == 1
    (check,) = [c for c in words.checks(a_record()) if c.name == "Gain over the start"]
    assert "0.02" in check.meaning


def test_failures_say_that_the_pose_is_the_start():
    for status in (Status.NO_SIGNAL, Status.OUT_OF_VIEW, Status.NON_FINITE):
        assert (
            "The pose shown is the start." in words.verdict(a_record(a_result(status))).explanation
        )
    page = report.report_html(a_record(), {})
    assert "mostly that belief" in page
    assert "curvature" not in page


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action", "xlink:href")]
        assert not any(k.startswith("on") for k, _ in attrs)


def a_page():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(60, 80)) + 3
    pictures = plot.pictures(image, None, image + 0.1, image)
    trace = a_result().trace
    curve = plot.similarity_figure(trace.similarity, trace.step_mm, trace.level, (EVIL,))
    inputs = ({"role": "X-ray", "name": EVIL, "sha256": "0" * 64},)
    record = a_record(
        title=EVIL, start_source=EVIL, inputs=inputs, notes=(EVIL,), config={"name": EVIL}
    )
    return report.report_html(record, pictures | {"curve": plot.svg(curve)})


def test_page_is_self_contained_and_runs_nothing_foreign():
    page = a_page()
    tags = _Tags()
    tags.feed(page)
    assert tags.found.count("script") == 1
    assert all(address.startswith("data:image/") for address in tags.addresses)
    assert tags.found.count("img") == 2 + len(report.PLATES) + 1  # viewer, plates, curve
    outside_of_pictures = re.sub(r"data:image/[^\"]*", "", page)
    assert "http" not in outside_of_pictures.replace("http-equiv", "")
    assert EVIL not in page
    assert "49" not in re.findall(r"&lt;/script&gt;(.{0,20})", page)[0]


def test_only_the_script_of_the_page_may_run():
    import base64
    import hashlib

    page = a_page()
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', page)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in policy[1]


def test_batch_page_counts_and_links():
    records = [a_record(a_result(s), title=EVIL) for s in (Status.OK, Status.OK, Status.SUSPECT)]
    page = report.batch_html(records, ["a/report.html", "b/report.html", "c/report.html"])
    assert EVIL not in page
    assert page.count("/report.html") == 3
    counts = re.findall(r"<strong>(\d+)</strong>", page)
    assert counts == ["2", "1", "0"]


def test_contours_lie_on_the_edge():
    disc = np.hypot(*(np.indices((101, 101)) - 50)) < 30
    lines = plot.contours(disc.astype(float), sigma=2.0)
    row, column = np.nonzero(lines > 0.5)
    radius = np.hypot(row - 50, column - 50)
    # a thin ring: within a pixel of the disc's border at 29.5
    assert np.abs(radius - 29.5).max() < 1.0
    assert 100 < row.size < 400
    assert not plot.contours(np.zeros((20, 30))).any()


def test_matched_recovers_contrast():
    rng = np.random.default_rng(0)
    moving = rng.normal(size=(20, 30))
    fixed = 3 * moving + 2
    fixed[0] = np.nan
    np.testing.assert_allclose(plot.matched(moving, fixed), 3 * moving + 2, atol=1e-9)
    flat = plot.matched(np.zeros((20, 30)), fixed)
    np.testing.assert_allclose(flat, np.nanmean(fixed), atol=1e-9)


def test_difference_is_white_where_images_agree():
    image = np.random.default_rng(0).normal(size=(16, 16))
    same = plot.difference(2 * image + 1, image).astype(int)
    assert (same > 240).all()
    more = plot.difference(image, image + 2 * (np.indices(image.shape)[0] > 12)).astype(int)
    assert (more[14, :, 0] > more[14, :, 2]).all()  # red: the X-ray absorbs more


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (64, 64)])
def test_pictures_of_odd_images(shape):
    broken = np.full(shape, np.nan)
    for image in (np.zeros(shape), broken):
        pictures = plot.pictures(image, None, np.zeros(shape), np.zeros(shape))
        assert set(pictures) == set(report.PLATES)
        assert all(p.startswith(b"\xff\xd8") for p in pictures.values())


def test_curve_does_not_change_from_run_to_run_and_survives_nan():
    trace = a_result().trace
    drawn = [
        plot.svg(plot.similarity_figure(trace.similarity, trace.step_mm, trace.level))
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    empty = plot.similarity_figure(np.full(4, np.nan), np.zeros(4), np.zeros(4, int))
    assert plot.svg(empty).lstrip().startswith(b"<?xml")


def test_record_keeps_a_camera_file(tmp_path):
    record = a_record()
    (tmp_path / "camera.json").write_text(json.dumps(record["camera"]))
    assert load_camera(tmp_path / "camera.json").image_size == (60, 80)
