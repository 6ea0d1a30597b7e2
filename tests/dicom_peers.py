"""Both ends of an association by plain pynetdicom: who sends images to a service, and who takes its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification


class Archive:
    """Keeps what was sent to it in the order of arrival, doubles included."""

    aet = "ARCHIVE"

    def __init__(self) -> None:
        self.images: list[pydicom.Dataset] = []
        self.port = 0

    @property
    def peer(self) -> str:
        """As the commands take it."""
        return f"{self.aet}@127.0.0.1:{self.port}"

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[Archive]:
        """Take images for a while."""
        entity = AE(self.aet)
        entity.supported_contexts = StoragePresentationContexts
        server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)])
        self.port = server.socket.getsockname()[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _on_store(self, event: evt.Event) -> int:
        image = event.dataset
        image.file_meta = event.file_meta
        self.images.append(image)
        return 0x0000


def send(
    paths: Sequence[Path], port: int, abort: bool = False, caller: str = "MODALITY", called: str = "LDMSR"
) -> list:
    """Statuses of files sent in one association, which is released or aborted; empty when it was rejected."""
    entity = AE(caller)
    for uid in (CTImageStorage, MRImageStorage, Verification):
        entity.add_requested_context(uid)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return []
    statuses = [association.send_c_store(pydicom.dcmread(path)).Status for path in paths]
    association.abort() if abort else association.release()
    return statuses
