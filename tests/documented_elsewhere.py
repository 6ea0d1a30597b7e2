"""What becomes of commands of the documentation that ``test_documented_runs.py`` does not run as they stand."""

from __future__ import annotations

import re

from documented import Command

#: How a command begins (a star is anything), in the order in which they are looked through, and the test that runs it
#: or its equivalent.
RUN_BY = {
    "ldmsr fetch": "tests/pacs/test_pacs_orthanc.py::test_the_command",
    "ldmsr serve": "tests/pacs/test_service_orthanc.py::test_a_study_comes_back_with_a_new_series",
    "ldmsr label --studies http": "tests/label/test_label_orthanc.py::test_the_derived_series_lies_beside_its_source",
    "ldmsr label": "tests/label/test_label.py::test_a_result_is_an_image_of_the_datastore",
    "curl -X POST localhost:8000/infer/": "tests/label/test_label.py::test_a_result_is_an_image_of_the_datastore",
    "monailabel start_server --app monai_ldmsr/": (
        "tests/label/test_label.py::test_monai_labels_own_command_starts_the_app_too"
    ),
    "monailabel apps --download --name monaibundle": (
        "tests/label/test_label.py::test_the_stock_bundle_app_returns_the_finer_grid"
    ),
    "monailabel start_server --app monaibundle": (
        "tests/label/test_label.py::test_the_stock_bundle_app_returns_the_finer_grid"
    ),
    "cp -r bundles/ldm_sr my_bundle": "tests/acceptance/test_guide.py::test_it_reaches_the_report",
    "mkdir -p monaibundle/model": "tests/label/test_label.py::test_the_stock_bundle_app_returns_the_finer_grid",
    "cp -r bundles/ldm_sr monaibundle/": "tests/label/test_label.py::test_the_stock_bundle_app_returns_the_finer_grid",
    "ldmsr batch * --scheduler": "tests/batch/test_cluster.py::test_a_batch_goes_on_though_a_unit_kills_its_workers",
    "dask scheduler": "tests/batch/test_cluster.py::test_a_lost_scheduler_is_told_apart_from_a_bad_unit",
    "dask worker": "tests/batch/test_cluster.py::test_a_lost_scheduler_is_told_apart_from_a_bad_unit",
    "ldmsr batch * --slurm": "tests/batch/test_slurm.py::test_a_batch_by_jobs",
    "ldmsr batch * --send": "tests/pacs/test_pacs_orthanc.py::test_round_trip",
    "ldmsr train DATA OUT --budget 2h": "tests/training/test_train_command.py::test_train_makes_bundles_and_resumes",
    "python -m monai.bundle run --config_file ['configs/inference.yaml','configs/train_autoencoder.yaml']": (
        "tests/training/test_training.py::test_two_stages_give_weights_that_fit_the_bundle"
    ),
    "python -m monai.bundle run --config_file ['configs/inference.yaml','configs/train_srresnet.yaml']": (
        "tests/training/test_training.py::test_baselines_train"
    ),
    "python -m monai.bundle run --config_file "
    "['configs/inference.yaml','configs/train_adversarial.yaml','configs/train_planes.yaml']": (
        "tests/training/test_training.py::test_planes_across_slices_are_trained_beside_the_bundles_weights"
    ),
    "python -m monai.bundle run --config_file "
    "['configs/inference.yaml','configs/ddpm.yaml','configs/train_diffusion.yaml','configs/train_ddpm.yaml']": (
        "tests/training/test_training.py::test_plain_diffusion_begins_with_the_bundles_weights_and_runs"
    ),
    "python -m monai.bundle run --config_file ['configs/inference.yaml','configs/ddpm.yaml']": (
        "tests/training/test_training.py::test_plain_diffusion_begins_with_the_bundles_weights_and_runs"
    ),
    "ldmsr export NETWORKS --factor 2": "tests/export/test_export.py::test_the_bundle_is_exported_by_the_command",
    "ldmsr evaluate * --through-plane": (
        "tests/evaluation/test_stack_evaluation.py::test_the_bundle_is_measured_by_the_command"
    ),
    "python -m monai.bundle onnx_export": (
        "tests/export/test_export.py::test_monais_own_command_writes_a_network_for_any_size"
    ),
    "docker compose --env-file deploy/ldmsr.env -f deploy/compose.yaml": (
        "tests/acceptance/test_deployment.py::test_compose_runs_the_command_with_the_ports_and_volumes_of_the_image"
    ),
    "cp deploy/ldmsr.env.example": (
        "tests/acceptance/test_deployment.py::test_every_variable_port_and_volume_is_documented_and_used"
    ),
    "install -D -m 0600 deploy/ldmsr.env.example": (
        "tests/acceptance/test_deployment.py::test_every_variable_port_and_volume_is_documented_and_used"
    ),
    "install -m 0644 deploy/ldmsr.service": "tests/acceptance/test_deployment.py::test_systemd_accepts_the_unit",
    "systemctl enable --now ldmsr": ("tests/acceptance/test_deployment.py::test_the_unit_runs_the_command_hardened"),
    "npm pack @ohif/app": "tests/label/test_viewer_ohif.py::test_the_derived_series_opens_beside_its_source",
    "tar -xzf ohif-app-": "tests/label/test_viewer_ohif.py::test_the_derived_series_opens_beside_its_source",
    "cp deploy/ohif/": "tests/label/test_viewer_ohif.py::test_the_derived_series_opens_beside_its_source",
    "python -m benchmarks.gallery": "tests/test_gallery.py::test_a_picture_is_made_of_a_crop",
    "python -m benchmarks.frontier": "tests/test_frontier.py::test_a_row_of_another_table_is_drawn_beside_the_dial",
    "python benchmarks/tissue_volumes.py": ("tests/test_tissue_volumes.py::test_dice_and_bias_are_those_of_the_labels"),
}

