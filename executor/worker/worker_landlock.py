"""Landlock: a process restricts its own access to files, TCP, signals and abstract sockets."""

import ctypes
import os
import struct

from worker_processes import PR_SET_NO_NEW_PRIVS, libc, prctl

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_EXECUTE, _WRITE_FILE, _TRUNCATE = 1, 1 << 1, 1 << 14
_FILE_RIGHTS = _READ_FILE | _WRITE_FILE | _TRUNCATE | _EXECUTE  # all others are of directories
# How many rights over files each version of the kernel's interface knows: 13 at first, then also
# REFER, TRUNCATE, IOCTL_DEV.
_KNOWN_RIGHTS = (0, 13, 14, 15, 15, 16)
_BIND_AND_CONNECT = 3  # TCP, from version 4
_ABSTRACT_SOCKETS_AND_SIGNALS = 3  # to processes outside, from version 6


def _call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def restrict(readable, writable):
    """Let this process and its descendants read beneath `readable` and do all beneath `writable`.

    Both are lists of paths; those that do not exist are passed over. Everything else is refused.
    Raises OSError where the kernel has no Landlock.
    """
    version = _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    rights = (1 << _KNOWN_RIGHTS[min(version, len(_KNOWN_RIGHTS) - 1)]) - 1
    network = _BIND_AND_CONNECT if version >= 4 else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24  # what this version of the kernel knows
    attributes = struct.pack("<QQQ", rights, network, scopes)[:size]
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for paths, granted in ((readable, _READ_FILE | _READ_DIR), (writable, rights)):
            for path in paths:
                _allow(ruleset, path, granted & rights)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset, path, granted):
    try:
        place = os.open(path, os.O_PATH)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            granted &= _FILE_RIGHTS
        rule, kind = struct.pack("<Qi", granted, place), ctypes.c_int(_PATH_BENEATH)
        _call(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, ctypes.c_uint32(0))
    finally:
        os.close(place)
