"""The version of this package: said here, and nowhere else."""

__version__ = "0.2.0"
