"""The version, alone: the build reads it without importing the engine."""

__version__ = "0.1.0"
