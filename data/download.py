"""Files from the network: pinned, checked, and found offline first.

A `Resource` says what a file must be (its size and sha256) and where it comes from; `fetch` returns a
path to a file that is exactly that, or raises `DownloadError`. It looks, in this order, in

1. a folder of the user's (`data_dir`, else the environment variable ZOO_DATA_DIR), never written to;
2. the cache: ZOO_CACHE_DIR, else the platform's cache folder for "pytree-zoo";
3. the network, over https alone, also after redirects.

pooch makes the temporary file, compares the hash, moves the file into place and tries again; what is added
here is a limit on everything a server can do wrong: its size, its silence and the total time.
"""

import contextlib
import os
import re
import tempfile
import time
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pooch
import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3 import exceptions as transport

from data.errors import DataError

CHUNK = 64 * 1024
SAFE_PART = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,100}")


class DownloadError(OSError):
    """A file could not be had. The text says from where, what was expected, and where to put it by hand."""


@dataclass(frozen=True)
class Resource:
    """One file, pinned.

    Args:
        name: its place in the cache, parts separated by `/`.
        url: where it is downloaded from; https.
        num_bytes: its size.
        sha256: its hash, 64 lower-case hex digits.
        local: further places to look for it in the user's own data folder.
        member: the file is this member of a zip archive at `url`, of which nothing else is ever written.
        archive_bytes: the most that such an archive may have.

    Raises:
        ValueError: a name could lead out of its folder, or a pin pins nothing.

    Example:
        >>> Resource("../x", "https://example.org/x", 1, "0" * 64)
        Traceback (most recent call last):
        ...
        ValueError: name must be parts of letters, digits, '.', '_' and '-' joined by '/', got '../x'
    """

    name: str
    url: str
    num_bytes: int
    sha256: str
    local: tuple[str, ...] = ()
    member: str | None = None
    archive_bytes: int = 0

    def __post_init__(self):
        for name in (self.name, *self.local):
            if not all(SAFE_PART.fullmatch(part) for part in name.split("/")):
                raise ValueError(
                    f"name must be parts of letters, digits, '.', '_' and '-' joined by '/', got {name!r}"
                )
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 of {self.name} must be 64 lower-case hex digits, got {self.sha256!r}")
        if self.member is not None and self.archive_bytes < 1:
            raise ValueError(f"archive_bytes of {self.name} must be at least 1, got {self.archive_bytes}")
        if self.num_bytes < 1:
            raise ValueError(f"num_bytes of {self.name} must be at least 1, got {self.num_bytes}")


