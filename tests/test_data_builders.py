import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from seqlab.data import builders, sources
from seqlab.data.builders import BUILDERS, Builder, Source, describe, load, prepare, verify
from seqlab.data.digits import read_idx
from seqlab.data.sources import SOURCES, File, StandIn
from seqlab.errors import InputError

ROOT = Path(__file__).parents[1]
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or ROOT.parent / "shared" / "data")
NUM_TRAIN, NUM_TEST = 2350, 30  # several times what TFDS's parquet writer handles at once

# A set of one file, as a module of its own: other processes import it too.
TOY = """
import os, pathlib, signal, time
import numpy as np
import tensorflow_datasets as tfds
from seqlab.data import builders, sources

path = pathlib.Path(os.environ["SEQLAB_DATA_MIRROR"]) / "toy" / "rows.txt"
sources.SOURCES["toy"] = (sources.File("rows.txt", "", path.stat().st_size, "{sha256}"),)

@builders.register
class Toy(builders.Builder):
    '''Lines of a file.'''
    name = "toy"

    def features(self):
        return {{"text": tfds.features.Text(), "number": tfds.features.Scalar(np.int16)}}

    def splits(self, files):
        with open(os.environ["TOY_LOG"], "a") as log:
            log.write("prepared\\n")
        lines = list(builders.read_lines(files["rows.txt"]))
        return {{"train": self.examples(lines[30:]), "test": self.examples(lines[:30])}}

    def examples(self, lines):
        for number, line in enumerate(lines):
            if number == 120 and os.environ.get("TOY_KILL"):
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 120 and os.environ.get("TOY_SLEEP"):
                time.sleep(float(os.environ["TOY_SLEEP"]))
            yield {{"text": line, "number": number}}
"""
LINES = [f"{number} é\r\n" for number in range(NUM_TEST)]
LINES += [f"line {number} \x0b\x85 {'x' * (number % 7)}\n" for number in range(NUM_TRAIN)]


@pytest.fixture(autouse=True)
def no_network_and_no_tensorflow(no_network):
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Own cache and mirror, and registers that are put back."""
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(sources, "SOURCES", dict(SOURCES))
    monkeypatch.setattr(builders, "BUILDERS", dict(BUILDERS))


def add_to_mirror(tmp_path, name, content):
    """Puts a file into the mirror; returns its entry for `SOURCES`."""
    path = tmp_path / "mirror" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return File(path.name, "", len(content), hashlib.sha256(content).hexdigest())


def run_module(path):
    namespace = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), namespace)
    return namespace


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The set "toy" in a mirror; the folder of its prepared version."""
    file = add_to_mirror(tmp_path, "toy/rows.txt", "".join(LINES).encode())
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    module = tmp_path / "toyset.py"
    module.write_text(TOY.format(sha256=file.sha256), encoding="utf-8")
    run_module(module)
    return tmp_path / "cache" / "prepared" / "toy" / "1.0.0"


def in_another_process(tmp_path, code, **variables):
    """Starts Python, with the network and TensorFlow out of reach there too."""
    guard = "import socket; socket.socket.connect = socket.getaddrinfo = None\n"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", guard + code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def times_prepared(tmp_path):
    return (tmp_path / "log").read_text().count("prepared")


def everything_in(folder):
    return sorted(path.name for path in folder.iterdir())


def texts(source):
    return [example["text"] for example in source]


def failure(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "seqlab")
    return lambda: [record.getMessage() for record in caplog.records if record.name[:6] == "seqlab"]


in_both_formats = pytest.mark.parametrize("file_format", ["array_record", "parquet"])


@in_both_formats
def test_every_example_comes_back_in_order(toy, file_format):
    train = load("toy", "train", file_format=file_format)
    assert len(train) == NUM_TRAIN
    assert texts(train) == LINES[NUM_TEST:]
    assert [example["number"] for example in train] == list(range(NUM_TRAIN))
    assert type(train[3]["text"]) is str
    assert train[3]["number"].dtype == np.int16
    assert texts(load("toy", "test")) == LINES[:NUM_TEST]
    assert any(file_format in name for name in everything_in(toy))


@in_both_formats
def test_numbers_of_examples_are_those_of_a_sequence(toy, file_format):
    train = load("toy", "train", file_format=file_format)
    assert train[np.int64(7)]["number"] == 7
    assert train[-1]["number"] == NUM_TRAIN - 1
    chosen = [5, NUM_TRAIN - 1, 5, 0, -2]
    found = [example["number"] for example in train.__getitems__(chosen)]
    assert found == [5, NUM_TRAIN - 1, 5, 0, NUM_TRAIN - 2]
    assert train.__getitems__([]) == []
    for outside in (NUM_TRAIN, -NUM_TRAIN - 1):
        with pytest.raises(IndexError):
            train[outside]
    with pytest.raises(TypeError):
        train["3"]


