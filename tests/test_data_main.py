import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqlab.data import builders, problems, sources
from seqlab.data.__main__ import FILES_ONLY, NO_FILES, main

ROOT = Path(__file__).parents[1]

# A user's module: one set of one file that the mirror holds.
MODULE = """
import tensorflow_datasets as tfds
from seqlab.data import builders, sources

sources.SOURCES["poems"] = (sources.File("poems.txt", "", {size}, "{sha256}"),)

@builders.register
class Poems(builders.Builder):
    '''Lines of a poem.'''
    name = "poems"
    LICENCE = "CC0"

    def features(self):
        return {{"text": tfds.features.Text()}}

    def splits(self, files):
        lines = builders.read_lines(files["poems.txt"])
        return {{"train": ({{"text": line}} for line in lines)}}
"""
CONTENT = b"One.\nTwo.\nThree.\n"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, no_network):
    """Own cache, mirror and registers; no network."""
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    monkeypatch.setattr(builders, "BUILDERS", dict(builders.BUILDERS))
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture
def poems(tmp_path, monkeypatch):
    """The module `mypoems` and its file; the folder that the set is prepared in."""
    path = tmp_path / "mirror" / "poems" / "poems.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    module = MODULE.format(size=len(CONTENT), sha256=sha256)
    (tmp_path / "mypoems.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mypoems", raising=False)
    return tmp_path / "cache" / "prepared" / "poems" / "1.0.0"


def call(capfd, *argv):
    code = main(argv)
    out, err = capfd.readouterr()
    return code, out, err


def rows(out):
    """The lines of a table by their first word; continued lines are left out."""
    return {line.split()[0]: line for line in out.splitlines() if line[1:2].strip()}


def test_list_with_nothing_at_hand(capfd, monkeypatch):
    monkeypatch.delenv("SEQLAB_DATA_MIRROR")
    code, out, err = call(capfd, "list")
    assert (code, err) == (0, "")
    table = rows(out)
    assert set(table) == {"name", *builders.BUILDERS, *FILES_ONLY, *NO_FILES}
    assert set(sources.SOURCES) == {*builders.BUILDERS, *FILES_ONLY}
    assert "LDC99T42" in table["ptb"]
    assert "download, 6.0 MB" in table["ptb"]
    assert "not prepared" in table["ptb"]
    assert "CC BY-SA 3.0" in table["mnist"]
    assert "handwritten digits" in table["mnist"]
    assert "none needed" in table["adding"]


def test_list_has_every_set_that_a_problem_is_made_of(capfd):
    known = {*problems.TEXTS, *problems.IMAGES, *problems.TASKS}
    known -= {"permuted-digits", "permuted-mnist"}
    assert known <= set(rows(call(capfd, "list")[1]))


def test_a_set_from_a_module_is_listed_prepared_and_verified(poems, capfd, tmp_path):
    code, out, err = call(capfd, "prepare", "mypoems:poems")
    assert (code, out, err) == (0, f"poems: prepared in {poems}\n", "")
    assert call(capfd, "prepare", "poems")[0] == 0
    line = rows(call(capfd, "list")[1])["poems"]
    assert all(part in line for part in ("Lines of a poem.", "CC0", "train 3", "mirror"))
    assert line.split()[-1] == "prepared"
    assert call(capfd, "verify", "mypoems:poems") == (0, "poems: intact\n", "")


def test_another_folder_and_format(poems, capfd, tmp_path):
    other = str(tmp_path / "other")
    chosen = ("--folder", other, "--file-format", "parquet")
    assert call(capfd, "prepare", "mypoems:poems", *chosen)[0] == 0
    assert not poems.exists()
    (found,) = (tmp_path / "other" / "poems" / "1.0.0").glob("*train*")
    assert "parquet" in found.name
    assert call(capfd, "verify", "poems", "--folder", other)[0] == 0
    assert "train 3" in rows(call(capfd, "list", "--folder", other)[1])["poems"]
    assert "not prepared" in rows(call(capfd, "list")[1])["poems"]


