"""Silence is the whole process's: one thread's end of it must not be another's."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

from monai_ldmsr.io.dicom_header import quiet_pydicom


def test_silence_lasts_until_the_last_thread_has_left(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pydicom")
    level, entered, leave = logger.level, threading.Event(), threading.Event()

    def first() -> None:
        with quiet_pydicom():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread.start()
        assert entered.wait(10)
        with quiet_pydicom():
            leave.set()
            thread.join()
            warnings.warn("MARKER", UserWarning, stacklevel=1)
            logger.error("MARKER")
        assert not caught
        assert not caplog.records
        warnings.warn("heard again", UserWarning, stacklevel=1)
        logger.error("heard again")
    assert [str(warning.message) for warning in caught] == ["heard again"]
    assert [record.message for record in caplog.records] == ["heard again"]
    assert logger.level == level
