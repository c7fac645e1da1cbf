"""The name that the course's starter code has for `model.py`."""

from model import GPT, Block, GPTConfig

__all__ = ["GPT", "Block", "GPTConfig"]