def test_verify_names_what_is_damaged(poems, capfd, tmp_path):
    call(capfd, "prepare", "mypoems:poems")
    (record,) = poems.glob("poems-train*")
    record.write_bytes(record.read_bytes()[:-1] + b"!")
    source = tmp_path / "mirror" / "poems" / "poems.txt"
    source.write_bytes(b"?" + CONTENT[1:])
    for name in ("poems", "all"):
        code, out, err = call(capfd, "verify", name)
        assert (code, err) == (1, "")
        assert f"poems: {source} is damaged" in out
        assert f"poems: {record} is damaged" in out
        assert "intact" not in out
    assert "damaged" in rows(call(capfd, "list")[1])["poems"]
    source.write_bytes(CONTENT)
    code, _, err = call(capfd, "prepare", "poems")
    assert code == 0
    assert call(capfd, "verify", "poems")[0] == 0


def test_all_goes_on_after_a_set_that_fails(poems, capfd):
    call(capfd, "prepare", "mypoems:poems")
    code, out, err = call(capfd, "prepare", "all")
    assert code == 2
    assert out == f"poems: prepared in {poems}\n"
    errors = err.splitlines()
    assert len(errors) == len(builders.BUILDERS) - 1  # the sets that this mirror does not hold
    assert all(line.startswith("error: ") and "does not exist" in line for line in errors)
    code, out, err = call(capfd, "verify", "all")
    assert (code, err) == (0, "")
    assert "ptb: not prepared" in out
    assert "poems: intact" in out


def test_what_is_read_from_its_files_alone(capfd, tmp_path, monkeypatch):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(
        sources.SOURCES, "wikitext-2", (sources.File("w.zip", "", len(CONTENT), sha256),)
    )
    path = tmp_path / "mirror" / "wikitext-2" / "w.zip"
    code, _, error = call(capfd, "verify", "wikitext-2")
    assert (code, error) == (
        2, "error: wikitext-2 is not at hand: not in the mirror (SEQLAB_DATA_MIRROR)\n",
    )  # fmt: skip
    code, _, error = call(capfd, "prepare", "wikitext-2")
    assert code == 2
    assert "w.zip" in error
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert call(capfd, "prepare", "wikitext-2")[:2] == (
        0, f"wikitext-2: prepared in {path.parent}\n",
    )  # fmt: skip
    assert call(capfd, "verify", "wikitext-2") == (0, "wikitext-2: intact\n", "")
    monkeypatch.delenv("SEQLAB_DATA_MIRROR")
    path = sources.cache_folder() / "wikitext-2" / "w.zip"
    path.parent.mkdir(parents=True)
    for damaged in (CONTENT[::-1], CONTENT[:-1]):
        path.write_bytes(damaged)
        code, out, _ = call(capfd, "verify", "wikitext-2")
        assert code == 1
        assert out.startswith(f"wikitext-2: {path} is damaged")
        assert path.read_bytes() == damaged


@pytest.mark.parametrize("name", NO_FILES)
@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_what_has_no_files(capfd, command, name):
    assert call(capfd, command, name) == (0, f"{name}: nothing to prepare\n", "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("prepare", "mnits"), "unknown data set 'mnits'; did you mean 'mnist'?"),
        (("verify", "tinyshakespear"), "did you mean 'tinyshakespeare'?"),
        (("verify", "ptb"), "ptb is not prepared in"),
        (("prepare", "ptb"), "ptb.train.txt does not exist"),
        (("prepare", "no.such.module:ptb"), "no.such.module:ptb: No module named 'no'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capfd, argv, words):
    code, out, err = call(capfd, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_an_interrupt_is_one_line(poems, capfd, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(builders, "prepare", interrupt)
    code, _, err = call(capfd, "prepare", "ptb")
    assert code == 130
    assert err.count("\n") == 1


def test_it_is_a_program(poems, tmp_path):
    def run(*argv):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "seqlab.data", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert run("list").returncode == 0
    done = run("prepare", "mypoems:poems")  # a module in the working folder
    assert (done.returncode, done.stderr) == (0, "")
    (record,) = poems.glob("poems-train*")
    record.unlink()
    done = run("verify", "mypoems:poems")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"poems: {record} does not exist\n"
    assert run("verify", "nothing").returncode == 2
