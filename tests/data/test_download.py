"""`fetch` against a server that does everything wrong: no bad file is ever kept, and every wait ends."""

import contextlib
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

import pytest
from hostile_server import BODY, Server
from hypothesis import given
from hypothesis import strategies as st

from data.download import CHUNK, DownloadError, Resource, fetch
from data.errors import DataError

ROOT = Path(__file__).parents[2]
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    return tmp_path / "cache"


def ask(server, behaviour, **arguments):
    resource = Resource("set/file.bin", f"{url_of(server)}{behaviour}", len(BODY), SHA256, ("texts/file.bin",))
    arguments = {"tries": 1, "timeout": 0.3, "deadline": 5.0} | arguments
    return fetch(resource, _also_allow=url_of(server), **arguments)


def url_of(server):
    return f"http://127.0.0.1:{server.server_port}/"


def files_in(folder: Path):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("behaviour", ["good", "without_length", "chunked", "redirect", "endless_redirect"])
def test_a_good_answer_is_kept_and_not_asked_for_again(server, cache, behaviour):
    path = ask(server, behaviour)
    assert path == cache / "set/file.bin"
    assert path.read_bytes() == BODY
    asked = len(server.asked)
    assert ask(server, behaviour) == path
    assert ask(server, behaviour, offline=True) == path
    assert len(server.asked) == asked
    assert files_in(cache) == [path]
    assert server.headers_seen["Accept-Encoding"] == "identity"


BAD = {
    "short": "IncompleteRead",
    "short_without_length": "204799 bytes instead of 204800",
    "html": "26 bytes instead of 204800",
    "wrong": hashlib.sha256(BODY[:-1] + b"!").hexdigest(),
    "long": "more than the expected 204800",
    "missing": "404",
    "broken": "503",
    "hung_up": "Connection",
    "endless": "more than the expected 204800",
    "silent": "no answer within 0.3 s",
    "silent_after_headers": "no answer within 0.3 s",
    "dripping": "longer than its deadline",
    "redirect_to_http": "only https",
    "redirect_to_file": "only https",
    "redirect_loop": "redirects",
}


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_answer_leaves_nothing_and_the_error_says_what_to_do(server, cache, behaviour):
    with pytest.raises(DownloadError, match=BAD[behaviour]) as caught:
        ask(server, behaviour, deadline=0.5)
    for part in (f"{url_of(server)}{behaviour}", SHA256, str(len(BODY)), str(cache / "set/file.bin")):
        assert part in str(caught.value)
    assert "or as set/file.bin in a folder of yours" in str(caught.value)
    assert "ZOO_DATA_DIR" in str(caught.value)
    assert files_in(cache) == []


def test_bytes_are_taken_as_sent(server, cache):
    """A Content-Encoding cannot make more of the bytes than came over the wire."""
    assert ask(server, "compressed").read_bytes() == BODY


def test_a_drip_does_not_hold_us_until_it_ends(server, cache):
    with pytest.raises(DownloadError, match="longer than its deadline"):
        ask(server, "dripping", deadline=0.2)
    assert server.drips < 100  # of 200, one every 0.05 s


def test_an_endless_answer_never_fills_the_disk(server, cache, monkeypatch):
    sizes = []
    remove = os.remove

    def watched(path):
        sizes.append(os.path.getsize(path))
        remove(path)

    monkeypatch.setattr(os, "remove", watched)
    with pytest.raises(DownloadError):
        ask(server, "endless")
    assert len(sizes) == 1  # the temporary file, seen as it is deleted
    assert sizes[0] <= len(BODY) + CHUNK


@pytest.mark.parametrize(
    ("behaviour", "times"),
    [("broken", 3), ("html", 3), ("wrong", 3), ("missing", 1), ("silent", 1), ("redirect_to_http", 1)],
)
def test_what_may_pass_is_tried_three_times(server, cache, monkeypatch, behaviour, times):
    waits = []
    monkeypatch.setattr("pooch.core.time.sleep", waits.append)
    with pytest.raises(DownloadError):
        ask(server, behaviour, tries=3)
    assert len(server.asked) == times
    assert waits == sorted(waits)
    assert len(waits) == times - 1