#: How a command begins, and why no test runs it: what administers a system, and what runs the tests.
LEFT_OUT = {
    ".ci/run": "runs all checks, these among them",
    "make test": "runs these tests",
    "make test-all": "runs these tests",
    "make test-slow": "runs these tests",
    "make test-servers": "runs tests",
    "make test-label": "runs tests",
    "make test-viewer": "runs tests",
    "make release-check": "runs .ci/release, which makes and tries wheel and sdist",
    "make coverage": "runs these tests",
    "make check": "a part of .ci/run",
    "make demo": "a part of .ci/run",
    "make docs": "a part of .ci/run",
    "make linkcheck": "asks other sites",
    "make servers": "a part of .ci/run",
    "make viewer": "a part of .ci/run",
    "make label": "a part of .ci/run",
    "pip install": "make demo and make test install the package and its extras",
    "python -m pip install": "make demo and make test install the package and its extras",
    "python -m venv": "make demo makes one",
    "apt-get install": ".ci/servers and .ci/viewer install the same packages",
    "source .venv/bin/activate": "changes the shell that it is typed in",
    "useradd": "makes a user of the system",
    "systemctl": "speaks with the system's services",
    "mkdir -p /srv/": "makes a folder of the system",
    "cd": "says where the next commands are typed",
    "benchmarks/gpu_training/make_wheels.sh": "fetches wheels from a package index",
    "benchmarks/gpu_training/rehearse.sh": "trains for minutes with wheels that were fetched",
}


def plain(command: Command) -> str:
    """A command by which it is looked up: the program by its name, words as they are meant."""
    is_own = command.words[0].startswith((".ci/", "benchmarks/"))
    return " ".join([command.words[0] if is_own else command.program, *command.arguments])


def whereabouts(command: Command) -> str | None:
    """The test that runs a command, or why none does; None: it is run as it stands."""
    for begins, by in [*RUN_BY.items(), *LEFT_OUT.items()]:
        pattern = re.escape(begins).replace(r"\*", ".*") + (r"(?![\w-])" if begins[-1].isalnum() else "")
        if re.match(pattern, plain(command)):
            return by
    return None
