"""The task of a network that says a pose of one image: what most recipes have in common."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxlie import SE3
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg import metrics
from jxreg.nets import PoseNet, Prediction
from jxreg.pose import moved
from jxreg.recipes.patients import Draw, Sample, draw_sample
from jxreg.recipes.recipe import Geometry, Patient, camera_of, reference_pose
from jxreg.stepping import Params, Task
from jxreg.volume import Volume

SampleLoss = Callable[
    [Prediction, SE3, Sample, Patient], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]
]
"""Loss of one sample, and values to log: of what the network says, the pose that this is, the
sample and its patient."""
Normalise = Callable[[Float[Array, "rows columns"]], Float[Array, "channels rows columns"]]
"""Input of a network, of an image in [0, 1]."""


def regression(
    net: PoseNet,
    draw: Draw,
    normalise: Normalise,
    sample_loss: SampleLoss,
    share: Callable[[PRNGKeyArray, Float[Array, ""]], Float[Array, ""]] = lambda key, level: level,
) -> Task:
    """A task that draws samples and compares poses.

    Args:
        net: The network.
        draw: How a sample is drawn.
        normalise: What the network is given.
        sample_loss: How wrong one prediction is.
        share: Share of the pose range of a sample, of its key and the curriculum's level.
    """

    def loss(params: Params, keys, patient: Patient, level: Float[Array, ""]):
        def one(key: PRNGKeyArray):
            share_key, draw_key = jax.random.split(key)
            drawn = draw_sample(draw_key, patient.volume, draw, share(share_key, level))
            said = net.apply(params, normalise(drawn.frame.images))
            pose = pose_of(said, draw.geometry, patient.volume)
            value, log = sample_loss(said, pose, drawn, patient)
            return drawn.frame.weights, value, log

        weights, values, log = jax.vmap(one)(keys)
        log = {name: weighted(weights, each) for name, each in log.items()}
        return weighted(weights, values), log | {"weight": weights.mean()}

    def locate(params: Params, volume: Volume, image) -> SE3:
        return pose_of(net.apply(params, normalise(image)), draw.geometry, volume)

    return Task(net.init, loss, lambda params, patient: errors(locate, params, patient, draw))


def pose_of(said: Prediction, geometry: Geometry, volume: Volume) -> SE3:
    """The pose of a network's motion."""
    return moved(reference_pose(geometry, volume.isocenter), said.motion, volume.isocenter)


def standardised(image: Float[Array, "rows columns"]) -> Float[Array, "1 rows columns"]:
    """Mean 0 and deviation 1, of each image by itself."""
    return ((image - image.mean()) / (image.std() + 1e-3))[None]


def weighted(weights: Float[Array, " batch"], values: Float[Array, " batch"]) -> Float[Array, ""]:
    """Mean over a batch; what has weight 0 counts as 0, NaN or not."""
    return (weights * jnp.where(weights > 0, values, 0.0)).mean()


def errors(locate, params: Params, patient: Patient, draw: Draw) -> dict[str, Float[Array, ""]]:
    """Errors on the validation set: mTRE (mean and median), mPD, and the success rate.

    Args:
        locate: The pose of parameters, volume and image.
        params: Parameters.
        patient: With its validation set.
        draw: What the set was drawn from.
    """
    camera = camera_of(draw.geometry)
    images, truths = patient.fixed
    found = jax.vmap(lambda image: locate(params, patient.volume, image))(images)

    def one(pose: SE3, truth: SE3):
        landmarks = patient.landmarks
        return (
            metrics.mtre(pose, truth, landmarks),
            metrics.mpd(pose, truth, landmarks, camera),
            metrics.mrpd(pose, truth, landmarks),
        )

    mtre, mpd, mrpd = jax.vmap(one)(found, truths)
    return {
        "mtre": mtre.mean(),
        "mtre_median": jnp.median(mtre),
        "mpd": mpd.mean(),
        "mpd_median": jnp.median(mpd),
        "mrpd_median": jnp.median(mrpd),
        "below_30_mm": (mtre < 30).mean(),
    }
