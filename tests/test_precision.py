"""No product of matrices is left to the default of a device, which may be ten bits."""

import jax
import jax.numpy as jnp
import jaxlie
import pytest
from drr_oracles import random_volume, view

import jxreg
from jxreg import camera as cameras
from jxreg import drr, metrics, pose
from jxreg.alignment import Level
from jxreg.physics import blur, noise
from jxreg.physics.signal import Response
from jxreg.refinement import levenberg_marquardt
from jxreg.register import RegisterConfig

CAMERA, POSE = view((16, 16))
POINTS = jnp.ones((5, 3))


def registered(start):
    config = RegisterConfig(levels=(Level(16, 0, steps=1, scatter=True),))
    frame = jxreg.Frame(jnp.ones((16, 16)), CAMERA)
    return jxreg.register(random_volume(), frame, start, config=config)


def volume_gradient(start):
    def loss(mu):
        volume = jxreg.Volume(mu, random_volume().affine, jnp.zeros(3))
        return drr.render(volume, CAMERA, start).sum()

    return jax.grad(loss)(random_volume().mu)


def matched(start):
    def residuals(pose):
        return pose.apply(POINTS) - POINTS

    return levenberg_marquardt(residuals, start, pivot=POINTS[0], steps=2)


CALLS = {
    "render": lambda p: drr.render(random_volume(), CAMERA, p),
    "volume gradient": volume_gradient,
    "pose gradient": jax.grad(
        lambda p: drr.render(random_volume(), CAMERA, jaxlie.SE3(p.wxyz_xyz)).sum()
    ),
    "register": registered,
    "levenberg_marquardt": matched,
    "perturb": lambda p: pose.perturb(p, jnp.ones(6), POINTS[0]),
    "twist_between": lambda p: pose.twist_between(p, p, POINTS[0]),
    "project_points": lambda p: cameras.project_points(CAMERA, p, POINTS),
    "downsample": lambda p: cameras.downsample(CAMERA, 2),
    "modulation": lambda p: blur.modulation(blur.gaussian(p.translation()[0]), jnp.ones(2)),
    "sampled_signal": lambda p: noise.sampled_signal(
        jax.random.key(0),
        p.translation()[:, None, None],
        jnp.ones((3, 2)),
        jnp.ones(2),
        Response(jnp.ones(2), jnp.ones(2)),
        jnp.ones((1, 1)),
    ),
    "mrpd": lambda p: metrics.mrpd(p, p, POINTS),
}


def products(function) -> list[str]:
    text = jax.jit(function).lower(POSE).as_text()
    return [line for line in text.splitlines() if "dot_general" in line and "xf32>" in line]


def inexact(function) -> list[str]:
    return [line for line in products(function) if "[HIGHEST, HIGHEST]" not in line]


@pytest.mark.parametrize("name", CALLS)
def test_products_keep_their_digits(name):
    assert inexact(CALLS[name]) == []


def test_such_a_product_would_be_seen():
    assert inexact(lambda p: POINTS @ p.rotation().as_matrix())
    assert products(CALLS["register"])
