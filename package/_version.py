"""Define the version for the build, `threadledger --version` and `threadledger.__version__`."""

__version__ = "0.1.0"
