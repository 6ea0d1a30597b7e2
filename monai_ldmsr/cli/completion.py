"""``ldmsr completion``: what a shell must know to complete commands, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monai_ldmsr.cli.arguments import Commands, Parser, add_command
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.settings import WorkSettings, described

__all__ = ["add"]

_SHELLS = ("bash", "zsh")


def add(commands: Commands) -> None:
    """Add ``completion`` to the command's parser."""
    completion = add_command(
        commands,
        "completion",
        "print what a shell completes commands and options by",
        "Print a script by which a shell completes commands, options, their values and files:\n\n"
        '  eval "$(ldmsr completion bash)"        in ~/.bashrc\n'
        "  ldmsr completion zsh > DIR/_ldmsr      with DIR in $fpath, before compinit\n\n"
        "It needs shtab: pip install 'monai_ldmsr[completion]'",
    )
    completion.add_argument("shell", choices=_SHELLS, help="the shell that completes")
    completion.set_defaults(command=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise SettingsError("Completion needs shtab: pip install 'monai_ldmsr[completion]'") from None
    from monai_ldmsr.cli import command_parser

    parser = command_parser()
    _say_what_fits(parser, shtab.FILE)
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _say_what_fits(parser: Parser, files: Any) -> None:
    """Have arguments that are paths completed by files, and settings by their values; also those of commands."""
    settings = described(WorkSettings)
    for action in parser._actions:
        if action.type is Path:
            action.complete = files  # type: ignore[attr-defined]  # read by shtab
        elif action.dest in settings and settings[action.dest][0].choices:
            action.choices = [str(choice) for choice in settings[action.dest][0].choices]
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            _say_what_fits(command, files)
