"""Run the command line as `python -m mutirao`."""

from mutirao.cli import main

main()
