"""The MONAI Label app: super-resolution on request, whose results are images of the datastore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, gettempprefix
from typing import Any, TypeAlias

from fastapi import HTTPException
from monailabel.config import settings as label_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.others.generic import device_list, name_to_device

from monai_ldmsr._version import __version__
from monai_ldmsr.bundle_folder import DEFAULT_BUNDLE, bundle_info
from monai_ldmsr.errors import ReasonCode, SkippedSourceError
from monai_ldmsr.io.formats import volume_extension
from monai_ldmsr.io.limits import parse_limits
from monai_ldmsr.label.dicomweb_results import DicomwebResults
from monai_ldmsr.label.http_errors import answered_errors, http_error
from monai_ldmsr.label.inference import InferenceTurn, infer
from monai_ldmsr.label.local_datastore import GuardedDatastore
from monai_ldmsr.label.local_results import LocalResults
from monai_ldmsr.label.options import offered_options, requested_name, requested_settings
from monai_ldmsr.label.results import ClientFile, ResultStore, record_of
from monai_ldmsr.pacs.peers import Caller, Credentials, DicomwebPeer, is_dicomweb, parse_peer
from monai_ldmsr.pacs.tls import TlsSettings
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.settings import WorkSettings

__all__ = ["SuperResolutionApp"]

_Infer: TypeAlias = Callable[[Mapping[str, Any], Datastore], dict[str, Any]]


class SuperResolutionApp(MONAILabelApp):  # type: ignore[misc]  # MONAI Label carries no types
    """What ``app_folder/main.py`` gives MONAI Label.

    Args:
        app_dir: folder of ``main.py``; records of what was stored at a DICOMweb service are kept there.
        studies: folder of volume files, or root of a DICOMweb service.
        conf: ``bundle`` (name or folder; default ``ldm_sr``), ``ca_file`` (authorities of the service's certificate),
            ``limits`` (of what is read, as ``voxels=4G volumes=9``).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._bundle = conf.get("bundle", DEFAULT_BUNDLE)
        self._model = bundle_info(self._bundle)
        self._limits = parse_limits(conf.get("limits", "").split())
        self._turn = InferenceTurn(label_settings.MONAI_LABEL_INFER_TIMEOUT)
        super().__init__(
            app_dir,
            studies,
            conf,
            name="monai_ldmsr",
            description=f"Super-resolution whose results are images. {RESEARCH_NOTICE}",
            version=__version__,
        )
        self._results = self._result_store()

    def init_datastore(self) -> Datastore:
        """A local folder that threads may use, or what MONAI Label makes of an address."""
        if is_dicomweb(self.studies):
            return super().init_datastore()
        return GuardedDatastore(
            self.studies,
            extensions=label_settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=label_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=label_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _download_dcmqi_tools(self) -> None:
        """Not needed: these tools turn label maps into DICOM SEG, and would be fetched from the internet."""

    def init_infers(self) -> dict[str, InferTask]:
        """The bundle as the one model; as a segmentation, for other kinds have no button in Slicer and OHIF."""
        return {self._model.name: _SuperResolutionTask(self._model.description, self._bundle)}

    def init_strategies(self) -> dict[str, Strategy]:
        """How the next image is chosen: ``newest_result`` is how a viewer gets to what was just made."""
        return {"newest_result": _NewestResult(self), "first": First(), "random": Random()}

    def init_batch_infer(self) -> BatchInferTask:
        """All images but the results."""
        return _SourcesOnly(self)

    def info(self) -> dict[str, Any]:
        """See ``MONAILabelApp``."""
        with answered_errors():
            return dict(super().info())

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Super-resolve an image of the datastore, and store the result as another; or an uploaded file.

        Args:
            request: ``model``, ``image``, options (see ``options.requested_settings``) and ``device``; with
                ``result_dtype`` uint8 the client gets an empty label map in the image's stead.
            datastore: always the app's own.

        Raises:
            HTTPException: with the reason.
        """
        with answered_errors():
            if requested_name(request, "model") not in self._infers:
                raise http_error(ReasonCode.NO_SUCH_SOURCE, f"There is no such model here. Use {self._model.name}.")
            device = name_to_device(requested_name(request, "device"))
            settings = requested_settings(request, self._bundle, device, self._limits)
            client_file, image = ClientFile.from_request(request), requested_name(request, "image")
            if _is_upload(image, self._sessions.store_path if self._sessions else ""):
                return self._uploaded(Path(image), settings, client_file)
            result = self._results.super_resolved(image, settings)
            file = client_file.written(
                partial(self._results.image_file, result.image), result.record["report"]["source"]
            )
            return _answer(file, {**result.record, "is_new": result.is_new})

    def _uploaded(self, path: Path, settings: WorkSettings, client_file: ClientFile) -> dict[str, Any]:
        """A file that is in no datastore, as one sends with the request or in a session: its result only goes back."""
        if path.is_dir():
            raise SkippedSourceError(
                "Several files were uploaded. Put a DICOM series into the DICOMweb service, and name it.",
                ReasonCode.UNSUPPORTED_DIMENSIONS,
            )
        if volume_extension(path) is None:
            message = (
                "The uploaded file is not a volume file. A DICOM series is put into the DICOMweb service, and named."
            )
            raise SkippedSourceError(message, ReasonCode.NOT_AN_IMAGE)
        with self._turn.taken(), TemporaryDirectory(prefix="ldmsr-") as folder:
            inferred = infer(path, "upload", Path(folder), settings)
            record = record_of("", "", inferred.report)
            file = client_file.written(lambda: next(inferred.folder.glob("upload_sr.*")), record["report"]["source"])
        return _answer(file, {**record, "is_new": True})

    def newest_result(self) -> str | None:
        """Identifier of the result that was stored last."""
        return self._results.newest_result()

    def sources_among(self, images: Iterable[str]) -> list[str]:
        """Those images that were not made by this software."""
        return self._results.sources_among(images)

    def _result_store(self) -> ResultStore:
        if not is_dicomweb(self.studies):
            return LocalResults(self._datastore, Path(self.studies), self._turn)
        peer = parse_peer(self.studies)
        assert isinstance(peer, DicomwebPeer)
        user, secret = label_settings.MONAI_LABEL_DICOMWEB_USERNAME, label_settings.MONAI_LABEL_DICOMWEB_PASSWORD
        authorities = self.conf.get("ca_file")
        caller = Caller(
            tls=TlsSettings(Path(authorities) if authorities else None),
            credentials=Credentials(user, secret) if user and secret else None,
        )
        return DicomwebResults(self._datastore, peer, caller, Path(self.app_dir) / "super_resolved", self._turn)


class _SuperResolutionTask(InferTask):  # type: ignore[misc]
    """What clients get of the model; the app itself does the work, for it knows where results go."""

    def __init__(self, description: str, bundle: str) -> None:
        options = {"device": device_list(), **offered_options(bundle)}
        super().__init__(InferType.SEGMENTATION, labels=None, dimension=3, description=description, config=options)

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        raise NotImplementedError("SuperResolutionApp.infer does not come here.")


class _NewestResult(Strategy):  # type: ignore[misc]
    def __init__(self, app: SuperResolutionApp) -> None:
        super().__init__("The super-resolved image that was stored last")
        self._app = app

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        image = self._app.newest_result()
        return None if image is None else {"id": image, **datastore.get_image_info(image)}


class _SourcesOnly(BatchInferTask):  # type: ignore[misc]
    def __init__(self, app: SuperResolutionApp) -> None:
        self._app = app

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: _Infer) -> dict[str, Any]:
        if not str(name_to_device("cuda")).startswith("cuda"):  # MONAI Label's default fails without a GPU
            request = {**request, "multi_gpu": False}
        return dict(super().__call__(request, datastore, partial(_attempted, infer)))

    def get_images(self, request: Mapping[str, Any], datastore: Datastore) -> list[str]:
        return self._app.sources_among(super().get_images(request, datastore))


def _attempted(infer: _Infer, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
    """One image of a batch: a refusal never keeps the others from their turn."""
    try:
        return infer({**request, "result_write_to_file": False}, datastore)
    except HTTPException as error:
        return {"params": {"image": None, "source": request["image"], "error": error.detail}}


def _answer(file: str | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """As MONAI Label needs it; the file is removed once it is sent."""
    return {"label": None, "tag": "", "file": file, "params": {**record, "label_names": {}}}


def _is_upload(image: str, sessions: str) -> bool:
    """Whether it is a file that a client has just sent; no other path of this machine is taken for an image."""
    path = Path(image)
    if not path.is_absolute() or not path.exists():
        return False
    path, temporary = path.resolve(), Path(gettempdir()).resolve()
    is_sent = path.parent == temporary and path.name.startswith(gettempprefix())  # so MONAI Label names them
    return is_sent or bool(sessions and path.is_relative_to(Path(sessions).resolve()))
