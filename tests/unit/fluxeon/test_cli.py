"""The command line: help, exit codes, reasons on one line, what each quick command prints."""

import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import typer

from fluxeon import cli
from fluxeon.audit import own_key, read_keys, verify_folder
from fluxeon.commands.options import parse_instant
from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.keyring import load_signer
from ml.series import read_series

COMMANDS = [
    ("demo",),
    ("serve",),
    ("registry",),
    ("bpp",),
    ("simulate",),
    ("train",),
    ("evaluate",),
    ("audit",),
    ("audit", "verify"),
    ("keys",),
    ("settings",),
]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line; gives exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fluxeon", *words])
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return call


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help__teaches(run, words: tuple[str, ...]):
    code, out, _ = run(*words, "--help")
    assert code == 0
    assert "Usage:" in out
    assert len(out.split("Options:")[0].split()) > 12


def test_help__lists_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert {words[0] for words in COMMANDS} <= set(out.split())


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("demo", "--nonsense"),
        ("demo", "--source", "bundle"),
        ("demo", "--feeders", "0"),
        ("demo", "--generation", "3.0"),
        ("demo", "--from", "yesterday"),
        ("demo", "--source", "bundled", "--feeders", "13"),
        ("bpp",),
        ("evaluate", "--source", "simulator"),
        ("evaluate", "--source", "bundled"),
        ("evaluate", "--source", "bundled", "--feeder", "FDR_999"),
        ("simulate", "--output", "load.txt"),
    ],
    ids=" ".join,
)
def test_exit_code__is_2_for_bad_usage(run, words: tuple[str, ...]):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(("demo", "--source", "csv:/none.csv"), "none.csv: cannot be read", id="missing source"),
        pytest.param(
            ("evaluate", "--source", "csv:/none.csv"), "none.csv: cannot be read", id="missing series"
        ),
        pytest.param(("keys", "--data-dir", "/none"), "holds no signing key", id="no key"),
        pytest.param(("audit", "verify", "--data-dir", "/none"), "holds no signing key", id="no journal"),
        pytest.param(
            ("settings", "--config", "/none.toml"), "none.toml cannot be read", id="no settings file"
        ),
        pytest.param(
            ("simulate", "--output", "/none/load.csv"),
            "/none/load.csv: No such file",
            id="no folder to write to",
        ),
    ],
)
def test_exit_code__is_1_with_one_line_for_a_failure(run, words: tuple[str, ...], reason: str):
    code, out, err = run(*words)
    assert code == 1
    assert out == ""
    assert reason in err
    assert err.startswith("fluxeon: ")
    assert err.count("\n") == 1


def test_demo__refuses_a_folder_that_is_in_use(run, tmp_path: Path):
    (tmp_path / "something").write_text("precious")
    code, _, err = run("demo", "--once", "--data-dir", str(tmp_path))
    assert code == 1
    assert "is not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_help__loads_nothing_heavy():
    heavy = ("litestar", "onnxruntime", "sqlalchemy", "aiohttp", "numpy", "jsonschema", "uvicorn")
    script = f"import sys, fluxeon.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- simulate -----------------------------------------------------------------------------------


def test_simulate__writes_what_the_reader_reads(run, tmp_path: Path):
    for name in ("load.csv", "load.csv.gz"):
        code, out, _ = run("simulate", "--feeders", "3", "--days", "2", "--output", str(tmp_path / name))
        assert (code, out) == (0, "")
        series = read_series(tmp_path / name)
        assert [one.load_kw.size for one in series] == [192, 192, 192]
    assert gzip.decompress((tmp_path / "load.csv.gz").read_bytes()) == (tmp_path / "load.csv").read_bytes()


def test_simulate__prints_by_default_the_same_for_the_same_seed(run):
    first, again, other = (run("simulate", "--days", "1", "--seed", seed)[1] for seed in ("1", "1", "2"))
    assert first.startswith("timestamp,temperature_c,SIM_001,")
    assert first == again != other


