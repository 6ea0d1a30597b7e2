"""The conformance statement's network section says what the code proposes, accepts and answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT

from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.pacs import finding, retrieval, store_server
from monai_ldmsr.pacs.dimse import IMAGE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION, application_entity
from monai_ldmsr.pacs.peers import Caller
from monai_ldmsr.pacs.store_server import DEFAULT_RECEIVER_LIMITS, Endpoint, StoreServer

PAGE = (ROOT / "docs" / "conformance_statement.md").read_text(encoding="utf-8")
NETWORK = PAGE[PAGE.index("## 6. Network services") : PAGE.index("## 7. Media")]


def test_sop_classes_and_transfer_syntaxes_are_those_that_are_accepted() -> None:
    uids = re.findall(r"\b1\.2\.840\.10008\.[0-9.]*[0-9]", NETWORK)
    application_context = "1.2.840.10008.3.1.1.1"
    expected = {*IMAGE_CLASSES, *TRANSFER_SYNTAXES, VERIFICATION, finding.STUDY_ROOT_FIND, application_context}
    assert set(uids) == {str(uid) for uid in expected}
    for uid in (retrieval.STUDY_ROOT_GET, retrieval.STUDY_ROOT_MOVE):
        assert f"...{uid[len('1.2.840.10008.5.1.4.1.') :]}" in NETWORK


def test_limits_and_times_are_those_in_use(tmp_path: Path) -> None:
    server = StoreServer(None, tmp_path, Endpoint("LDMSR", 0, ["A"]), DEFAULT_RECEIVER_LIMITS)  # type: ignore[arg-type]
    assert f"as SCP {server._ae.maximum_associations} (" in NETWORK
    assert f"| {server._ae.maximum_pdu_size:,} bytes |" in NETWORK
    assert f"as SCP: {server._ae.acse_timeout:g} s for the request, {server._ae.network_timeout:g} s of sil" in NETWORK
    entity = application_entity("LDMSR", Caller().timeout_s)
    assert f"as SCU: {entity.connection_timeout:g} s to connect, `--timeout` ({entity.dimse_timeout:g} s)" in NETWORK
    assert DEFAULT_RECEIVER_LIMITS.read is DEFAULT_LIMITS


@pytest.mark.parametrize(
    "status", [store_server.OUT_OF_RESOURCES, store_server.NOT_UNDERSTOOD, store_server.NOT_MATCHING]
)
def test_statuses_are_those_that_are_answered(status: int) -> None:
    assert f"| {status:04X} | `" in NETWORK