def test_a_server_that_recovers_is_forgiven(server, cache, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    assert ask(server, "recovers", tries=3).read_bytes() == BODY


def test_plain_http_is_refused_before_any_connection(server, cache):
    resource = Resource("file.bin", f"{url_of(server)}good", len(BODY), SHA256)
    with pytest.raises(DownloadError, match="only https"):
        fetch(resource)
    assert server.asked == []


@pytest.mark.parametrize("name", ["set/file.bin", "texts/file.bin"])
@pytest.mark.parametrize("by", ["path", "string", "environment"])
def test_the_users_folder_comes_first(server, cache, tmp_path, monkeypatch, name, by):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(BODY)
    if by == "environment":
        monkeypatch.setenv("ZOO_DATA_DIR", str(folder))
    given = {"path": folder, "string": str(folder), "environment": None}[by]
    assert ask(server, "good", data_dir=given) == folder / name
    assert server.asked == []
    assert not cache.exists()


@pytest.mark.parametrize("by", ["argument", "ZOO_DATA_DIR"])
def test_a_folder_that_is_not_there_is_named_before_anything_is_asked_for(server, cache, tmp_path, monkeypatch, by):
    missing = tmp_path / "mistyped"
    if by == "ZOO_DATA_DIR":
        monkeypatch.setenv("ZOO_DATA_DIR", str(missing))
    with pytest.raises(DataError, match=r"mistyped is no folder; --data-dir and ZOO_DATA_DIR must name one"):
        ask(server, "good", data_dir=missing if by == "argument" else None)
    assert server.asked == []


@pytest.mark.parametrize(
    ("content", "defect"),
    [(BODY[:-1], "204799 bytes instead of 204800"), (BODY[:-1] + b"!", "sha256"), (b"", "0 bytes instead")],
)
def test_a_wrong_file_of_the_user_is_named_and_left_alone(server, cache, tmp_path, content, defect):
    path = tmp_path / "set/file.bin"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"is not used: {defect}") as caught:
        assert ask(server, "good", data_dir=tmp_path) == cache / "set/file.bin"
    assert str(path) in str(caught[0].message)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damaged", [BODY[:-1], BODY[:-1] + b"!", b""])
def test_a_damaged_cached_file_is_put_aside(server, cache, damaged):
    path = cache / "set/file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged)
    with pytest.raises(DownloadError, match=r"file\.bin\.corrupt"):
        ask(server, "good", offline=True)
    assert server.asked == []
    assert files_in(cache) == [cache / "set/file.bin.corrupt"]
    assert (cache / "set/file.bin.corrupt").read_bytes() == damaged
    assert ask(server, "good").read_bytes() == BODY


def test_offline_with_a_cold_cache_says_where_the_file_goes(server, cache):
    with pytest.raises(DownloadError, match="offline") as caught:
        ask(server, "good", offline=True)
    assert str(cache / "set/file.bin") in str(caught.value)
    assert server.asked == []
    assert not cache.exists()


def test_four_at_once_end_with_one_good_file(server, cache):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(ask(server, "good"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [cache / "set/file.bin"] * 4
    assert files_in(cache) == [cache / "set/file.bin"]


FETCH = """
import sys
from data.download import Resource, fetch
url, size, sha256 = sys.argv[1:]
fetch(Resource("set/file.bin", url + "half", int(size), sha256), _also_allow=url)
"""


def test_a_killed_download_leaves_no_file_that_could_be_taken_for_whole(server, cache):
    process = subprocess.Popen([sys.executable, "-c", FETCH, url_of(server), str(len(BODY)), SHA256], cwd=ROOT)
    try:
        while not any(path.stat().st_size for path in files_in(cache)):  # until some of it lies on the disk
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (cache / "set/file.bin").exists()
    assert ask(server, "good").read_bytes() == BODY


def test_a_cache_that_cannot_be_written_is_the_same_error(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="by hand"):
        ask(server, "good")


names = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(["..", ".", "", "a", "b.txt", "\\", "C:", "~", "\0", "...", "x" * 101]), max_size=5).map(
        "/".join
    ),
)


