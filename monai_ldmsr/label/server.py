"""MONAI Label's server, with requests for inference off its event loop: it goes on answering while one is computed."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, Form, Request, UploadFile
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import MONAILabelException

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.label.http_errors import http_error

__all__ = ["app"]


# A plain function: FastAPI gives each call a thread. MONAI Label's own is a coroutine, which keeps the loop for itself.
def _run_inference(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: UploadFile | None = None,
    label: UploadFile | None = None,
    output: ResultType | None = None,
) -> Any:
    try:
        is_sound = isinstance(json.loads(params or "{}"), dict)
    except ValueError:
        is_sound = False
    if not is_sound:
        raise http_error(ReasonCode.BAD_SETTINGS, "params must be a JSON object.")
    if not (image or session_id or file):
        raise http_error(ReasonCode.BAD_SETTINGS, "Name an image of the datastore, or send a file.")
    return run_inference(background_tasks, model, image, session_id, params, file, label, output)


def _told(request: Request, error: Exception) -> JSONResponse:
    """MONAI Label answers its own errors with 500 and no word of what they are."""
    assert isinstance(error, MONAILabelException)
    status = 404 if "not found" in error.msg.lower() else 400
    return JSONResponse({"detail": f"MONAI Label: {error.error.value}"}, status)


app.router.routes.insert(
    0,
    APIRoute(
        f"{settings.MONAI_LABEL_API_STR}/infer/{{model}}",
        _run_inference,
        methods=["POST"],
        tags=["Infer"],
        dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))],
    ),
)
app.add_exception_handler(MONAILabelException, _told)
