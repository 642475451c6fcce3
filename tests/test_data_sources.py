import hashlib
import http.server
import logging
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from seqlab.data import sources
from seqlab.data.checks import check_at_least, check_finite, check_known
from seqlab.data.sources import SOURCES, File, StandIn, fetch
from seqlab.errors import InputError

CONTENT = bytes(range(256)) * 1000  # several chunks
OTHER = CONTENT[:-1] + b"\x00"
BESIDE_CHECKOUT = Path(__file__).parents[2] / "shared" / "data"
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or BESIDE_CHECKOUT)


def describe(name, address, content, *stand_ins):
    return File(name, address, len(content), hashlib.sha256(content).hexdigest(), stand_ins)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        status, promised, body = self.server.answers.get(self.path, (404, 0, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Own cache, no mirror, no proxy between us and the loopback server."""
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEQLAB_DATA_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.requests = {}, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def toy(server, monkeypatch):
    """A set "toy" of one file that the server answers for."""
    file = describe("toy.bin", f"{server.address}/toy.bin", CONTENT)
    monkeypatch.setitem(SOURCES, "toy", (file,))
    server.answers["/toy.bin"] = (200, len(CONTENT), CONTENT)
    return file


@pytest.fixture
def unreachable(monkeypatch):
    """The same set where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = describe("toy.bin", f"http://127.0.0.1:{port}/toy.bin", CONTENT)
    monkeypatch.setitem(SOURCES, "toy", (file,))
    return file


def cached(tmp_path):
    return tmp_path / "cache" / "toy" / "toy.bin"


def everything_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def failure(set_name="toy"):
    with pytest.raises(InputError) as caught:
        fetch(set_name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_download_lands_in_the_cache_and_is_not_repeated(toy, server, tmp_path):
    assert fetch("toy") == {"toy.bin": cached(tmp_path)}
    assert cached(tmp_path).read_bytes() == CONTENT
    assert fetch("toy") == {"toy.bin": cached(tmp_path)}
    assert server.requests == ["/toy.bin"]
    assert everything_in(tmp_path) == [cached(tmp_path)]


def test_download_shows_a_progress_bar_on_a_terminal(toy, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch("toy")
    out, err = capsys.readouterr()
    assert out == ""
    assert "toy.bin" in err
    assert "100%" in err


def test_download_is_silent_without_a_terminal(toy, capsys):
    fetch("toy")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("promised", "body", "found"),
    [
        (len(CONTENT), OTHER, len(CONTENT)),
        (len(CONTENT), CONTENT[:1000], 1000),
        (1000, CONTENT[:1000], 1000),
        (0, b"", 0),
    ],
    ids=["wrong bytes", "cut off", "short", "empty"],
)
def test_damaged_download_leaves_nothing(toy, server, tmp_path, promised, body, found):
    server.answers["/toy.bin"] = (200, promised, body)
    message = failure()
    assert toy.address in message
    assert f"expected {len(CONTENT)} bytes with sha256 {toy.sha256[:12]}" in message
    assert f"found {found} bytes with sha256 {hashlib.sha256(body).hexdigest()[:12]}" in message
    assert str(cached(tmp_path)) in message
    assert everything_in(tmp_path) == []
    assert server.requests == ["/toy.bin"]


def test_download_that_never_ends_is_cut_off(toy, server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1000)
    server.answers["/toy.bin"] = (200, 10 * len(CONTENT), CONTENT * 10)
    found = re.search(r"found (\d+) bytes", failure())
    assert len(CONTENT) < int(found[1]) <= len(CONTENT) + 1000
    assert everything_in(tmp_path) == []


def test_http_error_is_one_line(toy, server, tmp_path):
    del server.answers["/toy.bin"]
    message = failure()
    assert "Not Found" in message
    assert toy.address in message
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("failing", [KeyboardInterrupt, OSError])
def test_interrupted_write_leaves_nothing(toy, tmp_path, monkeypatch, failing):
    chunks = sources._chunks

    def interrupted(path, file):
        yield next(chunks(path, file))
        assert len(everything_in(tmp_path)) == 1
        assert not cached(tmp_path).exists()
        raise failing("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_chunks", interrupted)
        expected = KeyboardInterrupt if failing is KeyboardInterrupt else InputError
        with pytest.raises(expected, match="stopped here"):
            fetch("toy")
    assert everything_in(tmp_path) == []
    assert fetch("toy")["toy.bin"].read_bytes() == CONTENT


def test_file_appears_under_its_name_only_once_verified(toy, tmp_path, monkeypatch):
    replace, seen = os.replace, []

    def watched(source, target):
        seen.append((Path(source).parent, Path(source).read_bytes() == CONTENT, target.exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    fetch("toy")
    assert seen == [(cached(tmp_path).parent, True, False)]


def test_offline_says_at_once_what_to_put_where(unreachable, tmp_path):
    start = time.perf_counter()
    message = failure()
    assert time.perf_counter() - start < 3
    for part in ("toy.bin", unreachable.address, str(cached(tmp_path)), "SEQLAB_DATA_MIRROR"):
        assert part in message
    assert everything_in(tmp_path) == []


def test_file_put_in_the_cache_by_hand_is_used(unreachable, tmp_path):
    message = failure()
    place = Path(re.search(r"put it at (\S+) by hand", message)[1])
    place.write_bytes(CONTENT)
    assert fetch("toy") == {"toy.bin": place}


def test_name_that_does_not_resolve_is_one_line(unreachable, monkeypatch):
    def no_name(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    assert "Temporary failure in name resolution" in failure()


def test_look_up_that_hangs_does_not_hang_us(unreachable, monkeypatch):
    release = threading.Event()

    def hangs(*args, **kwargs):
        release.wait(5)
        raise socket.gaierror(-3, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.1)
    start = time.perf_counter()
    message = failure()
    assert time.perf_counter() - start < 3
    release.set()
    assert "no answer within 0.1 s" in message


def test_server_that_never_answers_does_not_hang_us(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/toy.bin"
        monkeypatch.setitem(SOURCES, "toy", (describe("toy.bin", address, CONTENT),))
        monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.1)
        start = time.perf_counter()
        message = failure()
        assert time.perf_counter() - start < 3
        assert address in message


@pytest.mark.parametrize("damage", [OTHER, CONTENT[:-1], b""], ids=["byte", "cut off", "empty"])
def test_damaged_cache_is_reported_and_fetched_again(toy, tmp_path, caplog, damage):
    fetch("toy")
    cached(tmp_path).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert fetch("toy")["toy.bin"].read_bytes() == CONTENT
    (record,) = caplog.records
    assert str(cached(tmp_path)) in record.getMessage()
    assert hashlib.sha256(damage).hexdigest()[:12] in record.getMessage()
    assert "fetched again" in record.getMessage()


def test_damaged_cache_does_not_stay_when_offline(unreachable, tmp_path):
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(OTHER)
    assert str(cached(tmp_path)) in failure()
    assert everything_in(tmp_path) == []


def test_cache_that_cannot_be_written_is_one_line(toy, tmp_path, monkeypatch):
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "a file" / "cache"))
    message = failure()
    assert "cannot write" in message
    assert "SEQLAB_CACHE" in message


def test_unknown_set_lists_the_known_ones():
    message = failure("mnits")
    assert "did you mean 'mnist'?" in message
    assert "ptb" in message
    assert "tinyshakespeare" in message


def test_mirror_is_read_in_place(toy, server, tmp_path, monkeypatch):
    in_mirror = tmp_path / "mirror" / "toy" / "toy.bin"
    in_mirror.parent.mkdir(parents=True)
    in_mirror.write_bytes(CONTENT)
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    assert fetch("toy") == {"toy.bin": in_mirror}
    assert everything_in(tmp_path) == [in_mirror]
    assert server.requests == []


def test_missing_in_the_mirror_names_the_path_and_fetches_nothing(
    toy, server, tmp_path, monkeypatch
):
    fetch("toy")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    message = failure()
    assert str(tmp_path / "mirror" / "toy" / "toy.bin") in message
    assert "SEQLAB_DATA_MIRROR" in message
    assert server.requests == ["/toy.bin"]


def test_damaged_in_the_mirror_is_refused_and_left_alone(toy, tmp_path, monkeypatch):
    in_mirror = tmp_path / "mirror" / "toy" / "toy.bin"
    in_mirror.parent.mkdir(parents=True)
    in_mirror.write_bytes(OTHER)
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    message = failure()
    assert str(in_mirror) in message
    assert toy.sha256[:12] in message
    assert hashlib.sha256(OTHER).hexdigest()[:12] in message
    assert in_mirror.read_bytes() == OTHER


@pytest.fixture
def paired(tmp_path, monkeypatch):
    """A set of two files with stand-ins, and one without; an empty mirror for it."""
    stand_ins = {name: f"shuffled {name}".encode() for name in ("images", "labels")}
    files = [
        describe(
            name,
            "http://127.0.0.1:9/never",
            name.encode(),
            StandIn(f"{name}-shuffled", len(content), hashlib.sha256(content).hexdigest()),
        )
        for name, content in stand_ins.items()
    ]
    files.append(describe("test", "http://127.0.0.1:9/never", b"test"))
    monkeypatch.setitem(SOURCES, "paired", tuple(files))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path))
    folder = tmp_path / "paired"
    folder.mkdir()
    (folder / "test").write_bytes(b"test")
    return folder


def fill(folder, *names):
    for name in names:
        kind, _, shuffled = name.partition("-")
        (folder / name).write_bytes((f"shuffled {kind}" if shuffled else kind).encode())


def test_stand_ins_are_taken_from_a_mirror(paired):
    fill(paired, "images-shuffled", "labels-shuffled")
    found = fetch("paired")
    assert {name: path.name for name, path in found.items()} == {
        "images": "images-shuffled",
        "labels": "labels-shuffled",
        "test": "test",
    }


@pytest.fixture
def packed(paired, monkeypatch):
    """A set of one file, in whose place a mirror may hold two."""
    parts = [
        StandIn(name, 4, hashlib.sha256(name.encode()).hexdigest()) for name in ("one1", "two2")
    ]
    packed = describe("packed", "http://127.0.0.1:9/never", b"one and two", *parts)
    monkeypatch.setitem(SOURCES, "paired", (packed, SOURCES["paired"][-1]))
    return paired


def test_several_stand_in_for_one_file_each_by_its_own_name(packed):
    for name in ("one1", "two2"):
        (packed / name).write_text(name)
    assert fetch("paired") == {name: packed / name for name in ("one1", "two2", "test")}
    (packed / "packed").write_bytes(b"one and two")
    assert fetch("paired") == {name: packed / name for name in ("packed", "test")}


def test_some_of_several_stand_ins_are_not_enough(packed):
    (packed / "one1").write_text("one1")
    message = failure("paired")
    assert f"{packed / 'packed'} does not exist" in message
    assert "one1, two2" in message


def test_every_one_of_several_stand_ins_is_verified(packed):
    (packed / "one1").write_text("one1")
    (packed / "two2").write_text("Two2")
    assert f"{packed / 'two2'} is damaged" in failure("paired")


def test_official_files_come_before_stand_ins(paired):
    fill(paired, "images-shuffled", "labels-shuffled", "images", "labels")
    assert {name: path.name for name, path in fetch("paired").items()} == {
        name: name for name in ("images", "labels", "test")
    }


@pytest.mark.parametrize("official", ["images", "labels"])
def test_official_and_stand_in_are_never_mixed(paired, official):
    fill(paired, "images-shuffled", "labels-shuffled", official)
    names = {path.name for path in fetch("paired").values()}
    assert names == {"images-shuffled", "labels-shuffled", "test"}


def test_half_official_half_stand_in_is_missing(paired):
    fill(paired, "images", "labels-shuffled")
    message = failure("paired")
    assert f"{paired / 'labels'} does not exist" in message


def test_neither_official_nor_stand_in_names_both(paired):
    message = failure("paired")
    assert str(paired / "images") in message
    assert "images-shuffled" in message


def test_stand_in_is_not_taken_from_the_cache(paired, monkeypatch):
    fill(paired, "images-shuffled", "labels-shuffled")
    monkeypatch.setenv("SEQLAB_CACHE", str(paired.parent))
    monkeypatch.delenv("SEQLAB_DATA_MIRROR")
    assert "images could not be fetched" in failure("paired")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"SEQLAB_CACHE": "/a/b"}, "/a/b"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/seqlab"),
        ("linux", {"SEQLAB_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ("linux", {}, "/home/me/.cache/seqlab"),
        ("darwin", {}, "/home/me/Library/Caches/seqlab"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/seqlab"),
        ("win32", {}, "/home/me/AppData/Local/seqlab"),
    ],
)
def test_cache_folder(monkeypatch, platform, variables, expected):
    for name in ("SEQLAB_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert sources.cache_folder() == Path(expected)


def test_registry_is_pinned_and_complete():
    for name, files in SOURCES.items():
        assert files, name
        assert len({file.name for file in files}) == len(files)
        for file in files:
            # Not every host has TLS; what is fetched is held to its sha256 all the same.
            assert file.address.startswith("http://" if name == "text8" else "https://")
            assert file.address.endswith(f"/{file.name}")
            if "githubusercontent" in file.address:
                assert re.search(r"/[0-9a-f]{40}/", file.address)
            for described in (file, *file.stand_ins):
                assert re.fullmatch(r"[0-9a-f]{64}", described.sha256)
                assert described.size > 0


@pytest.mark.parametrize("set_name", SOURCES)
def test_real_mirror_holds_what_is_registered(set_name, monkeypatch):
    folder = REAL_MIRROR / set_name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set SEQLAB_DATA_MIRROR to a folder with {set_name}/ in it")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))
    found = fetch(set_name)
    files = SOURCES[set_name]
    expected = (
        [each.name for file in files for each in file.stand_ins] if set_name == "imdb" else []
    )
    assert list(found) == (expected or [file.name for file in files])
    assert all(path.parent == folder for path in found.values())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.nan, r"^xs\[3, 12, 0\] is nan$"),
        (np.inf, r"^xs\[3, 12, 0\] is inf$"),
        (-np.inf, r"^xs\[3, 12, 0\] is -inf$"),
    ],
)
def test_check_finite_names_the_first_bad_entry(bad, message):
    xs = np.zeros((5, 20, 2), np.float32)
    check_finite(xs, "xs")
    xs[3, 12, 0] = bad
    xs[4, 0, 1] = np.nan
    with pytest.raises(InputError, match=message):
        check_finite(xs, "xs")


def test_check_finite_of_scalars_integers_and_nothing():
    check_finite(np.zeros((0, 3)), "xs")
    check_finite(np.arange(3), "xs")
    with pytest.raises(InputError, match=r"^rate is nan$"):
        check_finite(np.array(np.nan), "rate")


def test_check_at_least_names_field_and_limit():
    check_at_least(1, 1, "batch_size")
    with pytest.raises(InputError, match=r"^batch_size must be 1 or more, got 0$"):
        check_at_least(0, 1, "batch_size")


def test_check_known_suggests_only_what_is_near():
    with pytest.raises(InputError, match=r"^unknown version 'zzz'; known: a, b$"):
        check_known("zzz", ("a", "b"), "version")
