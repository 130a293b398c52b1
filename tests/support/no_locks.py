"""A process for which no file can be locked, as on a file system without locks: the kernel refuses flock."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_FLOCK = {"x86_64": 73, "aarch64": 32}
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_locks(number: int = errno.ENOSYS) -> None:
    """From now on each flock of this thread, and of threads that it starts, fails with this error, for good."""
    steps = (
        (_LOAD_NUMBER, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 1, _FLOCK[platform.machine()]),
        (_RETURN, 0, 0, _FAIL | number),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    libc, program = ctypes.CDLL(None, use_errno=True), _Program(len(steps), code)
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")