def cache_folder() -> Path:
    """The folder that downloads go to: ZOO_CACHE_DIR, else the platform's cache folder."""
    return Path(os.environ.get("ZOO_CACHE_DIR") or pooch.os_cache("pytree-zoo"))


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of the user's data: this one, or else that of ZOO_DATA_DIR, if set.

    Raises:
        DataError: there is no such folder.
    """
    data_dir = data_dir or os.environ.get("ZOO_DATA_DIR")
    if not data_dir:
        return None
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; --data-dir and ZOO_DATA_DIR must name one that holds data")
    return folder


def fetch(
    resource: Resource,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
    timeout: float = 30.0,
    deadline: float = 1800.0,
    tries: int = 3,
    _also_allow: str | None = None,
) -> Path:
    """The path of a file that is exactly `resource`, downloaded only if it has to be.

    A cached file that is damaged is renamed `*.corrupt` and fetched again; a wrong file in the user's folder
    is left alone, with a warning.

    Args:
        resource: the file.
        data_dir: a folder to look in first; None takes ZOO_DATA_DIR, if set.
        offline: never use the network.
        timeout: seconds to wait for a connection, and for each piece of the answer.
        deadline: seconds for the whole download, all tries together.
        tries: how often to ask. A server that is silent, refuses (4xx) or leads off https is asked once.
        _also_allow: a URL prefix that need not be https, for the tests' server.

    Raises:
        DataError: `data_dir` is no folder.
        DownloadError: the file could not be had.
    """
    folder = data_folder(data_dir)
    if folder is not None:
        for name in (resource.name, *resource.local):
            if (path := folder / name).is_file():
                if (defect := _defect(path, resource)) is None:
                    return path
                warnings.warn(f"{path} is not used: {defect}", stacklevel=2)

    cached = cache_folder() / resource.name
    if cached.is_file():
        if (defect := _defect(cached, resource)) is None:
            return cached
        with contextlib.suppress(FileNotFoundError):  # another process may have done so first
            os.replace(cached, f"{cached}.corrupt")
        note = f" (the cached file, {defect}, is now {cached.name}.corrupt)"
    else:
        note = ""

    try:
        if offline:
            raise DownloadError("it is neither in the data folder nor in the cache, and offline was asked for")
        cached.parent.mkdir(parents=True, exist_ok=True)  # pooch's own way fails where two make it at once
        registry = pooch.create(
            path=cache_folder(),
            base_url="",
            registry={resource.name: f"sha256:{resource.sha256}"},
            urls={resource.name: resource.url},
            retry_if_failed=tries - 1,
        )
        # (Any: pooch's own type for it prescribes names for the parameters that it passes by position.)
        downloader: Any = _Downloader(resource, timeout, time.monotonic() + deadline, _also_allow)
        return Path(registry.fetch(resource.name, downloader=downloader))
    except (OSError, ValueError) as error:  # both requests' and pooch's own
        raise DownloadError(f"{resource.name}: {error}{note}. {_by_hand(resource, cached)}") from error


def _defect(path: Path, resource: Resource) -> str | None:
    """What is wrong with the file, in words; None if it is the resource."""
    if (size := path.stat().st_size) != resource.num_bytes:
        return f"{size} bytes instead of {resource.num_bytes}"
    if (digest := pooch.file_hash(str(path))) != resource.sha256:
        return f"sha256 {digest} instead of {resource.sha256}"
    return None


def _by_hand(resource: Resource, cached: Path) -> str:
    where = resource.url if resource.member is None else f"{resource.member} in {resource.url}"
    return (
        f"Expected {resource.num_bytes} bytes with sha256 {resource.sha256} from {where} . "
        f"To do it by hand, save that file as {cached} , or as {resource.name} in a folder of yours "
        "and name the folder as the data folder (data_dir, or the environment variable ZOO_DATA_DIR)"
    )


@dataclass(frozen=True)
class _Downloader:
    """pooch's hook: brings `url` to a temporary file. What raises `DownloadError` here is not tried again;
    requests' errors and `ValueError` are."""

    resource: Resource
    timeout: float
    stop_at: float
    also_allow: str | None

    def __call__(self, url: str, output_file: str, registry: object) -> None:
        with requests.Session() as session, open(output_file, "wb") as file:
            session.adapters.clear()  # a session that cannot speak http cannot be redirected to it
            for prefix in filter(None, ("https://", self.also_allow)):
                session.mount(prefix, HTTPAdapter())
            session.max_redirects = 5
            session.hooks["response"].append(_without_body)
            try:
                if self.resource.member is None:
                    self._stream(session, url, file, self.resource.num_bytes)
                else:
                    with tempfile.TemporaryFile() as archive:
                        self._stream(session, url, archive, self.resource.archive_bytes)
                        self._take_out(archive, file)
            except requests.exceptions.InvalidSchema as error:
                raise DownloadError(f"only https is used, also after a redirect: {error}") from error
            except requests.exceptions.Timeout as error:
                raise DownloadError(f"no answer within {self.timeout:g} s: {error}") from error
            file.flush()
            os.fsync(file.fileno())

    def _take_out(self, archive: IO[bytes], file: IO[bytes]) -> None:
        """Writes the archive's one member that is asked for; zipfile checks its CRC."""
        member, expected = str(self.resource.member), self.resource.num_bytes
        try:
            with zipfile.ZipFile(archive) as opened:
                size = opened.getinfo(member).file_size
                if size != expected:
                    raise ValueError(f"member {member!r} has {size} bytes instead of {expected}")
                with opened.open(member) as content:
                    file.write(content.read(expected))
        except KeyError:
            raise ValueError(f"the archive has no member {member!r}") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError) as error:
            raise ValueError(f"no sound zip archive: {error}") from error

    def _stream(self, session: requests.Session, url: str, file: IO[bytes], most: int) -> None:
        """The body of the answer: of exactly the expected size, or up to that of an archive."""
        expected, received = most, 0
        # Ask for the bytes as they are: a compressed answer would make the size cap meaningless.
        ask = {"Accept-Encoding": "identity"}
        with session.get(url, stream=True, timeout=self.timeout, headers=ask) as response:
            if 400 <= response.status_code < 500 and response.status_code not in (408, 429):
                raise DownloadError(f"the server answers {response.status_code} {response.reason}")
            response.raise_for_status()
            with tqdm(desc=self.resource.name, total=expected, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := self._read(response):
                    received += len(chunk)
                    if received > expected:
                        raise ValueError(f"the server sends more than the expected {expected} bytes")
                    file.write(chunk)
                    bar.update(len(chunk))
        if received < expected and self.resource.member is None:
            raise ValueError(f"the server sent {received} bytes instead of {expected}")

    def _read(self, response: requests.Response) -> bytes:
        if time.monotonic() > self.stop_at:
            raise DownloadError("the download took longer than its deadline")
        try:
            # read1 returns what has come; read would let a server that drips feed one chunk for ever.
            return response.raw.read1(CHUNK, decode_content=False)
        except transport.TimeoutError as error:
            raise requests.exceptions.ReadTimeout(error) from error
        except transport.HTTPError as error:
            raise requests.exceptions.ConnectionError(error) from error


def _without_body(response: requests.Response, **_: object) -> None:
    """requests reads the body of a redirect to its end, which an endless one does not have: cut it off."""
    if response.is_redirect:
        response.close()
