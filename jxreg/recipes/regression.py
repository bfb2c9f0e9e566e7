"""The recipe of one network that says a pose of one image: what most have in common."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg import metrics
from jxreg.nets import HeadConfig, PoseNet, Prediction
from jxreg.pose import moved
from jxreg.recipes.patients import Draw, PatientConfig, Sample, draw_sample, prepare
from jxreg.recipes.recipe import Geometry, Patient, Recipe, camera_of, reference_pose
from jxreg.sampling import Sampler, deviation
from jxreg.stepping import Params, Task
from jxreg.training import TrainConfig
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
    *,
    patient: PatientConfig,
    train: TrainConfig,
    share: Callable[[PRNGKeyArray, Float[Array, ""]], Float[Array, ""]] = lambda key, level: level,
) -> Recipe:
    """A recipe that draws samples and compares poses.

    Args:
        net: The network.
        draw: How a sample is drawn.
        normalise: What the network is given.
        sample_loss: How wrong one prediction is.
        patient: How volumes are prepared.
        train: How it is trained.
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

    def validate(params: Params, patient: Patient):
        return errors(locate, params, patient, draw)

    task = Task(net.init, loss, validate)
    return Recipe(draw.geometry, task, train, lambda all: prepare(all, draw, patient), locate)


def head_of(
    sampler: Sampler,
    parametrisation: str,
    times: float = 1.0,
    *,
    places: bool = False,
    hidden: tuple[int, ...] = (),
) -> HeadConfig:
    """A head whose units are the standard deviations of the poses to learn, times a number."""
    x, y, z, *turns = (times * float(value) for value in deviation(sampler))
    turn = float(np.rad2deg(max(turns)))
    return HeadConfig(parametrisation, (x, y, z), turn, places=places, hidden=hidden)


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