@in_both_formats
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:80%]", LINES[30 : 30 + 1880]),
        ("train[80%:]", LINES[30 + 1880 :]),
        ("test[10:20]", LINES[10:20]),
        ("test[-2:]", LINES[28:30]),
        ("test+train", LINES),
        ("all", LINES[30:] + LINES[:30]),
        ("test[:3]+train[2000:]+test[1:2]", LINES[:3] + LINES[2030:] + LINES[1:2]),
    ],
)
def test_slices(toy, file_format, split, expected):
    source = load("toy", split, file_format=file_format)
    assert len(source) == len(expected)
    assert texts(source) == expected
    numbers = [*range(0, len(expected), 97), -1]
    assert [source[number]["text"] for number in numbers] == [expected[n] for n in numbers]


@pytest.mark.parametrize("split", ["tests", "train[:x]", "train[2]", "train[:9999]", "all[:9%]"])
def test_a_split_that_is_not_there(toy, split):
    message = failure(load, "toy", split)
    assert f"split {split!r} cannot be taken" in message
    assert f"it has train ({NUM_TRAIN} examples), test ({NUM_TEST} examples)" in message


def test_a_slice_without_examples(toy):
    assert "split 'train[5:5]' holds no example" in failure(load, "toy", "train[5:5]")


@in_both_formats
def test_a_pickled_source_is_read_where_its_builder_is_unknown(toy, tmp_path, file_format):
    content = pickle.dumps(load("toy", "train[10:]", file_format=file_format))
    assert len(content) < 1000
    (tmp_path / "source.pickle").write_bytes(content)
    code = f"""
import pathlib, pickle
source = pickle.loads(pathlib.Path({str(tmp_path / "source.pickle")!r}).read_bytes())
from seqlab.data import builders
assert "toy" not in builders.BUILDERS
print(len(source), source[0]["number"])
"""
    assert finish(in_another_process(tmp_path, code)) == (0, f"{NUM_TRAIN - 10} 10\n", "")


@in_both_formats
def test_grain_reads_it(toy, file_format):
    grain = pytest.importorskip("grain")
    source = load("toy", "test", file_format=file_format)
    batches = list(grain.MapDataset.source(source).seed(0).shuffle().batch(10))
    seen = [text for batch in batches for text in batch["text"].tolist()]
    assert [len(batch["number"]) for batch in batches] == [10, 10, 10]
    assert batches[0]["number"].dtype == np.int16
    assert sorted(seen) == sorted(LINES[:NUM_TEST])
    assert seen != LINES[:NUM_TEST]


def test_what_is_prepared_is_left_alone(toy, tmp_path):
    assert prepare("toy") == toy
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in toy.iterdir()}
    shutil.rmtree(tmp_path / "mirror")  # nothing is read again
    assert prepare("toy") == toy
    assert len(load("toy", "test")) == NUM_TEST
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in toy.iterdir()} == before
    assert times_prepared(tmp_path) == 1
    assert everything_in(toy.parent) == [".lock", "1.0.0"]


@in_both_formats
def test_two_preparations_have_the_same_bytes(toy, tmp_path, file_format):
    digests = [
        {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in prepare("toy", tmp_path / folder, file_format).iterdir()
            if file.name != "manifest.json"
        }
        for folder in "ab"
    ]
    assert digests[0] == digests[1]


def test_preparing_is_silent_and_draws_no_random_numbers(toy, capfd):
    random.seed(3)
    expected = random.random()
    random.seed(3)
    prepare("toy")
    assert random.random() == expected
    assert capfd.readouterr() == ("", "")


