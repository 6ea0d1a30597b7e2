"""What is written whole or not at all, locked, and known again by its hash: the only room that replaces files."""

from monai_ldmsr.storage.hashes import file_sha256, file_stamp, rest_sha256
from monai_ldmsr.storage.locks import OutputLock
from monai_ldmsr.storage.scratch import new_array, scratch_files
from monai_ldmsr.storage.threads import deflated, in_threads
from monai_ldmsr.storage.whole import (
    clear_left_over,
    clear_passing_files,
    clear_working_folders,
    left_over,
    make_writable,
    move,
    output_errors,
    partial_folder,
    passing_name,
    replace_text,
    replaced_files,
    synced_file,
    working_folder,
    write_synced,
)

__all__ = [
    "OutputLock",
    "clear_left_over",
    "clear_passing_files",
    "clear_working_folders",
    "deflated",
    "file_sha256",
    "file_stamp",
    "in_threads",
    "left_over",
    "make_writable",
    "move",
    "new_array",
    "output_errors",
    "partial_folder",
    "passing_name",
    "replace_text",
    "replaced_files",
    "rest_sha256",
    "scratch_files",
    "synced_file",
    "working_folder",
    "write_synced",
]
