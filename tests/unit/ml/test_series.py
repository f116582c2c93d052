import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ml.errors import SeriesError
from ml.series import LoadSeries, hour_ahead_peak_kw, parse_series, rating_of, read_series, to_grid

T0 = 1_600_000_200  # 2020-09-13T12:30:00Z


def _long(rows: list[str], header: str = "timestamp,load_kw") -> list[LoadSeries]:
    return parse_series("\n".join([header, *rows]), stem="F1", name="f.csv")


def test_long_form_without_feeder_id_takes_the_stem_and_keeps_empty_cells_missing() -> None:
    (series,) = _long(["2020-09-13T12:30:00Z,1.5", "2020-09-13T12:45:00Z,", "2020-09-13T13:00:00Z,-2"])
    assert (series.feeder_id, series.step_min) == ("F1", 15)
    assert series.end_s.tolist() == [T0, T0 + 900, T0 + 1800]
    assert np.array_equal(series.load_kw, [1.5, np.nan, -2.0], equal_nan=True)


def test_long_form_splits_feeders_and_sorts_each_by_time() -> None:
    rows = [
        "2020-09-13T12:45:00Z,B,2",
        "2020-09-13T12:30:00Z,B,1",
        "2020-09-13T12:30:00Z,A,7",
        "2020-09-13T12:45:00Z,A,8",
    ]
    first, second = _long(rows, "timestamp,feeder_id,load_kw")
    assert (first.feeder_id, first.load_kw.tolist()) == ("B", [1.0, 2.0])
    assert (second.feeder_id, second.load_kw.tolist()) == ("A", [7.0, 8.0])


def test_wide_form_has_one_feeder_per_column_minus_the_exogenous_ones() -> None:
    text = "timestamp,N1,temperature_c,N2\n2020-09-13T12:30:00Z,1,9.5,3\n2020-09-13T13:00:00Z,2,9,4\n"
    first, second = parse_series(text, stem="x", name="x.csv")
    assert [first.feeder_id, second.feeder_id] == ["N1", "N2"]
    assert second.load_kw.tolist() == [3.0, 4.0]
    assert first.step_min == 30
    assert first.exogenous["temperature_c"].tolist() == [9.5, 9.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("load_kw\n1\n", "'timestamp'", id="no timestamp column"),
        pytest.param(
            "timestamp,load_kw\n2020-09-13T12:30:00Z,abc\n", "row 2, column 'load_kw'", id="not a number"
        ),
        pytest.param(
            "timestamp,load_kw\n2020-09-13T12:30:00Z,inf\n", "row 2, column 'load_kw'", id="infinite"
        ),
        pytest.param("timestamp,load_kw\nyesterday,1\n", "row 2, column 'timestamp'", id="not a time"),
        pytest.param("timestamp,load_kw\n2020-09-13T12:30:00Z,1,2\n", "row 2 has 3 cells", id="long row"),
        pytest.param("timestamp,load_kw\n", "no rows", id="empty"),
        pytest.param(
            "timestamp,humidity\n2020-09-13T12:30:00Z,1\n", "no column of load", id="only exogenous"
        ),
        pytest.param(
            "timestamp,load_kw\n2020-09-13T12:30:00Z,1\n2020-09-13T12:30:00Z,2\n2020-09-13T12:45:00Z,2\n",
            "two different rows",
            id="contradiction",
        ),
    ],
)
def test_faults_name_row_and_column(text: str, words: str) -> None:
    with pytest.raises(SeriesError, match=r"f\.csv") as caught:
        parse_series(text, stem="f", name="f.csv")
    assert words in str(caught.value)


def test_a_row_repeated_word_for_word_is_dropped() -> None:
    (series,) = _long(
        [
            "2020-09-13T12:30:00Z,1",
            "2020-09-13T12:45:00Z,2",
            "2020-09-13T12:45:00Z,2",
            "2020-09-13T13:00:00Z,3",
        ]
    )
    assert series.load_kw.tolist() == [1.0, 2.0, 3.0]


def test_gz_is_accepted_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    good = tmp_path / "G.csv.gz"
    good.write_bytes(gzip.compress(b"timestamp,load_kw\n2020-09-13T12:30:00Z,1\n2020-09-13T12:45:00Z,2\n"))
    assert read_series(good)[0].feeder_id == "G"
    good.write_bytes(b"not gzip")
    with pytest.raises(SeriesError):
        read_series(good)


def test_absent_rows_become_missing_slots() -> None:
    (series,) = _long(
        [
            "2020-09-13T12:30:00Z,1",
            "2020-09-13T12:45:00Z,2",
            "2020-09-13T13:30:00Z,5",
            "2020-09-13T13:45:00Z,6",
        ]
    )
    grid = to_grid(series)
    assert np.array_equal(grid.load_kw, [1, 2, np.nan, np.nan, 5, 6], equal_nan=True)
    assert grid.end_s[-1] - grid.end_s[0] == 5 * 900


def test_ten_minute_means_become_exact_fifteen_minute_means_without_look_ahead() -> None:
    ends = np.arange(1, 13, dtype=np.int64) * 600 + 1_599_998_400  # from a full hour
    series = LoadSeries("M", 10, ends, np.arange(1.0, 13.0))
    grid = to_grid(series)
    # :15 = (1 + 1 + 2) / 3 uses half of the reading that ends at :20; :30 = (2 + 3 + 3) / 3.
    assert grid.load_kw[:4] == pytest.approx([4 / 3, 8 / 3, 13 / 3, 17 / 3])
    assert grid.origin.tolist() == [False, True] * 4
    assert grid.load_kw.mean() == pytest.approx(series.load_kw.mean())


def test_finer_readings_are_averaged_and_a_slot_needs_all_of_them() -> None:
    ends = np.arange(1, 7, dtype=np.int64) * 300 + 1_599_998_400
    load = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    grid = to_grid(LoadSeries("M", 5, ends, load))
    assert np.array_equal(grid.load_kw, [2.0, np.nan], equal_nan=True)
    assert grid.origin.all()


def test_an_interval_that_fits_no_grid_is_refused() -> None:
    ends = np.arange(1, 5, dtype=np.int64) * 3600
    with pytest.raises(SeriesError, match="60 min"):
        to_grid(LoadSeries("M", 60, ends, np.ones(4)))


def test_hour_ahead_peak_takes_the_magnitude_of_the_following_hour_only() -> None:
    peak = hour_ahead_peak_kw(np.array([9.0, 1.0, -5.0, 2.0, 3.0, 1.0]), 15)
    assert np.array_equal(peak, [5, 5, np.nan, np.nan, np.nan, np.nan], equal_nan=True)


def test_a_dead_series_has_no_rating() -> None:
    ends = np.arange(1, 50, dtype=np.int64) * 900
    with pytest.raises(SeriesError, match="rating"):
        rating_of(LoadSeries("dead", 15, ends, np.zeros(49)))


def test_ratings_agree_with_the_published_ones(reference_dir: Path) -> None:
    published = json.loads((reference_dir / "data" / "feeders.json").read_text())
    assert len(published) > 10
    for name, facts in published.items():
        (series,) = read_series(reference_dir / "data" / f"{name}.csv.gz")
        assert series.step_min == facts["step_min"], name
        assert rating_of(series) == pytest.approx(facts["rating_kw"], rel=1e-4), name