def test_preparing_shows_a_bar_on_a_terminal(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    prepare("toy")
    out, err = capsys.readouterr()
    assert out == ""
    assert "toy train" in err
    assert "Shuffling" not in err


def test_another_format_is_prepared_when_it_is_asked_for(toy, tmp_path):
    prepare("toy", file_format="array_record")
    prepare("toy", file_format="parquet")
    assert [name for name in everything_in(toy) if "array_record" in name] == []
    assert texts(load("toy", "test")) == LINES[:NUM_TEST]  # as it is
    assert times_prepared(tmp_path) == 2
    assert "did you mean 'parquet'" in failure(prepare, "toy", file_format="parket")


def test_without_array_record_it_is_parquet(toy, tmp_path):
    code = """
import sys
sys.modules["array_record"] = None
import toyset
from seqlab.data import builders
print(*(path.name for path in builders.prepare("toy", "OTHER").iterdir()))
print(builders.load("toy", "train", "OTHER")[-1]["number"])
try:
    builders.load("toy", "train")
except builders.InputError as error:
    print(error)
"""
    prepare("toy", file_format="array_record")
    code = code.replace("OTHER", str(tmp_path / "other"))
    status, out, err = finish(in_another_process(tmp_path, code))
    assert (status, err) == (0, "")
    names, last, refusal = out.splitlines()
    assert "toy-train.parquet-00000-of-00001" in names
    assert "array_record" not in names
    assert int(last) == NUM_TRAIN - 1
    assert f"{toy} is array_record, which cannot be imported here" in refusal
    assert "in another folder" in refusal


def test_killed_half_way_is_not_taken_for_whole(toy, tmp_path):
    code = "import toyset\nfrom seqlab.data import builders\nbuilders.prepare('toy')"
    status, _, err = finish(in_another_process(tmp_path, code, TOY_KILL="1"))
    assert status == -signal.SIGKILL, err
    assert len(everything_in(toy.parent)) == 2  # the lock and what was begun
    assert not toy.exists()
    assert describe("toy").state == "not prepared"
    assert len(load("toy", "train")) == NUM_TRAIN
    assert everything_in(toy.parent) == [".lock", "1.0.0"]
    assert verify("toy") == []


def test_a_stopped_preparation_leaves_nothing(toy, monkeypatch):
    def stop(self, lines):
        yield {"text": "a", "number": 0}
        raise KeyboardInterrupt

    monkeypatch.setattr(builders.BUILDERS["toy"], "examples", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("toy")
    assert everything_in(toy.parent) == [".lock"]


def test_two_processes_prepare_it_once(toy, tmp_path):
    code = f"""
import os, pathlib, time
import toyset
from seqlab.data import builders
folder = pathlib.Path({str(tmp_path)!r})
(folder / f"ready-{{os.getpid()}}").touch()
while not (folder / "go").exists():
    time.sleep(0.005)
print(len(builders.load("toy", "train")))
"""
    running = [in_another_process(tmp_path, code, TOY_SLEEP="0.3") for _ in range(3)]
    while len(list(tmp_path.glob("ready-*"))) < 3 and all(each.poll() is None for each in running):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for process in running:
        assert finish(process) == (0, f"{NUM_TRAIN}\n", "")
    assert times_prepared(tmp_path) == 1
    assert verify("toy") == []


def test_two_processes_without_locks_do_no_harm(toy, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def unlocked(folder):
        yield False

    monkeypatch.setattr(builders, "_one_at_a_time", unlocked)
    examples = builders.BUILDERS["toy"].examples
    inner = []

    def overtaken(self, lines):
        if not inner:
            inner.append(True)
            prepare("toy")  # another one begins later and is first
        return examples(self, lines)

    monkeypatch.setattr(builders.BUILDERS["toy"], "examples", overtaken)
    prepare("toy")
    assert times_prepared(tmp_path) == 2
    assert everything_in(toy.parent) == ["1.0.0"]
    assert verify("toy") == []
    assert texts(load("toy", "train")) == LINES[NUM_TEST:]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {
    "flip": flip,
    "cut": cut,
    "delete": Path.unlink,
    "empty": lambda path: path.write_text(""),
}


@in_both_formats
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "pattern", ["toy-train*", "toy-test*", "features.json", "dataset_info.json"]
)
def test_damage_is_named_and_prepared_again(toy, logged, file_format, pattern, damage):
    prepare("toy", file_format=file_format)
    (path,) = toy.glob(pattern)
    for read in (lambda: load("toy", "all", file_format=file_format), lambda: prepare("toy")):
        DAMAGES[damage](path)
        (line,) = verify("toy")
        assert line.startswith(str(path))
        read()
        assert logged()[-1] == f"{line}; toy is prepared again"
        assert verify("toy") == []
        assert path.exists()
    assert len(logged()) == 2
    assert sorted(texts(load("toy", "all"))) == sorted(LINES)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "does not exist"),
        (cut, "is damaged"),
        (lambda path: path.write_text("[]"), "is damaged"),
        (lambda path: path.write_text('{"files": {}, "sources": {}, "splits": {}}'), "is damaged"),
    ],
)
def test_damage_of_the_manifest(toy, logged, damage, words):
    manifest = prepare("toy") / "manifest.json"
    damage(manifest)
    assert verify("toy") == [f"{manifest} {words}"]
    assert describe("toy").state == "damaged"
    assert len(load("toy", "train")) == NUM_TRAIN
    assert logged() == [f"{manifest} {words}; toy is prepared again"]
    assert verify("toy") == []


def flip_unnoticed(path):
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_damage_without_a_trace_is_found_by_hash_and_when_it_is_read(toy, logged):
    prepare("toy", file_format="array_record")
    (path,) = toy.glob("toy-train*")
    flip_unnoticed(path)
    assert describe("toy").state == "prepared"
    source = load("toy", "train")  # sizes and times are as they were
    assert logged() == []
    for read in (list, lambda source: [source[i] for i in range(NUM_TRAIN)]):
        message = failure(read, source)
        assert message.startswith(f"{toy} is damaged: ")
        assert "python -m seqlab.data prepare toy" in message
    assert verify("toy") == [f"{path} is damaged: its sha256 is not {noted(toy, path)[:12]}"]
    prepare("toy")
    assert len(logged()) == 1
    assert texts(load("toy", "train")) == LINES[NUM_TEST:]


def noted(folder, path):
    return json.loads((folder / "manifest.json").read_text())["files"][path.name]["sha256"]


