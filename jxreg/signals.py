"""Measures what tells a right pose from a wrong one: `confidence.Signals`.

A wrong pose may look alike as a whole, and a wrong camera too. What gives them away is how much of
the image would still have to move to lie on the DRR, in one direction here and in another there:
motion that no pose takes away, and none is left at the right one. A wrong SDD leaves little of it,
since a change of depth makes up for most; what it leaves is told apart by its form.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float

from jxreg import similarity
from jxreg.alignment import Scene, Terms, predict
from jxreg.camera import with_lens
from jxreg.confidence import Signals
from jxreg.frame import add_scatter
from jxreg.precision import product
from jxreg.refinement import ROTATION_SCALE, TRANSLATION_SCALE, nudge
from jxreg.similarity.features import local_features, locally_normalised, visible_gradients
from jxreg.similarity.windows import gaussian_smooth, window_minimum

FINE, BROAD = (0.02, 0.05), (0.05, 0.08)
"""Windows of the local normalisation and of the motion, as fractions of the image's width."""
RIDGE = 0.3
"""Where there is less structure than this fraction of the most, little motion is believed."""
LEAST_GAIN, LARGEST_GAIN = 0.2, 3.0
SDD_WINDOW = 0.02
"""Window of the local normalisation for the SDD, as a fraction of the image's width."""
SDD_BELIEF, SDD_PIXELS = 0.1, 100.0
"""Standard deviation of the logarithm of the SDD before the image is asked, and how many of the
pixels compared make one independent measurement then: where they show too little, as of a small
bone, the SDD is believed."""


def signals_of(scene: Scene, start: jaxlie.SE3, pose: jaxlie.SE3, terms: Terms) -> Signals:
    """Measures the signals of one image.

    Args:
        scene: What the finest level compared.
        start: Where the registration began.
        pose: Where it ended.
        terms: How image and DRR compare there.
    """
    fixed, mask = scene.frame.image, terms.mask
    moving = add_scatter(terms.image, terms.scatter)
    isocenter = scene.volume.isocenter
    depth = pose.apply(isocenter)[2]
    pixel_mm = depth / jnp.abs(scene.frame.camera.intrinsic[0, 0])
    fine, broad = (residual_motion(moving, fixed, mask, *windows) for windows in (FINE, BROAD))
    return Signals(
        similarity=similarity.gradient_correlation(moving, fixed, mask),
        fine_motion=fine * pixel_mm,
        broad_motion=broad * pixel_mm,
        sdd=sdd_error(scene, pose, terms),
        depth=depth - start.apply(isocenter)[2],
        kept=(mask * terms.shadow).sum() / jnp.maximum(terms.shadow.sum(), 1.0),
    )


def sdd_error(scene: Scene, pose: jaxlie.SE3, terms: Terms) -> Float[Array, ""]:
    """Logarithm of the factor that the SDD seems to be wrong by, at the best pose for it.

    One Gauss-Newton step of pose and SDD together, on small detail (local NCC). Of a large error it
    is an underestimate, by about a half: depth has made up for the rest.

    Args:
        scene: What was compared.
        pose: Where the registration ended.
        terms: How image and DRR compare there.
    """
    frame = scene.frame
    unit = jnp.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3 + [SDD_BELIEF])

    def features_at(parameters):
        twist, sdd = jnp.split(parameters * unit, (6,))
        lens = jnp.concatenate([sdd, jnp.zeros(2)])
        seen = replace(frame, camera=with_lens(frame.camera, lens))
        moved = nudge(pose, twist, scene.volume.isocenter)
        image = predict((scene._replace(frame=seen),), (moved,))
        return local_features(add_scatter(image, terms.scatter), terms.mask, SDD_WINDOW).ravel()

    moving, push = jax.linearize(features_at, jnp.zeros(7))
    columns = jax.vmap(push)(jnp.eye(7))
    left = moving - local_features(frame.image, terms.mask, SDD_WINDOW).ravel()
    hessian = product(columns, columns.T)
    hessian = hessian + jnp.diag(1e-6 * jnp.diag(hessian) + 1e-9)
    variance = product(left, left) / jnp.maximum(terms.mask.sum() / SDD_PIXELS, 1.0)
    hessian = hessian.at[6, 6].add(variance)
    return -SDD_BELIEF * jnp.linalg.solve(hessian, product(columns, left))[6]


def residual_motion(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"],
    normalised: float,
    window: float,
) -> Float[Array, ""]:
    """How far the parts of one image are from where the other has them [px], as root mean square.

    It is an underestimate, by about a half, since motion without structure to show it counts as
    none. Both are locally normalised, which takes off what contrast, scatter and noise of air have
    put there; the rest of the contrast is fitted in each window.

    Source: Lucas and Kanade, IJCAI 1981, with the gradients of both images.

    Args:
        moving: The DRR.
        fixed: The image.
        mask: Weights.
        normalised: Window of the local normalisation, as a fraction of the width.
        window: Standard deviation of the window in which all moves alike, the same.
    """
    fixed, moving = (locally_normalised(image, mask, normalised) for image in (fixed, moving))

    def smooth(image):
        return gaussian_smooth(image, window * fixed.shape[1])

    gain = smooth(mask * fixed * moving) / jnp.maximum(smooth(mask * moving**2), 1e-3)
    moving = jnp.clip(gain, LEAST_GAIN, LARGEST_GAIN) * moving
    of_moving, of_fixed = (visible_gradients(image, mask)[0] for image in (moving, fixed))
    weights = window_minimum(mask, 3)
    x, y = (of_moving + of_fixed) / 2
    left = weights * (fixed - moving)[1:-1, 1:-1]
    xx, xy, yy = (smooth(weights * product) for product in (x * x, x * y, y * y))
    structure = xx + yy
    ridge = RIDGE * structure.max() + 1e-9
    xx, yy, xt, yt = xx + ridge, yy + ridge, smooth(x * left), smooth(y * left)
    determinant = xx * yy - xy**2
    across, down = (yy * xt - xy * yt) / determinant, (xx * yt - xy * xt) / determinant
    share = structure / (structure + ridge) * smooth(weights)
    share = share / jnp.maximum(share.sum(), 1e-9)
    return jnp.sqrt((share * (across**2 + down**2)).sum())
