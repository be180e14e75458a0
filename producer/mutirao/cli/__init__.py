"""The `mutirao` command: one file per noun; what needs the heavy half registers itself as an entry point."""

try:
    from mutirao.cli.main import main
except KeyboardInterrupt:  # Ctrl-C while the command is imported, which takes a moment
    raise SystemExit(130) from None

__all__ = ["main"]
