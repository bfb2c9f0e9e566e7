"""Images as DICOM, with their geometry in the header: a DRR as XA, a simulated X-ray as DX."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jaxlie
    import numpy as np
    from jaxtyping import Array, Float
    from pydicom import Dataset

    from jxreg.camera import Camera

WHITE = 65535
"""Pixel value of an XA image without an object: 16 bits, proportional to what arrives."""

_DEFINED = {"aluminium": "ALUMINUM"}
"""Names of materials that DICOM spells in its own way."""


class Technique(NamedTuple):
    """How an X-ray was made, as its header tells."""

    kvp: float
    mas: float
    filters: tuple[tuple[str, float], ...] = ()
    """Material and thickness [mm]."""
    focal_spot_mm: float = 0.0
    """0 if it has no size."""
    grid: bool = False
    counting: bool = False
    """The detector counts photons."""


def write_xa(
    path: Path,
    image: "Float[np.ndarray, 'rows columns']",
    camera: "Camera",
    pose: "jaxlie.SE3",
    isocenter: "Float[Array, '3']",
) -> None:
    """Writes attenuation as an XA image that `load_frames` and other viewers read.

    DICOM keeps the angles, the distances and the pixel spacing, but neither a central ray off the
    centre, nor an offset of the isocenter, nor a roll that is no quarter turn.

    Args:
        path: Where the file goes.
        image: Attenuation.
        camera: Geometry of the image.
        pose: Pose, `camera_from_world`.
        isocenter: Point in the world that the C-arm turns about [mm].

    Raises:
        InputError: The file cannot be written.
    """
    import numpy as np
    from pydicom.uid import XRayAngiographicImageStorage

    pixels = np.round(WHITE * np.exp(-np.maximum(image, 0)))
    tags = _image(pixels, camera, pose, isocenter)
    tags.SOPClassUID = XRayAngiographicImageStorage
    tags.Modality, tags.ImageType = "XA", ["DERIVED", "SECONDARY", "SINGLE PLANE"]
    tags.DerivationDescription = "digitally reconstructed radiograph"
    tags.RadiationSetting, tags.Laterality = "GR", ""  # of an acquisition that was none
    tags.KVP = tags.XRayTubeCurrent = tags.ExposureTime = tags.Exposure = ""
    _save(path, tags)


def write_dx(
    path: Path,
    numbers: "Float[np.ndarray, 'rows columns']",
    camera: "Camera",
    pose: "jaxlie.SE3",
    isocenter: "Float[Array, '3']",
    technique: Technique,
) -> None:
    """Writes the numbers of a detector as a DX image for processing, proportional to intensity.

    A central ray off the centre is kept: the header tells of a detector about it, and of the field
    of view on that. An offset of the isocenter and a roll that is no quarter turn are lost, as in
    `write_xa`.

    Args:
        path: Where the file goes.
        numbers: Whole numbers from 0 to 65535.
        camera: Geometry of the image.
        pose: Pose, `camera_from_world`.
        isocenter: Point in the world that the C-arm turns about [mm].
        technique: What else goes to the header.

    Raises:
        InputError: The file cannot be written.
    """
    from pydicom import Dataset
    from pydicom.uid import DigitalXRayImageStorageForProcessing

    tags = _image(numbers, camera, pose, isocenter)
    tags.SOPClassUID = DigitalXRayImageStorageForProcessing
    tags.Modality, tags.PresentationIntentType = "DX", "FOR PROCESSING"
    tags.ImageType = ["DERIVED", "PRIMARY"]
    tags.DerivationDescription = "simulated X-ray"
    tags.RescaleSlope, tags.RescaleIntercept, tags.RescaleType = "1", "0", "US"
    tags.PresentationLUTShape = "IDENTITY"
    tags.BurnedInAnnotation, tags.LossyImageCompression = "NO", "00"
    tags.ImageLaterality, tags.AnatomicRegionSequence = "U", [Dataset()]
    region = tags.AnatomicRegionSequence[0]
    region.CodeValue, region.CodingSchemeDesignator = "38266002", "SCT"
    region.CodeMeaning = "Entire body"
    tags.AcquisitionContextSequence = []
    tags.PositionerType = "CARM"
    tags.DetectorType = "DIRECT" if technique.counting else "SCINTILLATOR"
    _add_detector(tags, camera)
    _add_technique(tags, technique)
    _save(path, tags)


def _image(pixels, camera: "Camera", pose: "jaxlie.SE3", isocenter: "Array") -> "Dataset":
    """What both kinds of file have: pixels proportional to intensity, and the positioner."""
    import numpy as np
    from pydicom import Dataset

    from jxreg.camera import pixel_spacing
    from jxreg.pose import to_carm

    stored = np.asarray(pixels).astype("<u2")
    carm = to_carm(pose, source_to_isocenter=0.0, isocenter=isocenter)
    row_mm, column_mm = (float(s) for s in pixel_spacing(camera))
    tags = Dataset()
    for empty in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
        *("AccessionNumber", "ReferringPhysicianName", "StudyID", "Manufacturer", "ContentDate"),
        *("ContentTime", "SeriesNumber"),
    ):
        setattr(tags, empty, "")
    tags.InstanceNumber = "1"
    tags.Rows, tags.Columns = stored.shape
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.BitsAllocated = tags.BitsStored = 16
    tags.HighBit, tags.PixelRepresentation = 15, 0
    tags.PixelIntensityRelationship, tags.PixelIntensityRelationshipSign = "LIN", 1
    tags.DistanceSourceToDetector = _decimal(camera.sdd)
    tags.DistanceSourceToPatient = _decimal(carm.offset[2])
    tags.ImagerPixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    tags.PositionerPrimaryAngle = _decimal(np.degrees(carm.primary))
    tags.PositionerSecondaryAngle = _decimal(np.degrees(carm.secondary))
    tags.PatientOrientation = _orientation(camera, pose)
    tags.PixelData = stored.tobytes()
    return tags


def _add_detector(tags: "Dataset", camera: "Camera") -> None:
    """The image as a field of view on a detector whose centre the central ray meets."""
    import numpy as np

    from jxreg.camera import pixel_spacing, principal_point

    spacing = np.asarray(pixel_spacing(camera), np.float64)
    below = np.asarray(principal_point(camera), np.float64)[::-1] + 0.5  # from the corner [px]
    half = np.ceil(np.maximum(below, np.array(camera.image_size) - below))
    tags.DetectorElementSpacing = [_decimal(s) for s in spacing]
    tags.DetectorActiveShape, tags.FieldOfViewShape = "RECTANGLE", "RECTANGLE"
    tags.DetectorActiveDimensions = [_decimal(n) for n in 2 * half * spacing]
    tags.DetectorActiveOrigin = ["0", "0"]
    tags.FieldOfViewOrigin = [_decimal(n) for n in half - below]
    tags.FieldOfViewRotation, tags.FieldOfViewHorizontalFlip = "0", "NO"


def _add_technique(tags: "Dataset", technique: Technique) -> None:
    tags.KVP = _decimal(technique.kvp)
    tags.ExposureInuAs = str(round(1000 * technique.mas))
    if technique.filters:
        names = [_DEFINED.get(name, name.upper())[:16] for name, _ in technique.filters]
        thickness = [_decimal(mm) for _, mm in technique.filters]
        tags.FilterType = "FLAT" if len(names) == 1 else "MULTIPLE"
        tags.FilterMaterial = names
        tags.FilterThicknessMinimum = tags.FilterThicknessMaximum = thickness
    if technique.focal_spot_mm:
        tags.FocalSpots = _decimal(technique.focal_spot_mm)
    tags.Grid = ["FIXED", "FOCUSED"] if technique.grid else "NONE"


def _save(path: Path, tags: "Dataset") -> None:
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    from jxreg.io import write_atomic

    seed = [bytes(tags["PixelData"].value).hex(), str(tags.PositionerPrimaryAngle)]
    tags.StudyInstanceUID = generate_uid(entropy_srcs=[*seed, "study"])
    tags.SeriesInstanceUID = generate_uid(entropy_srcs=[*seed, "series"])
    tags.SOPInstanceUID = generate_uid(entropy_srcs=[*seed, "image"])
    tags.file_meta = FileMetaDataset()
    tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, tags, enforce_file_format=True)
    write_atomic(path, buffer.getvalue())


def _orientation(camera: "Camera", pose: "jaxlie.SE3") -> list[str]:
    """Patient directions of rows and columns, as they are displayed."""
    import numpy as np

    from jxreg.camera import is_mirrored
    from jxreg.report.words import patient_letters

    right, down, _ = np.asarray(pose.rotation().as_matrix(), np.float64)
    return [patient_letters(-right if is_mirrored(camera) else right), patient_letters(down)]


def _decimal(value) -> str:
    """A DICOM decimal string: at most 16 characters."""
    return f"{float(value):.9g}"
