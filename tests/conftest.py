"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("cli_inputs", "refusal")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real CTs and X-rays: `$JXREG_DATA`, or `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("JXREG_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real images are not here: no folder {folder} (set JXREG_DATA)")
    return folder


@pytest.fixture(scope="module")
def float64():
    """All of a test file in double precision: `pytestmark = pytest.mark.usefixtures("float64")`."""
    import jax  # not before pytest has set up the runtime checks of types

    with jax.enable_x64(True):
        yield