def test_a_copy_with_other_times_is_read_as_it_is(toy, tmp_path, logged):
    shutil.copytree(prepare("toy").parent, tmp_path / "copy" / "toy", copy_function=shutil.copyfile)
    for file in (tmp_path / "copy" / "toy" / "1.0.0").iterdir():
        os.utime(file, (1, 1))
    assert texts(load("toy", "test", tmp_path / "copy")) == LINES[:NUM_TEST]
    assert verify("toy", tmp_path / "copy") == []
    assert times_prepared(tmp_path) == 1
    assert logged() == []


def test_a_damaged_set_without_its_files_is_left_for_the_user(toy, tmp_path):
    prepare("toy")
    (path,) = toy.glob("toy-test*")
    cut(path)
    shutil.rmtree(tmp_path / "mirror")
    assert "rows.txt does not exist" in failure(load, "toy", "train")
    assert path.exists()


def test_other_source_files_are_prepared_again(toy, tmp_path, logged):
    prepare("toy")
    content = "".join(line.upper() for line in LINES).encode()
    sources.SOURCES["toy"] = (add_to_mirror(tmp_path, "toy/rows.txt", content),)
    manifest = toy / "manifest.json"
    assert verify("toy") == [f"{manifest} names other source files than those of toy"]
    assert load("toy", "train")[0]["text"] == LINES[NUM_TEST].upper()
    assert len(logged()) == 1


def test_a_stand_in_is_noted_and_accepted(toy, tmp_path, logged):
    (file,) = sources.SOURCES["toy"]
    other = add_to_mirror(tmp_path, "toy/sorted.txt", "".join(sorted(LINES)).encode())
    stand_in = StandIn(other.name, other.size, other.sha256)
    sources.SOURCES["toy"] = (File(file.name, "", file.size, file.sha256, (stand_in,)),)
    (tmp_path / "mirror" / "toy" / "rows.txt").unlink()
    prepare("toy")
    read = json.loads((toy / "manifest.json").read_text())["sources"]
    assert read == {"rows.txt": {"file": "sorted.txt", "sha256": other.sha256}}
    assert load("toy", "test")[0]["text"] == sorted(LINES)[0]
    assert verify("toy") == []
    assert logged() == []
    flip(tmp_path / "mirror" / "toy" / "sorted.txt")
    (line,) = verify("toy")
    assert "sorted.txt is damaged" in line


def test_several_stand_ins_for_one_file_are_noted_and_accepted(toy, tmp_path):
    (file,) = sources.SOURCES["toy"]
    halves = [add_to_mirror(tmp_path, f"toy/{half}", half.encode()) for half in ("left", "right")]
    stand_ins = tuple(StandIn(half.name, half.size, half.sha256) for half in halves)
    sources.SOURCES["toy"] = (File(file.name, "", file.size, file.sha256, stand_ins),)
    prepare("toy")  # from rows.txt, which is there too
    assert verify("toy") == []
    manifest = toy / "manifest.json"
    noted = json.loads(manifest.read_text())

    def made_of(*shas):
        read = {str(i): {"file": "", "sha256": sha256} for i, sha256 in enumerate(shas)}
        manifest.write_text(json.dumps({**noted, "sources": read}))
        return verify("toy")

    assert made_of(*(half.sha256 for half in halves)) == []
    for wrong in ([halves[0].sha256], [file.sha256, halves[0].sha256], []):
        assert made_of(*wrong) == [f"{manifest} names other source files than those of toy"]
    (tmp_path / "mirror" / "toy" / "rows.txt").unlink()
    assert describe("toy").origin == "mirror"
    cut(tmp_path / "mirror" / "toy" / "left")
    assert describe("toy").origin.startswith("not in the mirror")


@pytest.mark.parametrize("mirror", ["mirror", None])
def test_verify_names_a_damaged_source_file(toy, tmp_path, monkeypatch, mirror):
    prepare("toy")
    path = tmp_path / "mirror" / "toy" / "rows.txt"
    if mirror is None:
        path = shutil.copytree(path.parent, tmp_path / "cache" / "toy") / "rows.txt"
        monkeypatch.delenv("SEQLAB_DATA_MIRROR")
    assert verify("toy") == []
    flip(path)
    sha256 = sources.SOURCES["toy"][0].sha256
    assert verify("toy") == [f"{path} is damaged: its sha256 is not {sha256[:12]}"]
    path.unlink()
    assert verify("toy") == []  # nothing to compare, nothing fetched


def test_verify_before_preparing(toy):
    assert "python -m seqlab.data prepare toy" in failure(verify, "toy")


@pytest.mark.parametrize("call", [prepare, verify, describe, lambda name: load(name, "train")])
def test_an_unknown_set(call):
    assert "unknown data set 'mnits'; did you mean 'mnist'?" in failure(call, "mnits")


