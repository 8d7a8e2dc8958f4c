"""A small, seeded place-recognition problem of drawn images: `python -m datasets.toy_city FOLDER`."""

from .city import build_toy_city

__all__ = ["build_toy_city"]
