"""The bundled sample and the script that builds it."""

import numpy as np

from ml.series import read_series
from seeds.build_sample import (
    SAMPLE_START,
    downstream,
    sample_csv,
    write_gzip,
)
from seeds.load import SAMPLE_PATH, load_feeders

WARM_UP_ROWS = 8 * 96


def test_sample__covers_the_feeders_for_fourteen_whole_days_without_gaps():
    series = read_series(SAMPLE_PATH)
    assert [one.feeder_id for one in series] == [one.feeder_id for one in load_feeders()]
    for one in series:
        assert one.step_min == 15
        assert one.load_kw.shape == (14 * 96,)
        assert np.isfinite(one.load_kw).all()
        assert one.end_s[0] == SAMPLE_START.timestamp()


def test_sample__is_small():
    assert SAMPLE_PATH.stat().st_size < 300_000


def test_sample__holds_overloads_in_both_directions_after_the_warm_up():
    rating = {one.feeder_id: one.rating_kw for one in load_feeders()}
    live = {
        one.feeder_id: one.load_kw[WARM_UP_ROWS:] / rating[one.feeder_id] for one in read_series(SAMPLE_PATH)
    }
    importing = {feeder for feeder, loading in live.items() if loading.max() >= 1}
    exporting = {feeder for feeder, loading in live.items() if loading.min() <= -1}
    assert len(importing) == 3
    assert len(exporting) == 1
    assert not importing & exporting
    assert len(importing | exporting) < len(live)
    assert max(abs(loading).max() for loading in live.values()) < 1.3


def test_downstream__stops_at_the_busbar():
    edges = [(0, 1), (1, 2), (2, 3), (0, 4), (4, 5)]
    assert downstream(1, edges, 0) == {1, 2, 3}
    assert downstream(4, edges, 0) == {4, 5}


def test_downstream__passes_meshes_once():
    assert downstream(1, [(0, 1), (1, 2), (2, 3), (3, 1)], 0) == {1, 2, 3}


def test_sample_csv__starts_at_the_chosen_instant_and_counts_evenly():
    year = [float(row) for row in range(35136)]
    lines = sample_csv({"A": year, "B": year}).splitlines()
    assert lines[0] == "timestamp,A,B"
    assert lines[1].startswith("2016-11-16T00:15:00Z,")
    assert lines[-1].startswith("2016-11-30T00:00:00Z,")
    assert len(lines) == 1 + 14 * 96
    # From 2015-12-31 23:00 to 2016-11-16 00:15 it is 320 days and five quarter hours.
    assert lines[1].split(",")[1] == "30725"


def test_write_gzip__writes_the_same_bytes_under_any_name(tmp_path):
    for name in ("one.gz", "two.gz"):
        write_gzip(tmp_path / name, "timestamp,A\n")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
