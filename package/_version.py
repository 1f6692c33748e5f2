"""The version, in one place: read by the build, by `threadledger --version` and by `threadledger.__version__`."""

__version__ = "0.1.0"
