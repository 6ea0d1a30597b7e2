"""Errors as HTTP answers: a status, the sentence for a person, and the reason code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from fastapi import HTTPException

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.outcome import Outcome

__all__ = ["answered_errors", "http_error"]

#: HTTP status of reasons; what is not listed is of the source: 422.
_STATUS = {
    ReasonCode.BAD_SETTINGS: 400,
    ReasonCode.NO_SUCH_SOURCE: 404,
    ReasonCode.TOO_LARGE: 413,
    **dict.fromkeys((ReasonCode.INTERNAL_ERROR, ReasonCode.BAD_WEIGHTS), 500),
    **dict.fromkeys((code for code in ReasonCode if code.startswith("PACS_")), 502),
    ReasonCode.SERVER_BUSY: 503,
    **dict.fromkeys((ReasonCode.CANNOT_WRITE, ReasonCode.OUT_OF_MEMORY), 507),
    **dict.fromkeys((ReasonCode.PACS_OUT_OF_RESOURCES, ReasonCode.PACS_DISK_FULL), 507),
}

#: Of a client that is asked to come again.
_RETRY_AFTER_S = 30


def http_error(reason: ReasonCode, message: str) -> HTTPException:
    """An answer ``{"detail": "message [REASON]"}``, with the reason in the header ``X-Ldmsr-Reason`` too."""
    status = _STATUS.get(reason, 422)
    headers = {"X-Ldmsr-Reason": reason.value, **({"Retry-After": str(_RETRY_AFTER_S)} if status == 503 else {})}
    return HTTPException(status, f"{message} [{reason.value}]", headers)


@contextmanager
def answered_errors() -> Iterator[None]:
    """Turn whatever is raised within the block into an answer.

    Raises:
        HTTPException: for every other exception.
    """
    try:
        yield
    except HTTPException:
        raise
    except requests.RequestException as error:
        raise _service_error(error) from error
    except Exception as error:
        # Its own text may hold a path or an attribute.
        outcome = Outcome.of_error(error)
        raise http_error(ReasonCode[outcome.reason], outcome.message) from error


def _service_error(error: requests.RequestException) -> HTTPException:
    """An error of MONAI Label's own clients; their text holds the address that was asked for."""
    service = "The DICOMweb service, or that of logins,"
    if error.response is None:
        message = f"{service} refused or lost the connection ({type(error).__name__}). Check the address."
        return http_error(ReasonCode.PACS_UNREACHABLE, message)
    status = error.response.status_code
    if status in (401, 403):
        message = f"{service} refused access (HTTP status {status}). Check user and password."
        return http_error(ReasonCode.PACS_REJECTED, message)
    return http_error(ReasonCode.PACS_REFUSED, f"{service} refused the request (HTTP status {status}).")
