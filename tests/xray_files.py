"""Small X-ray files for the tests of the readers."""

import functools

import numpy as np
import refusal
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage

from jxreg.camera import Camera
from jxreg.io import load_frames

ROWS, COLUMNS = 24, 32
CAMERA = Camera.from_sdd(1000.0, (ROWS, COLUMNS), (0.5, 0.6))


def intensities(frames=1):
    """12-bit counts, brightest in the middle, no zeros."""
    v, u = np.mgrid[:ROWS, :COLUMNS]
    image = 100 + 3900 * np.exp(-((v - 10) ** 2 + (u - 20) ** 2) / 200)
    return np.stack([image + f for f in range(frames)]).astype(np.uint16)


def xray(stored=None, **tags):
    stored = intensities() if stored is None else stored
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID = XRayAngiographicImageStorage, "1.2.3"
    dataset.Modality, dataset.PatientName = "XA", "Canary^Name"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelIntensityRelationship = "LIN"
    dataset.DistanceSourceToDetector = 1000
    dataset.ImagerPixelSpacing = [0.5, 0.6]
    dataset.PixelData = stored.astype("<u2").tobytes()
    for key, value in tags.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    return dataset


def saved(tmp_path, dataset, name="x.dcm"):
    path = tmp_path / name
    dataset.save_as(path, enforce_file_format=True)
    return path


refused = functools.partial(refusal.refused, load_frames)