def test_a_folder_that_cannot_be_written(toy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = failure(prepare, "toy", tmp_path / "file")
    assert f"cannot prepare toy in {tmp_path / 'file'}" in message
    assert "SEQLAB_CACHE" in message


def test_describe(toy, monkeypatch):
    assert describe("toy") == ("Lines of a file.", "not stated", "mirror", "not prepared", {})
    prepare("toy")
    found = describe("toy")
    assert (found.state, found.sizes) == ("prepared", {"train": NUM_TRAIN, "test": NUM_TEST})
    for path in toy.glob("toy-*"):
        cut(path)
    assert describe("toy")[3:] == ("damaged", {})
    assert describe("ptb").origin == "not in the mirror (SEQLAB_DATA_MIRROR)"
    monkeypatch.delenv("SEQLAB_DATA_MIRROR")
    assert describe("ptb").origin == "download, 6.0 MB"


def test_the_origin_is_the_cache_once_all_files_are_there(toy, tmp_path, monkeypatch):
    monkeypatch.delenv("SEQLAB_DATA_MIRROR")
    assert describe("toy").origin.startswith("download")
    shutil.copytree(tmp_path / "mirror" / "toy", tmp_path / "cache" / "toy")
    assert describe("toy").origin == "cache"
    cut(tmp_path / "cache" / "toy" / "rows.txt")
    assert describe("toy").origin.startswith("download")


def test_a_builder_without_files_entry_is_refused():
    with pytest.raises(ValueError, match=r"sources\.SOURCES\['nowhere'\]"):

        @builders.register
        class Nowhere(Builder):
            name = "nowhere"


def test_a_builder_may_be_defined_again(toy, tmp_path):
    run_module(tmp_path / "toyset.py")  # as a notebook's cell is
    assert len(load("toy", "test")) == NUM_TEST


def generated(**splits):
    """Registers a set without files; each split is a list of examples of one text."""
    import tensorflow_datasets as tfds

    sources.SOURCES["generated"] = ()

    @builders.register
    class Generated(Builder):
        name = "generated"

        def features(self):
            return {"text": tfds.features.Text()}

        def splits(self, files):
            assert files == {}
            return {name: ({"text": text} for text in part) for name, part in splits.items()}


def test_a_generated_set():
    generated(train=["", "é", "a\nb"])
    assert texts(load("generated", "train")) == ["", "é", "a\nb"]
    assert describe("generated")[:3] == ("", "not stated", "generated")
    assert verify("generated") == []


def test_a_split_without_examples_is_refused():
    generated(train=["a"], test=[])
    assert "generated: split test has no example" in failure(prepare, "generated")
    assert describe("generated").state == "not prepared"


def test_another_version_is_another_set():
    generated(train=["a"])
    first = prepare("generated")
    generated(train=["b"])
    assert texts(load("generated", "train")) == ["a"]  # documented: raise the version
    builders.BUILDERS["generated"].VERSION = type(Builder.VERSION)("1.1.0")
    assert texts(load("generated", "train")) == ["b"]
    assert prepare("generated") == first.parent / "1.1.0"


def test_lines_are_cut_at_line_feeds_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("a\r\nb\x0b\x85c\n\nd".encode())
    assert list(builders.read_lines(path)) == ["a\r\n", "b\x0b\x85c\n", "\n", "d"]
    path.write_bytes(b"a\n\xff\n")
    assert failure(lambda: list(builders.read_lines(path))).startswith(f"{path} is not UTF-8")


@in_both_formats
def test_features_come_back_as_texts_and_numpy(file_format):
    import tensorflow_datasets as tfds

    kinds = tfds.features
    sources.SOURCES["many"] = ()
    example = {
        "text": "é",
        "nested": {"text": "b", "number": 3},
        "words": ["a", "é"],
        "pairs": [{"word": "a", "count": 1}, {"word": "é", "count": 2}],
        "sides": {"en": "e", "fr": "f"},
        "raw": b"\xff",
        "track": [[1, 2], [3, 4], [5, 6]],
        "label": "down",
        "flag": True,
        "ids": [7, 8],
        "none": [],
    }

    @builders.register
    class Many(Builder):
        name = "many"

        def features(self):
            return {
                "text": kinds.Text(),
                "nested": {"text": kinds.Text(), "number": np.uint8},
                "words": kinds.Sequence(kinds.Text()),
                "pairs": kinds.Sequence({"word": kinds.Text(), "count": np.int32}),
                "sides": kinds.Translation(("en", "fr")),
                "raw": kinds.Tensor(shape=(), dtype=np.object_),
                "track": kinds.Tensor(shape=(None, 2), dtype=np.float32),
                "label": kinds.ClassLabel(names=["up", "down"]),
                "flag": np.bool_,
                "ids": kinds.Sequence(np.int16),
                "none": kinds.Sequence(np.float32),
            }

        def splits(self, files):
            return {"train": [example]}

    (found,) = load("many", "train", file_format=file_format)
    assert found["text"] == "é"
    assert found["nested"] == {"text": "b", "number": 3}
    assert found["nested"]["number"].dtype == np.uint8
    assert found["words"] == ["a", "é"]
    assert found["pairs"]["word"] == ["a", "é"]
    assert found["pairs"]["count"].tolist() == [1, 2]
    assert found["pairs"]["count"].dtype == np.int32
    assert found["sides"] == {"en": "e", "fr": "f"}
    assert found["raw"] == b"\xff"
    assert found["track"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found["track"].dtype == np.float32
    assert found["label"] == 1
    assert found["label"].dtype == np.int64
    assert found["flag"].dtype == np.bool_
    assert found["ids"].tolist() == [7, 8]
    assert found["ids"].dtype == np.int16
    assert found["none"].shape == (0,)
    assert found["none"].dtype == np.float32


def test_the_example_in_the_docs(tmp_path, capsys):
    text = (ROOT / "docs" / "add_a_data_set.md").read_text(encoding="utf-8")
    (content,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (expected,) = re.findall(r"It prints `(.*)`\.", text)
    add_to_mirror(tmp_path, "trends/series.txt", content.encode())
    (tmp_path / "mysets.py").write_text(code, encoding="utf-8")
    namespace = run_module(tmp_path / "mysets.py")
    assert capsys.readouterr().out == f"{expected}\n"
    assert namespace["train"][0]["series"].dtype == np.float32
    assert [example["label"] for example in load("trends", "test")] == [0, 0]
    assert verify("trends") == []


def real(name, monkeypatch):
    folder = REAL_MIRROR / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set SEQLAB_DATA_MIRROR to a folder with {name}/ in it")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))
    return folder


def test_real_ptb_is_the_files(monkeypatch):
    folder = real("ptb", monkeypatch)
    sizes = {"train": 42_068, "validation": 3_370, "test": 3_761}
    for split, file in (("train", "train"), ("validation", "valid"), ("test", "test")):
        sentences = texts(load("ptb", split))
        assert len(sentences) == sizes[split]
        assert "".join(sentences).encode() == (folder / f"ptb.{file}.txt").read_bytes()
    assert describe("ptb").sizes == sizes


@in_both_formats
def test_real_tinyshakespeare_is_the_file(monkeypatch, file_format):
    folder = real("tinyshakespeare", monkeypatch)
    train = "".join(texts(load("tinyshakespeare", "train", file_format=file_format)))
    validation = "".join(texts(load("tinyshakespeare", "validation")))
    assert (len(train), len(validation)) == (1_003_854, 111_540)  # as nanoGPT prints them
    assert (train + validation).encode() == (folder / "input.txt").read_bytes()
    assert "".join(texts(load("tinyshakespeare", "all"))) == train + validation


def test_real_mnist_is_the_files(monkeypatch):
    folder = real("mnist", monkeypatch)
    test = list(load("mnist", "test"))
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz", 3)
    np.testing.assert_array_equal(np.stack([example["image"] for example in test]), images)
    assert test[0]["image"].dtype == np.uint8
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz", 1)
    assert [example["label"] for example in test] == labels.tolist()
    train = load("mnist", "train")
    assert len(train) == 60_000
    paths = sources.fetch("mnist")
    images = read_idx(paths["train-images-idx3-ubyte.gz"], 3)
    labels = read_idx(paths["train-labels-idx1-ubyte.gz"], 1)
    rows = np.random.default_rng(0).choice(60_000, 2000)
    for row, example in zip(rows, train.__getitems__(rows), strict=True):
        np.testing.assert_array_equal(example["image"], images[row])
        assert example["label"] == labels[row]


REVIEWS = {
    ("train", "neg"): [(0, 1, "Bad.<br />Very \u2028bad."), (10, 2, "b"), (2, 4, "c\td\x85\re\n")],
    ("train", "pos"): [(0, 9, "Gut, sehr \u00e9."), (1, 10, "g"), (12, 7, "h \x1c i")],
    ("test", "neg"): [(5, 3, "k")],
    ("test", "pos"): [(7, 8, "l")],
    ("train", "unsup"): [(3, 0, "m"), (1, 0, "n")],
}


def put_reviews(tmp_path, form):
    """REVIEWS in a mirror, as the published archive or in the lines of its stand-ins."""
    mirror = tmp_path / form / "imdb"
    mirror.mkdir(parents=True)
    if form == "archive":
        archive = mirror / "aclImdb_v1.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            contents = [("aclImdb/README", b"of the set"), ("aclImdb/train/urls_neg.txt", b"http")]
            for (part, kind), reviews in REVIEWS.items():
                for number, rating, text in reviews:
                    name = f"aclImdb/{part}/{kind}/{number}_{rating}.txt"
                    contents.append((name, text.encode()))
            for name, content in contents:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        paths = [archive]
    else:
        paths = []
        for (part, kind), reviews in REVIEWS.items():
            paths.append(mirror / f"{part}_{kind}.tsv.gz")
            with gzip.open(paths[-1], "wt", encoding="utf-8", newline="\n") as file:
                for number, rating, text in sorted(reviews):
                    line = re.sub("[\t\r\n\x1c\x85\u2028]", " ", text)
                    file.write(f"{number}\t{rating}\t{line}\n")
    return [
        StandIn(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in paths
    ]


def test_imdb_is_the_same_from_the_archive_and_from_its_stand_ins(tmp_path, monkeypatch):
    (archive,), lines = put_reviews(tmp_path, "archive"), put_reviews(tmp_path, "lines")
    address = SOURCES["imdb"][0].address
    file = File(archive.name, address, archive.size, archive.sha256, tuple(lines))
    sources.SOURCES["imdb"] = (file,)
    found = {}
    for form in ("archive", "lines"):
        monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / form))
        monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / form / "cache"))
        splits = ("train", "test", "unsupervised")
        found[form] = {split: list(load("imdb", split)) for split in splits}
        assert verify("imdb") == []
    assert found["archive"] == found["lines"]
    assert [
        (review["label"], review["rating"], review["text"]) for review in found["lines"]["train"]
    ] == [
        (0, 1, "Bad.<br />Very  bad."),
        (1, 9, "Gut, sehr \u00e9."),
        (0, 4, "c d  e "),
        (1, 10, "g"),
        (0, 2, "b"),
        (1, 7, "h   i"),
    ]
    assert [
        (review["label"], review["rating"], review["text"])
        for review in found["lines"]["unsupervised"]
    ] == [
        (-1, 0, "n"),
        (-1, 0, "m"),
    ]


