"""gpuwarden: the health agent of one GPU host."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gpuwarden")
except PackageNotFoundError:
    __version__ = "0+unknown"
