"""The scratch directory, which programs start in."""

import os


def enter_scratch(path, user):
    """Make `path` the current directory, empty, and owned by `user` unless None. Raises OSError."""
    os.chdir("/")
    if os.path.islink(path):
        os.unlink(path)
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
    empty_directory(path)
    if user is not None:
        os.chown(path, user, user)
    os.chdir(path)


def empty_directory(path):
    """Remove all that is in `path`. Moves deep directories up first, so no depth is too much."""
    os.chmod(path, 0o700)
    moved = 0
    while names := os.listdir(path):
        for name in names:
            entry = os.path.join(path, name)
            if os.path.islink(entry) or not os.path.isdir(entry):
                os.unlink(entry)
                continue
            os.chmod(entry, 0o700)
            for inner in os.listdir(entry):
                deep = os.path.join(entry, inner)
                if os.path.islink(deep) or not os.path.isdir(deep):
                    os.unlink(deep)
                else:
                    os.chmod(deep, 0o700)
                    moved += 1
                    os.rename(deep, os.path.join(path, f".moved-{moved}-{os.urandom(6).hex()}"))
            os.rmdir(entry)