def put_files(tmp_path, name, **contents):
    """Small files under the names that a set's own have; "__" in a keyword stands for a dot."""
    named = {key.replace("__", "."): content for key, content in contents.items()}
    sources.SOURCES[name] = tuple(
        add_to_mirror(tmp_path, f"{name}/{file.name}", named[file.name.replace("-", "_")])
        for file in SOURCES[name]
    )


def labelled(source):
    return [(int(example["label"]), example["text"]) for example in source]


def test_mr_is_latin_1_cut_at_line_feeds_and_takes_turns(tmp_path):
    put_files(
        tmp_path,
        "rt_polarity",
        rt_polarity__neg=b"a bore \x85 \ndull .\n",
        rt_polarity__pos=b"caf\xe9 ! \x0b\ngood \x97 fun \n",
    )
    assert labelled(load("rt_polarity", "train")) == [
        (0, "a bore \x85 "),
        (1, "café ! \x0b"),
        (0, "dull ."),
        (1, "good \x97 fun "),
    ]


def test_sst_lines_are_label_and_sentence(tmp_path):
    lines = {"train": "4 très bon\n0 1 star\n", "dev": "2 \x85 so\n", "test": "3 b\n"}
    contents = {f"stsa__fine__{part}": text.encode() for part, text in lines.items()}
    put_files(tmp_path, "sst5", **contents)
    assert labelled(load("sst5", "all")) == [
        (4, "très bon"),
        (0, "1 star"),
        (2, "\x85 so"),
        (3, "b"),
    ]
    assert len(load("sst5", "validation")) == 1
    assert BUILDERS["sst5"].CLASSES[3] == "positive"


