"""Fixtures that several test files share."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.register_assert_rewrite("cli_inputs", "refusal")


def pytest_configure(config):
    """Compile without LLVM's optimisations: the tests compile far longer than they compute.

    XLA still rewrites and fuses each function; its machine code is slower, and it is made in half
    the time (test_register: 109 s of CPU time instead of 238). No tolerance is wider for it. What
    `pytest -m slow`, `-m gpu` or `-m reference` selects computes more and is compiled as for users,
    and so is everything where XLA_FLAGS is set: `XLA_FLAGS= pytest`.
    """
    if config.option.markexpr == "not gpu and not slow":
        flags = "--xla_backend_optimization_level=0"
        if version("jaxlib").startswith("0.10."):  # XLA stops at a flag that it does not know
            flags += " --xla_cpu_use_fusion_emitters=false"
        os.environ.setdefault("XLA_FLAGS", flags)
    gc.set_threshold(100_000, 20, 10)  # traces are garbage by the million: a tenth of the time


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
