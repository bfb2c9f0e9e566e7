"""Every example runs at a small size and says what it promises."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(monkeypatch, capsys, name: str, *words: str) -> str:
    script = next(EXAMPLES.glob(f"{name}_*.py"))
    monkeypatch.setattr(sys, "argv", [str(script), "--small", *words])
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


def errors_of(shown: str) -> list[tuple[float, float]]:
    found = re.findall(r"([\d.]+)(?: mm)? -> +([\d.]+) mm", shown)
    return [(float(before), float(after)) for before, after in found]


def test_examples_are_short_and_all_here():
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert [p.name[:2] for p in scripts] == ["01", "02", "03", "04", "05"]
    for script in scripts:
        assert len(script.read_text().splitlines()) <= 80


def test_render_ct(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no fetched CT: the phantom
    shown = run(monkeypatch, capsys, "01", "--out", str(tmp_path / "views.png"))
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    assert shown.count("attenuation") == 4


def test_register_frame(monkeypatch, capsys):
    shown = run(monkeypatch, capsys, "02")
    ((before, after),) = errors_of(shown)
    assert after < before
    assert "uncertainty" in shown


@pytest.mark.slow
def test_vmap_frames(monkeypatch, capsys):
    shown = run(monkeypatch, capsys, "03")
    first, black, last = shown.splitlines()[:3]
    assert "NO_SIGNAL" in black
    for line in (first, last):
        assert "NO_SIGNAL" not in line
        ((before, after),) = errors_of(line)
        assert after < before


def test_compare_similarities(monkeypatch, capsys):
    from jxreg.similarity import SIMILARITIES

    shown = run(monkeypatch, capsys, "04")
    for name in SIMILARITIES:
        assert shown.count(f"  {name} ") == 3  # three axes


@pytest.mark.slow
def test_real_wrist(monkeypatch, capsys, data_dir):
    shown = run(monkeypatch, capsys, "05", str(data_dir / "wrist-biplane-xray-ct"))
    errors = errors_of(shown)
    assert len(errors) == 2
    for before, after in errors:
        assert after < before


def test_real_wrist_is_skipped_without_data(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit, match="skipped: .*JXREG_DATA"):
        run(monkeypatch, capsys, "05", str(tmp_path / "none"))
