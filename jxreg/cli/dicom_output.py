"""A DRR as a DICOM angiography image, with its geometry in the header."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jaxlie
    import numpy as np
    from jaxtyping import Array, Float

    from jxreg.camera import Camera

WHITE = 65535
"""Pixel value without an object: 16 bits, proportional to the intensity that arrives."""


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
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

    from jxreg.camera import pixel_spacing
    from jxreg.io import write_atomic
    from jxreg.pose import to_carm

    pixels = np.round(WHITE * np.exp(-np.maximum(image, 0))).astype("<u2")
    carm = to_carm(pose, source_to_isocenter=0.0, isocenter=isocenter)
    row_mm, column_mm = (float(s) for s in pixel_spacing(camera))
    tags = Dataset()
    tags.SOPClassUID = XRayAngiographicImageStorage
    tags.Modality, tags.ImageType = "XA", ["DERIVED", "SECONDARY", "SINGLE PLANE"]
    tags.PatientName = tags.PatientID = ""
    tags.DerivationDescription = "digitally reconstructed radiograph"
    tags.Rows, tags.Columns = image.shape
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
    tags.PixelData = pixels.tobytes()
    seed = [pixels.tobytes().hex(), str(tags.get("PositionerPrimaryAngle"))]
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