@given(names)
def test_no_name_leads_out_of_the_folder(name):
    root = "/place/of/cache"
    with contextlib.suppress(ValueError):
        resource = Resource(name, "https://example.org/x", 1, SHA256)
        assert os.path.normpath(os.path.join(root, resource.name)).startswith(root + "/")
        assert not set("\0\\:") & set(resource.name)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a\0", "~root/x", "a/..", "x" * 101]
)
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(ValueError, match="name must be"):
        Resource("fine", "https://example.org/x", 1, SHA256, local=(name,))


def test_a_pin_must_pin():
    with pytest.raises(ValueError, match="64 lower-case hex"):
        Resource("a", "https://example.org/x", 1, SHA256.upper())
    with pytest.raises(ValueError, match="at least 1"):
        Resource("a", "https://example.org/x", 0, SHA256)


def test_a_good_local_file_makes_no_noise(server, cache, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin").write_bytes(BODY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(server, "good", data_dir=tmp_path)


def zipped(*members, compression=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return content.getvalue()


GOOD_ZIP = zipped(("other.txt", b"x"), ("inside/file.bin", BODY))
BAD_ZIPS = {
    "no_such_member": (zipped(("../../inside/file.bin", BODY)), "no member 'inside/file.bin'"),
    "a_bomb": (zipped(("inside/file.bin", bytes(50_000_000))), "has 50000000 bytes instead of 204800"),
    "wrong_bytes": (zipped(("inside/file.bin", BODY[::-1])), hashlib.sha256(BODY[::-1]).hexdigest()),
    "cut": (GOOD_ZIP[:-30], "no sound zip archive"),
    "flipped": (GOOD_ZIP[:150] + bytes([GOOD_ZIP[150] ^ 255]) + GOOD_ZIP[151:], "no sound zip archive"),
    "html": (b"<html>please log in</html>", "no sound zip archive"),
    "too_large": (zipped(("inside/file.bin", BODY), ("x", os.urandom(400_000))), "more than the expected 300000"),
}


def ask_for_member(server):
    url = f"{url_of(server)}archive"
    resource = Resource("set/file.bin", url, len(BODY), SHA256, member="inside/file.bin", archive_bytes=300_000)
    return fetch(resource, _also_allow=url_of(server), tries=1, timeout=5.0, deadline=20.0)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_member_of_an_archive_is_all_that_is_written(server, cache, compression):
    server.archive = zipped(("../evil", b"x"), ("inside/file.bin", BODY), compression=compression)
    path = ask_for_member(server)
    assert path.read_bytes() == BODY
    assert ask_for_member(server) == path
    assert len(server.asked) == 1
    assert files_in(cache.parent) == [path]


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_a_bad_archive_leaves_nothing(server, cache, kind):
    server.archive, message = BAD_ZIPS[kind]
    with pytest.raises(DownloadError, match=message) as caught:
        ask_for_member(server)
    assert f"inside/file.bin in {url_of(server)}archive" in str(caught.value)
    assert files_in(cache.parent) == []


def test_an_archive_needs_a_limit():
    with pytest.raises(ValueError, match="archive_bytes"):
        Resource("a", "https://example.org/a.zip", 1, "0" * 64, member="a")


@pytest.mark.slow
def test_five_hundred_tries_at_a_server_that_does_anything(server, cache):
    """No bad file is kept, no wait is longer than its limits, and what is there once stays."""
    rng = random.Random(0)
    for _ in range(500):
        behaviour = rng.choice([*BAD, "good", "without_length", "chunked", "redirect"])
        begun = time.monotonic()
        try:
            assert ask(server, behaviour, deadline=0.5).read_bytes() == BODY
            shutil.rmtree(cache)
        except DownloadError:
            assert behaviour in BAD
        assert time.monotonic() - begun < 5.5
        assert files_in(cache) == []
