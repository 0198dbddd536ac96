"""A real mounted file system that cannot do everything: a folder, passed through FUSE, with acts that it refuses.

    python tests/parts/poor_disk.py BACKING MOUNTPOINT LINK=EPERM RENAME_NEW=EINVAL FSYNCDIR=EINVAL ...

exFAT, cloud and network mounts differ from a local disk in what they refuse. Few of them can be mounted on any machine;
this one can wherever root may mount FUSE, and speaks the kernel's own protocol (Source: include/uapi/linux/fuse.h), so
nothing is mocked between the engine and the kernel. An act is the name of an `Opcode`; `RENAME_NEW` is a rename that
must not replace. One thread, which answers one call after the other.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH208
# the kernel hands over strings, and each call here is one of its own
from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_ROOT_ID = 1
_MNT_DETACH = 2
_SET_MODE, _SET_SIZE, _WITH_HANDLE = 1, 8, 64


class Opcode(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45


_UNANSWERED = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT)


class PoorDisk:
    """The server's side of a mount.

    Attributes:
        refusals: Errno by the name of an act.
    """

    def __init__(self, backing: str, refusals: dict[str, int]) -> None:
        self.refusals = refusals
        self._paths = {_ROOT_ID: backing}
        self._ids = {backing: _ROOT_ID}

    def serve(self, fd: int) -> None:
        """Answer until it is unmounted."""
        while True:
            try:
                data = os.read(fd, (1 << 20) + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, node, *_ = _IN.unpack_from(data)
            try:
                answer, code = self._answer(opcode, node, data[_IN.size :]), 0
            except OSError as error:
                answer, code = b"", -(error.errno or errno.EIO)
            if opcode not in _UNANSWERED:
                with contextlib.suppress(OSError):  # the caller was killed meanwhile
                    os.write(fd, _OUT.pack(_OUT.size + len(answer), code, unique) + answer)

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes:
        try:
            name = Opcode(opcode).name
        except ValueError:
            raise OSError(errno.ENOSYS, "") from None
        if name in self.refusals:
            raise OSError(self.refusals[name], "")
        act = getattr(self, f"_{name.lower()}", None)
        return b"" if act is None else act(self._paths.get(node, ""), body)

    def _init(self, _: str, body: bytes) -> bytes:
        major, minor, readahead, _flags = struct.unpack_from("<IIII", body)
        del minor
        return struct.pack("<IIIIHHIIHHI7I", major, 31, readahead, 0, 16, 12, 1 << 17, 1, 0, 0, 0, *[0] * 7)

    def _child(self, parent: str, name: bytes) -> str:
        return f"{parent}/{os.fsdecode(name.rstrip(bytes(1)))}"

    def _entry(self, path: str) -> bytes:
        stat = os.lstat(path)
        node = self._ids.setdefault(path, max(self._paths) + 1)
        self._paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(stat, node)

    def _attributes(self, stat: os.stat_result, node: int) -> bytes:
        times = [int(stat.st_atime), int(stat.st_mtime), int(stat.st_ctime)]
        fractions = [t % 10**9 for t in (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)]
        rest = (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, 0, 4096, 0)
        return _ATTR.pack(node, stat.st_size, stat.st_blocks, *times, *fractions, *rest)

    def _forget_path(self, path: str) -> None:
        self._ids.pop(path, None)  # its number stays, for those who have it open

    def _lookup(self, parent: str, body: bytes) -> bytes:
        return self._entry(self._child(parent, body))

    def _getattr(self, path: str, body: bytes) -> bytes:
        flags, _, handle = struct.unpack_from("<IIQ", body)
        return self._stat(path, handle if flags & 1 else None)

    def _stat(self, path: str, handle: int | None) -> bytes:
        stat = os.lstat(path) if handle is None else os.fstat(handle)
        return struct.pack("<QII", 0, 0, 0) + self._attributes(stat, self._ids.get(path, 0))

    def _setattr(self, path: str, body: bytes) -> bytes:
        valid, _, handle, size = struct.unpack_from("<IIQQ", body)
        at = handle if valid & _WITH_HANDLE else None
        if valid & _SET_SIZE:
            os.truncate(path if at is None else at, size)
        if valid & _SET_MODE:
            os.chmod(path, struct.unpack_from("<I", body, 68)[0] & 0o7777)
        return self._stat(path, at)

    def _mkdir(self, parent: str, body: bytes) -> bytes:
        path = self._child(parent, body[8:])
        os.mkdir(path, struct.unpack_from("<I", body)[0] & 0o777)
        return self._entry(path)

    def _unlink(self, parent: str, body: bytes) -> bytes:
        path = self._child(parent, body)
        os.unlink(path)
        self._forget_path(path)
        return b""

    def _rmdir(self, parent: str, body: bytes) -> bytes:
        path = self._child(parent, body)
        os.rmdir(path)
        self._forget_path(path)
        return b""

    def _rename(self, parent: str, body: bytes) -> bytes:
        return self._moved(parent, body, 8, replace=True)

    def _rename2(self, parent: str, body: bytes) -> bytes:
        flags = struct.unpack_from("<QI", body)[1]
        if flags and "RENAME_NEW" in self.refusals:
            raise OSError(self.refusals["RENAME_NEW"], "")
        return self._moved(parent, body, 16, replace=not flags)

    def _moved(self, parent: str, body: bytes, at: int, *, replace: bool) -> bytes:
        old_name, new_name, _ = body[at:].split(bytes(1), 2)
        folder = self._paths[struct.unpack_from("<Q", body)[0]]
        old, new = self._child(parent, old_name), self._child(folder, new_name)
        if not replace and os.path.lexists(new):
            raise OSError(errno.EEXIST, "")
        os.rename(old, new)
        node = self._ids.pop(old, None)
        self._forget_path(new)
        if node is not None:
            self._ids[new] = node
            self._paths[node] = new
        return b""

    def _link(self, parent: str, body: bytes) -> bytes:
        path = self._child(parent, body[8:])
        os.link(self._paths[struct.unpack_from("<Q", body)[0]], path)
        return self._entry(path)

    def _open(self, path: str, body: bytes) -> bytes:
        flags = struct.unpack_from("<I", body)[0] & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND)
        return struct.pack("<QII", os.open(path, flags | os.O_CLOEXEC), 0, 0)

    def _create(self, parent: str, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        path = self._child(parent, body[16:])
        handle = os.open(path, flags & ~os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode & 0o777)
        return self._entry(path) + struct.pack("<QII", handle, 0, 0)

    def _read(self, _: str, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    def _write(self, _: str, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def _statfs(self, path: str, _: bytes) -> bytes:
        at = os.statvfs(path)
        free = 0 if "SPACE" in self.refusals else at.f_bavail
        figures = (at.f_blocks, free, free, at.f_files, at.f_ffree, at.f_bsize, at.f_namemax, at.f_frsize, 0)
        return struct.pack("<5Q4I6I", *figures, *[0] * 6)

    def _release(self, _: str, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _fsync(self, _: str, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def _fallocate(self, _: str, body: bytes) -> bytes:
        handle, offset, length, mode = struct.unpack_from("<QQQI", body)
        if mode:
            raise OSError(errno.EOPNOTSUPP, "")
        os.posix_fallocate(handle, offset, length)
        return b""

    def _opendir(self, path: str, _: bytes) -> bytes:
        os.lstat(path)
        return struct.pack("<QII", 0, 0, 0)

    def _readdir(self, path: str, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        out = b""
        for number, name in enumerate([".", "..", *sorted(os.listdir(path))][offset:], offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", number + 1000, number, len(raw), 0) + raw
            entry += bytes(-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out


@contextlib.contextmanager
def mounted(folder: Path, *refusals: str) -> Iterator[Path]:
    """A mount below `folder`, made by a process of its own; gone at the end of the block.

    Args:
        refusals: `ACT=ERRNO` each.

    Raises:
        PermissionError: this machine, or this user, may not mount FUSE.
    """
    backing, mount = folder / "backing", folder / "mount"
    backing.mkdir(parents=True)
    mount.mkdir()
    command = [sys.executable, __file__, str(backing), str(mount), *refusals]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "mounted":
            raise PermissionError("FUSE cannot be mounted here")
        yield mount
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(mount), _MNT_DETACH)
        process.kill()
        process.communicate()


def main() -> None:
    """Mount, say so, and serve."""
    backing, mount = sys.argv[1:3]
    refusals = {act: getattr(errno, name, 0) for act, _, name in (text.partition("=") for text in sys.argv[3:])}
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 9)  # die with the parent
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions,allow_other"
    if libc.mount(b"poor-disk", os.fsencode(mount), b"fuse", 0, options.encode()):
        number = ctypes.get_errno()
        sys.exit(f"mount: {os.strerror(number)}")
    print("mounted", flush=True)
    PoorDisk(backing, refusals).serve(fd)


if __name__ == "__main__":
    main()
