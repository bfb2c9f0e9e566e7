"""What `import jxreg` gives and costs, and that the project's own files agree."""

import importlib
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import jxreg

ROOT = Path(__file__).resolve().parents[1]
LATE = (
    "flax h5py highdicom jinja2 matplotlib nibabel nrrd optax orbax PIL pydicom rich safetensors "
    "scipy.ndimage SimpleITK tyro"
)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str) -> set[str]:
    report = f"import sys; print(*[m for m in {LATE.split()} if m in sys.modules])"
    return set(python(f"{code}\n{report}").split())


def test_import_leaves_readers_networks_and_plots_alone():
    assert loaded("import jxreg") == set()


def test_the_public_names_import_no_more_than_jaxlie_does():
    """Where flax is installed, jaxlie loads it to make its types serialisable.

    Networks are flax themselves, which needs more.
    """
    everything = "import jxreg\nfor name in set(jxreg.__all__) - {'nets'}: getattr(jxreg, name)"
    assert loaded(everything) <= loaded("import jaxlie")


def test_all_public_names_are_there():
    assert set(jxreg.__all__) <= set(dir(jxreg))
    for name in jxreg.__all__:
        assert getattr(jxreg, name).__name__.split(".")[-1] == name
    with pytest.raises(AttributeError, match="no attribute 'registr'"):
        jxreg.registr  # noqa: B018


REGISTER_IMPORTS = """
import jxreg; f = jxreg.register
import jxreg.register; f = jxreg.register
import jxreg, jxreg.register; f = jxreg.register
import jxreg.alignment, jxreg.register; f = jxreg.register
import jxreg.register as f
from jxreg import register as f
from jxreg.register import register as f
"""


def test_register_is_the_function_however_it_is_imported():
    """Each statement meets a package that has not been imported yet."""
    code = f"""
        import sys
        for statement in {REGISTER_IMPORTS.strip().splitlines()}:
            for name in [name for name in sys.modules if name.split(".")[0] == "jxreg"]:
                del sys.modules[name]
            exec(statement)
            print(type(f).__name__ != "module", f.__name__, f.__module__, statement)
    """
    lines = python(textwrap.dedent(code)).splitlines()
    assert len(lines) == 7
    for line in lines:
        assert line.startswith("True register jxreg.register "), line


def test_the_module_register_can_still_be_reached():
    module = importlib.import_module("jxreg.register")
    assert module.register is jxreg.register
    assert module.RegisterConfig is jxreg.RegisterConfig


def test_version_is_the_one_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == jxreg.__version__


def test_readme_has_exactly_two_set_up_commands():
    lines = re.findall(r"^ *(pip install .* && .*)$", (ROOT / "README.md").read_text(), re.M)
    assert lines == ["pip install . && jxreg demo", 'pip install -e ".[test]" && pytest']


@pytest.mark.slow
def test_the_python_lines_of_the_readme_run(tmp_path):
    demo = "from jxreg.cli import main; raise SystemExit(main(['demo']))"
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    path = os.pathsep.join([str(ROOT), *sys.path])
    for code in (demo, block.group(1)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK 0.9")
    assert (tmp_path / "pose.json").is_file()
