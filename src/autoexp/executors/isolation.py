"""Programs that see only what they are shown, by bubblewrap (bwrap, on Linux).

A confined program has the system's programs and libraries, what its `View` names, a /tmp, a home and a /dev/shm of its
own that are empty, and nothing else: no network, no other process, no capability. What it started ends with it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROBE_SECONDS = 20.0
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/sys", "/nix/store", "/gnu/store")
CONFIGURATION = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "nsswitch.conf", "hosts", "host.conf"),
    *("localtime", "timezone", "alternatives", "ssl", "pki", "ca-certificates", "mime.types", "locale.alias"),
    *("OpenCL", "vulkan", "nccl.conf", "nvidia", "cuda", "python3", "os-release", "protocols", "services"),
)
"""Of /etc. No password, key or address is in one of these."""
RESOLVING = ("resolv.conf", "gai.conf")
"""Of /etc, and only for those that have a network."""
DEVICES = ("nvidia*", "dri", "kfd", "dxg", "accel", "neuron*")
"""Of /dev: graphics cards and the like."""
SHARED_MEMORY, OWN_MEMORY = 0.25, 0.1
"""Part of the machine's memory that /dev/shm holds at most, and that /tmp and the home hold each."""
USER_NAMESPACE = ("--unshare-user", "--disable-userns"), ("--unshare-user",), ()
"""The ways to begin, the strongest first. Without a user namespace it takes root, or a bwrap that is setuid."""


@dataclass(frozen=True)
class View:
    """What a confined program may see. All places are absolute, and those that are not there are left out.

    Of places within each other the deepest counts; of equal ones hidden before writable before readable.
    """

    readable: tuple[Path, ...] = ()
    """Files and folders, at their own places. Symbolic links on the way are there too."""
    hidden: tuple[Path, ...] = ()
    """What in a readable folder is not to be seen: an empty folder, or a file that cannot be read."""
    writable: tuple[Path, ...] = ()
    """As the readable ones."""
    network: bool = False
    devices: bool = True
    """Whether GPUs are there."""
    placed: tuple[tuple[Path, Path], ...] = ()
    """(folder, where it appears): writable folders that are seen at another place."""


def available() -> str | None:
    """None where programs can be confined, else what is missing, in words."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap (bwrap) is not installed"
    found = _tried(program)
    return None if isinstance(found, tuple) else found


def name() -> str:
    """What confines here, with its version. Raises ValueError where nothing does."""
    program = _program()
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROBE_SECONDS).stdout.split()
    return " ".join(["bubblewrap", *said[1:2]])


def confined(command: Sequence[str], view: View) -> list[str]:
    """The command that runs `command` so that it sees only `view`, in the caller's directory and environment.

    Its exit code is that of `command`, and 128 + n when a signal n has ended that; when whoever starts it dies, so do
    all. Raises ValueError where `available` says why it cannot be.
    """
    program = _program()
    way = _tried(program)
    assert isinstance(way, tuple)
    return [program, *way, *_separated(view), *_mounts(view), "--", *command]


def _program() -> str:
    missing = available()
    if missing is not None:
        raise ValueError(missing)
    program = shutil.which("bwrap")
    assert program is not None
    return program


@functools.cache
def _tried(program: str) -> tuple[str, ...] | str:
    """The way to begin that works here, found out by doing it once; or what bwrap says of the last one."""
    said = ""
    true = shutil.which("true") or "/bin/true"
    for way in USER_NAMESPACE:
        command = [program, *way, *_separated(View()), *_mounts(View()), "--", true]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, cwd="/",
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if done.returncode == 0:
            return way
        said = " ".join(done.stderr.split())
    return f"bubblewrap does not work here: {said[:300] or 'it gives no reason'}"


def _separated(view: View) -> Iterator[str]:
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent")
    yield from ("--cap-drop", "ALL")  # root would have all of them, and could mount again what is read-only
    if not view.network:
        yield "--unshare-net"


def _mounts(view: View) -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared, own = str(int(memory * SHARED_MEMORY)), str(int(memory * OWN_MEMORY))
    yield from ("--proc", "/proc", "--dev", "/dev", "--size", shared, "--tmpfs", "/dev/shm")
    if view.devices:
        for pattern in DEVICES:
            for device in sorted(Path("/dev").glob(pattern)):
                yield from ("--dev-bind-try", str(device), str(device))
    for folder in dict.fromkeys(("/tmp", "/var/tmp", tempfile.gettempdir(), home())):
        if folder:
            yield from ("--size", own, "--tmpfs", folder)
    etc = CONFIGURATION + (RESOLVING if view.network else ())
    system = [Path(place) for place in (*SYSTEM, *(f"/etc/{name}" for name in etc))]
    yield from _Places(view, system).mounts()
    yield from ("--remount-ro", "/", "--remount-ro", "/dev")  # both were made to hold the mounts


def home() -> str:
    """Where the home of a confined program is: the caller's own place, empty. '' where that is no place for one."""
    place = os.path.normpath(os.environ.get("HOME", ""))
    within = any(place == part or place.startswith(f"{part}/") for part in (*SYSTEM, "/etc", "/proc", "/dev"))
    return place if place.startswith("/") and place != "/" and not within else ""


class _Places:
    """The mounts of a view, in their order: a folder before what is in it."""

    def __init__(self, view: View, system: Sequence[Path]) -> None:
        self.view = view
        self.kinds: dict[Path, tuple[str, Path]] = {}
        """Place inside, without symbolic links: (kind, place outside)."""
        self.links: dict[Path, str] = {}
        for kind, places in (
            ("readable", (*system, *view.readable)),
            ("writable", view.writable),
            ("hidden", view.hidden),
        ):
            for place in places:
                real = self._resolved(place)
                if real is not None:
                    self.kinds[real] = (kind, real)
        for source, place in view.placed:
            self.kinds[_absolute(place)] = ("placed", source.resolve(strict=True))

    def _resolved(self, place: Path) -> Path | None:
        """Where a place really is, None if it is not; the links on the way are kept."""
        at, rest, followed = Path("/"), list(_absolute(place).parts[1:]), 0
        while rest:
            at = at / rest.pop(0)
            try:
                target = str(at.readlink()) if at.is_symlink() else None
            except OSError:
                return None
            if target is not None:
                self.links[at] = target
                followed += 1
                if followed > 40:
                    return None
                joined = _absolute(at.parent / target)
                at, rest = Path("/"), [*joined.parts[1:], *rest]
        return at if os.path.lexists(at) else None

    def mounts(self) -> Iterator[str]:
        for place in sorted(self.kinds, key=lambda place: len(place.parts)):
            kind, source = self.kinds[place]
            around = self._around(place)
            if kind == around or (kind == "hidden" and around is None):
                continue
            if kind == "hidden" and source.is_dir():
                yield from ("--size", "65536", "--tmpfs", str(place))
            elif kind == "hidden":
                yield from ("--ro-bind", os.devnull, str(place))
            else:
                yield from ("--ro-bind" if kind == "readable" else "--bind", str(source), str(place))
        for link, target in self.links.items():
            if self._around(link) in (None, "hidden"):
                yield from ("--symlink", target, str(link))

    def _around(self, place: Path) -> str | None:
        """The kind of the innermost mount that holds a place."""
        for folder in place.parents:
            if folder in self.kinds:
                return self.kinds[folder][0]
        return None


def _absolute(place: Path) -> Path:
    if not place.is_absolute():
        raise ValueError(f"{place} is no absolute path")
    return Path(os.path.normpath(place))
