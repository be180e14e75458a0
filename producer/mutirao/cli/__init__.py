"""The `mutirao` command: one file per noun; what needs the heavy half registers itself as an entry point."""

from mutirao.cli.main import main

__all__ = ["main"]