def test_trec_has_coarse_and_fine_classes(tmp_path):
    train = b"NUM:dist How far ?\nLOC:city A sister\xf0city ?\n"
    put_files(tmp_path, "trec", TREC__train=train, TREC__test=b"ABBR:exp What is AI ?\n")
    first, second = load("trec", "train")
    builder = BUILDERS["trec"]
    assert (first["text"], second["text"]) == ("How far ?", "A sister\xf0city ?")
    assert builder.CLASSES[first["label"]] == "NUM"
    assert builder.FINE_CLASSES[first["fine_label"]] == "NUM:dist"
    assert builder.FINE_CLASSES[second["fine_label"]] == "LOC:city"
    assert builder.CLASSES[load("trec", "test")[0]["label"]] == "ABBR"
    assert len(set(builder.FINE_CLASSES)) == 50


def real_lines(path, encoding="utf-8"):
    return path.read_bytes().decode(encoding).split("\n")[:-1]


def test_real_mr_is_the_files(monkeypatch):
    folder = real("rt_polarity", monkeypatch)
    found = labelled(load("rt_polarity", "train"))
    for label, name in enumerate(("neg", "pos")):
        lines = real_lines(folder / f"rt-polarity.{name}", "latin-1")
        assert [text for each, text in found if each == label] == lines
        assert len(lines) == 5_331
    assert [label for label, _ in found] == [0, 1] * 5_331
    lengths = {
        label: [len(text.split()) for each, text in found if each == label] for label in (0, 1)
    }
    assert [round(np.mean(lengths[label]), 1) for label in (0, 1)] == [20.9, 21.1]


@pytest.mark.parametrize(
    ("name", "stem", "sizes"),
    [("sst2", "binary", (6_920, 872, 1_821)), ("sst5", "fine", (8_544, 1_101, 2_210))],
)
def test_real_sst_is_the_files(monkeypatch, name, stem, sizes):
    folder = real(name, monkeypatch)
    splits = {"train": "train", "validation": "dev", "test": "test"}
    for (split, part), size in zip(splits.items(), sizes, strict=True):
        found = labelled(load(name, split))
        assert [f"{label} {text}" for label, text in found] == real_lines(
            folder / f"stsa.{stem}.{part}"
        )
        assert len(found) == size


