"""Descriptors that models must not reach."""

import contextlib
import os

from mutirao_worker.celery_adapter import file_descriptors


def test_a_descriptor_that_is_withheld_is_written_to_by_nobody():
    """Meanwhile what is written to any number does not arrive; afterwards what is written to its number does."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    before = file_descriptors.opened()
    with file_descriptors.withheld(writer):
        for number in file_descriptors.opened() - before | {writer}:
            with contextlib.suppress(OSError):
                os.write(number, b"stray")
    os.write(writer, b"meant")
    assert os.read(reader, 100) == b"meant"
    assert file_descriptors.opened() == before
    os.close(reader)
    os.close(writer)
