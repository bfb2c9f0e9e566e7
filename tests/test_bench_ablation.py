"""The ablation of the published systems: what its table says of rows, and what a seed changes."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jxreg.recipes import psss
from jxreg.stepping import Task

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_ablation
import reduced


def row(variant, seed, mtre, **more):
    errors = {"mtre_mm": mtre, "mpd_mm": 2 * mtre, "success_10mm": 0.5, "minutes": 1.0}
    return {"table": "t", "variant": variant, "seed": seed, **errors, **more}


ROWS = [row("A", 0, 10.0), row("A", 1, 20.0), row("B", 0, 9.0), row("B", 1, 21.0), row("B", 2, 1.0)]


def test_variants_are_compared_seed_by_seed():
    assert bench_ablation.against_first(ROWS) == {"B": {"mean": 0.0, "lower": 1, "of": 2}}
    said = bench_ablation.lines(ROWS)
    assert said["A"]["mtre_mm"] == {"mean": 15.0, "sd": pytest.approx(50**0.5)}
    assert said["B"]["seeds"] == 3


def test_the_table_has_a_line_for_each_variant():
    console = Console(width=140, record=True)
    console.print(bench_ablation.shown("t", [*ROWS, row("C", 0, 3.0, first_mpd_mm=12.0)]))
    words = console.export_text()
    assert "15.00 (7.07)" in words
    assert "12.00, 50% lower" in words
    assert "-7.00, lower in 1 of 1" in words


def test_a_seed_changes_the_frames_and_nothing_else():
    task = bench_ablation.seeded(Task(None, lambda p, keys, patient, level: keys, None))
    keys = jax.random.split(jax.random.key(0), 3)
    first, again, other = (task.loss({}, keys, (jnp.int32(s), None), 1.0) for s in (1, 1, 2))
    data = [np.asarray(jax.random.key_data(each)) for each in (first, again, other)]
    np.testing.assert_array_equal(data[0], data[1])
    assert (data[0] != data[2]).any(1).all()


def test_reduced_systems_keep_ranges_and_field_of_view():
    published = psss.CONFIG
    assert reduced.PSSS.poses == published.poses
    sides = [c.geometry.pixels * c.geometry.pixel_mm for c in (reduced.PSSS, published)]
    assert sides[0] == pytest.approx(sides[1])
    rows = psss.ablated(reduced.PSSS)
    assert rows["(A+B+C)*"].train.curriculum.stages == 4
    assert {
        dataclasses.replace(c.train, curriculum=rows["A"].train.curriculum) for c in rows.values()
    } == {rows["A"].train}