def test_real_sst2_has_the_published_share_of_negatives(monkeypatch):
    real("sst2", monkeypatch)
    splits = ("train", "validation", "test")
    labels = [[label for label, _ in labelled(load("sst2", split))] for split in splits]
    assert [each.count(0) for each in labels] == [3_310, 428, 912]


def test_real_trec_is_the_files(monkeypatch):
    folder = real("trec", monkeypatch)
    builder = BUILDERS["trec"]
    counts = {"train": [86, 1_162, 1_250, 1_223, 835, 896], "test": [9, 138, 94, 65, 81, 113]}
    for split, expected in counts.items():
        found = list(load("trec", split))
        names = [f"{builder.FINE_CLASSES[each['fine_label']]} {each['text']}" for each in found]
        assert names == real_lines(folder / f"TREC.{split}.raw", "latin-1")
        assert np.bincount([each["label"] for each in found]).tolist() == expected
        fine = {each["fine_label"] for each in found}
        assert len(fine) == {"train": 50, "test": 42}[split]


def test_text8_is_cut_at_90_and_95_percent(tmp_path):
    text = "".join(f" w{number}" for number in range(50_000))
    with zipfile.ZipFile(tmp_path / "text8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", text)
    content = (tmp_path / "text8.zip").read_bytes()
    sources.SOURCES["text8"] = (add_to_mirror(tmp_path, "text8/text8.zip", content),)
    parts = {split: texts(load("text8", split)) for split in ("train", "validation", "test")}
    assert "".join("".join(part) for part in parts.values()) == text
    assert len("".join(parts["train"])) == len(text) * 90 // 100
    assert len("".join(parts["train"] + parts["validation"])) == len(text) * 95 // 100
    assert {len(piece) for part in parts.values() for piece in part[:-1]} == {100_000}


def test_men_is_pairs_with_scores(tmp_path):
    content = b"sun\tsunlight\t50.0\nstair\tstaircase\t49.5\n"
    sources.SOURCES["men"] = (add_to_mirror(tmp_path, "men/EN-MEN-TR-3k.txt", content),)
    first, second = load("men", "men")
    assert (first["words"], second["score"]) == (["sun", "sunlight"], np.float32(49.5))


@pytest.mark.slow
def test_real_word_similarity_is_the_files(monkeypatch):
    folder = real("word_similarity", monkeypatch)
    analogies = list(load("word_similarity", "analogies"))
    expected, section = [], ""
    for line in (folder / "questions-words.txt").read_text().splitlines():
        if line.startswith(": "):
            section = line[2:]
        else:
            expected.append((section, line.split()))
    assert [(each["section"], each["words"]) for each in analogies] == expected
    assert len({section for section, _ in expected}) == 14
    assert sum(not section.startswith("gram") for section, _ in expected) == 8_869
    assert sum(section.startswith("gram") for section, _ in expected) == 10_675
    pairs = {"ws353": ("WS-353-ALL", 353), "ws353_sim": ("WS-353-SIM", 203), "rg65": ("RG-65", 65)}
    pairs |= {
        "ws353_rel": ("WS-353-REL", 252),
        "simlex999": ("SIMLEX-999", 999),
        "mc30": ("MC-30", 30),
    }
    for split, (name, size) in pairs.items():
        rows = [line.split("\t") for line in (folder / f"EN-{name}.txt").read_text().splitlines()]
        found = list(load("word_similarity", split))
        assert len(found) == size
        assert [pair["words"] for pair in found] == [row[:2] for row in rows]
        scores = np.array([row[2] for row in rows], np.float32)
        np.testing.assert_array_equal([pair["score"] for pair in found], scores)


@pytest.mark.slow
def test_real_imdb_is_the_files(monkeypatch):
    folder = real("imdb", monkeypatch)
    train, unlabelled = load("imdb", "train"), load("imdb", "unsupervised")
    assert describe("imdb").sizes == {"train": 25_000, "test": 25_000, "unsupervised": 50_000}
    rows = {}
    for kind in ("neg", "pos", "unsup"):
        with gzip.open(
            folder / f"train_{kind}.tsv.gz", "rt", encoding="utf-8", newline="\n"
        ) as file:
            rows[kind] = [line.rstrip("\n").split("\t") for line in file]
    for label, kind in enumerate(("neg", "pos")):
        for row in (0, 1, 7_000, 12_499):
            _, rating, text = rows[kind][row]
            expected = {"label": label, "rating": int(rating), "text": text}
            assert train[2 * row + label] == expected
    assert [each["text"] for each in unlabelled.__getitems__(range(0, 50_000, 500))] == [
        text for _, _, text in rows["unsup"][::500]
    ]
    assert unlabelled[0]["label"] == -1


def test_a_source_says_what_it_is(toy):
    source = load("toy", "test[:5]")
    assert repr(source) == f"Source({str(toy)!r}, 'test[:5]')"
    assert isinstance(source, Source)