# --- evaluate -----------------------------------------------------------------------------------


def test_evaluate__scores_a_seeded_feeder_against_its_configured_rating(run):
    words = ("evaluate", "--source", "bundled", "--feeder", "FDR_002", "--stride", "8")
    code, out, _ = run(*words, "--json")
    scores = json.loads(out)
    assert code == 0
    assert (scores["feeder"], scores["rating_kw"]) == ("FDR_002", 1265.0)
    assert [row["minutes"] for row in scores["horizons"]] == [15, 30, 45, 60]
    assert json.loads(run(*words, "--json", "--rating-kw", "1000")[1])["rating_kw"] == 1000.0
    assert "FDR_002: 72 origins, rating 1,265.0 kW" in run(*words, "--from", "2016-11-24")[1]


# --- settings -----------------------------------------------------------------------------------


def test_settings__lists_every_setting_with_its_meaning(run):
    code, out, _ = run("settings", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == [field.name for field in msgspec.structs.fields(Settings)]
    assert all(row["meaning"] for row in rows)


def test_settings__shows_where_a_value_comes_from_and_masks_secrets(run, monkeypatch):
    monkeypatch.setenv("FLUXEON_PORT", "1234")
    monkeypatch.setenv("FLUXEON_ADMIN_TOKEN", "very-secret")
    _, out, _ = run("settings", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (rows["port"]["value"], rows["port"]["source"]) == (1234, "FLUXEON_PORT")
    assert rows["host"]["source"] == "default"
    assert rows["admin_token"]["value"] == "***"
    _, out, _ = run("settings")
    assert "FLUXEON_PORT=1234" in out
    assert "very-secret" not in out


def test_settings__names_a_setting_that_is_wrong(run, monkeypatch):
    monkeypatch.setenv("FLUXEON_PORT", "99999")
    code, _, err = run("settings")
    assert code == 1
    assert "'port'" in err


# --- keys and audit -------------------------------------------------------------------------------


def test_keys__show_the_public_half_only(run, tmp_path: Path):
    signer = load_signer(tmp_path, "bap.example")
    code, out, _ = run("keys", "--data-dir", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out) == {"key_id": signer.key_id, "public_key": signer.public_key}
    private = json.loads((tmp_path / "signing-key.json").read_text())["private_key"]
    assert private not in run("keys", "--data-dir", str(tmp_path))[1]


def test_own_key__makes_none(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no signing key"):
        own_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_read_keys__takes_one_key_or_a_list(tmp_path: Path):
    one = {"key_id": "k1", "public_key": "AAAA", "note": "ignored"}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(one))
    assert [key.key_id for key in read_keys(path)] == ["k1"]
    path.write_text(json.dumps([one, {**one, "key_id": "k2"}]))
    assert [key.key_id for key in read_keys(path)] == ["k1", "k2"]


@pytest.mark.parametrize("text", ["", "[1]", '{"key_id": "k1"}'])
def test_read_keys__refuses_what_holds_no_keys(tmp_path: Path, text: str):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no keys"):
        read_keys(path)


def test_verify_folder__refuses_a_trusted_key_that_is_none(tmp_path: Path):
    path = tmp_path / "keys.json"
    path.write_text('{"key_id": "k1", "public_key": "AAAA"}')
    with pytest.raises(ConfigError, match=r"keys\.json"):
        verify_folder(tmp_path, trust=path)


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2021-09-02", datetime(2021, 9, 2, tzinfo=UTC)),
        ("2021-09-02T06:00:00Z", datetime(2021, 9, 2, 6, tzinfo=UTC)),
        ("2021-09-02T06:00:00+02:00", datetime(2021, 9, 2, 4, tzinfo=UTC)),
    ],
)
def test_parse_instant__is_utc_unless_it_says_otherwise(text: str, instant: datetime):
    assert parse_instant(text) == instant


def test_parse_instant__refuses_other_words():
    with pytest.raises(typer.BadParameter):
        parse_instant("yesterday")
