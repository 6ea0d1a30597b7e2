"""MONAI Label's server, with requests for inference off its event loop: it goes on answering while one is computed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, Form, HTTPException, Request, UploadFile
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints.datastore import add_image
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.formats import volume_extension
from monai_ldmsr.label.http_errors import answered_errors, http_error
from monai_ldmsr.label.local_datastore import GuardedDatastore

__all__ = ["app"]

# Their warnings name images.
for _name in ("monailabel.endpoints.activelearning", "monailabel.datastore.local", "monailabel.datastore.dicom"):
    logging.getLogger(_name).setLevel(logging.ERROR)


# A plain function: FastAPI gives each call a thread. MONAI Label's own is a coroutine, which keeps the loop for itself.
def _run_inference(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: UploadFile | None = None,
    output: ResultType | None = None,
) -> Any:
    given = _options(params)
    if not (image or session_id or file):
        raise http_error(ReasonCode.BAD_SETTINGS, "Name an image of the datastore, or send a file.")
    if output == ResultType.dicom_seg:
        message = "The result is an image and no DICOM SEG. Ask for output=json, image or all."
        raise http_error(ReasonCode.BAD_SETTINGS, message)
    if output in (ResultType.json, ResultType.image):
        given["result_write_to_file"] = output == ResultType.image
    if file is not None:  # the client's own name may be one that no file can have
        file.filename = f"upload{volume_extension(Path(file.filename or '')) or '.unknown'}"
    with _tidied_up(background_tasks):
        return run_inference(background_tasks, model, image, session_id, json.dumps(given), file, None, output)


def _add_image(
    background_tasks: BackgroundTasks,
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))],
    file: UploadFile,
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> Any:
    given = _options(params)
    if not isinstance(app_instance().datastore(), GuardedDatastore):
        raise http_error(ReasonCode.BAD_SETTINGS, "Images are sent to the DICOMweb service itself (STOW), not here.")
    with _tidied_up(background_tasks):
        return add_image(background_tasks, image, json.dumps(given), file, user.username)


@contextmanager
def _tidied_up(background_tasks: BackgroundTasks) -> Iterator[None]:
    """Remove what was uploaded after a refusal, since nothing else does."""
    try:
        yield
    except BaseException:
        for task in background_tasks.tasks:
            task.func(*task.args, **task.kwargs)
        raise


def _options(params: str) -> dict[str, Any]:
    try:
        given = json.loads(params or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise http_error(ReasonCode.BAD_SETTINGS, "params must be a JSON object.")
    return given


class _AnsweredErrors:
    """What an endpoint of MONAI Label's did not expect becomes an answer too, and no log gets its text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        began = False

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            with answered_errors():
                await self._app(scope, receive, watched)
        except HTTPException as error:
            if scope["type"] != "http" or began:
                raise
            answer = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
            await answer(scope, receive, send)


def _answered(request: Request, error: Exception) -> JSONResponse:
    """MONAI Label answers its own errors with 500 and no word of what they are."""
    assert isinstance(error, MONAILabelException)
    status = 404 if "not found" in error.msg.lower() else 400
    return JSONResponse({"detail": f"MONAI Label: {error.error.value}"}, status)


_infer_route = APIRoute(
    f"{settings.MONAI_LABEL_API_STR}/infer/{{model}}",
    _run_inference,
    methods=["POST"],
    tags=["Infer"],
    dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))],
)
_image_route = APIRoute(
    f"{settings.MONAI_LABEL_API_STR}/datastore/image", _add_image, methods=["PUT"], tags=["Datastore"]
)
app.router.routes[:0] = [_infer_route, _image_route]
app.add_exception_handler(MONAILabelException, _answered)
# Innermost, so that these answers too have the headers that a browser needs.
app.user_middleware.append(Middleware(_AnsweredErrors))
