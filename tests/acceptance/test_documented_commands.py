"""Commands of the documentation, without running them: options, values, files, targets and extras are there.

``test_documented_runs.py`` runs what can be run; ``documented_elsewhere.py`` says of the rest which test does, or why
none.
"""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import pytest
import yaml
from documented import (
    DIRECTIVES,
    LANGUAGES,
    Block,
    Command,
    all_commands,
    blocks,
    commands,
    links,
    pages,
    spans,
)
from documented_elsewhere import LEFT_OUT, RUN_BY, plain, whereabouts
from places import BUNDLES, ROOT

from monai_ldmsr.batch.cluster import SlurmOptions
from monai_ldmsr.cli import command_parser
from monai_ldmsr.cli.arguments import limits_of
from monai_ldmsr.pacs.peers import parse_peer
from monai_ldmsr.settings import WorkSettings, described
from monai_ldmsr.training.plan import parse_budget

COMMANDS = all_commands()
LDMSR = [command for command in COMMANDS if command.program == "ldmsr"]
OF_MONAI = [command for command in COMMANDS if command.program == "python -m monai.bundle"]

#: Options in running text that are those of other programs.
FOREIGN_OPTIONS = {
    "--help",
    "--checkpoint",  # of the training configs of the bundles, as python -m monai.bundle takes it
}

#: Folders of the repository by which a path in a page is known for one.
FOLDERS = ("deploy", "benchmarks", "bundles", "docs", "tests", "sample_data", "monai_ldmsr", ".ci", "configs", "models")


def places(found: Sequence[Command]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", found, ids=[one.place for one in found])


def parsed(command: Command, capsys: pytest.CaptureFixture[str]) -> SimpleNamespace:
    try:
        found = command_parser().parse_args(list(command.arguments))
    except SystemExit as ended:
        pytest.fail(f"{command.place}: {command.text}: {capsys.readouterr().err or ended.code}")
    return SimpleNamespace(**vars(found))


@cache
def options_of_ldmsr() -> dict[str, frozenset[str]]:
    """Options of each command, and by ``""`` those before it."""
    parser = command_parser()
    (inner,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    return {
        name: frozenset(option for action in one._actions for option in action.option_strings)
        for name, one in {"": parser, **inner}.items()
    }


@cache
def options_of_script(path: str) -> frozenset[str]:
    """Options that a program of the repository takes, as its text has them."""
    calls = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call)]
    added = [call for call in calls if ast.unparse(call.func).endswith("add_argument")]
    values = [argument.value for call in added for argument in call.args if isinstance(argument, ast.Constant)]
    return frozenset(str(value) for value in values if str(value).startswith("-"))


@cache
def keys_of(*configs: Path) -> frozenset[str]:
    return frozenset(key for path in configs for key in yaml.safe_load(path.read_text()))


# Blocks


@pytest.mark.parametrize("page", pages())
def test_every_block_says_its_language(page: str) -> None:
    for block in blocks(page):
        known = block.language in LANGUAGES or DIRECTIVES.match(block.language)
        assert known, (
            f"{block.place}: a block of {block.language or 'no language'}; write one of {', '.join(LANGUAGES)}"
        )
        if block.language == "shell":
            assert list(commands(block)), f"{block.place}: no command; output is ```text"


def test_blocks_are_found_and_split_as_a_reader_reads_them() -> None:
    text = (
        "- item:\n\n  ```shell\n  cd bundles/ldm_sr && A=1 ldmsr run 'a b' OUT \\\n      --factor 2  # it's fine\n"
        '  eval "$(ldmsr completion bash)" > file\n  ```\n\ntext\n\n    indented\n\n```\nnothing\n```\n'
    )
    shell, indented, bare = blocks("page.md", text)
    assert (shell.line, indented.language, bare.language) == (4, "indented", "")
    first, second, third = commands(shell)
    assert (first.words, second.folder, second.environment) == (("cd", "bundles/ldm_sr"), "bundles/ldm_sr", ("A=1",))
    assert second.arguments == ("run", "a b", "OUT", "--factor", "2")
    assert (third.line, third.words) == (6, ("ldmsr", "completion", "bash"))
    with pytest.raises(ValueError, match="not closed"):
        list(commands(Block("page.md", 1, "shell", "echo 'a\n")))


# The command


@places(LDMSR)
def test_the_command_takes_what_the_page_gives_it(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    given = parsed(command, capsys)
    settings = {name: value for name, value in vars(given).items() if name in described(WorkSettings)}
    if command.arguments[0] in ("run", "batch"):
        WorkSettings(**settings)
    elif "factor" in settings or "seed" in settings:
        WorkSettings(**{name: value for name, value in settings.items() if value is not None})
    if getattr(given, "limit", None):
        limits_of(given)  # type: ignore[arg-type]
    for address in [*getattr(given, "send", []), *([given.peer] if hasattr(given, "peer") else [])]:
        assert address == "PEER" or parse_peer(address)
    if getattr(given, "slurm", None):
        SlurmOptions.parse(given.slurm)
    if hasattr(given, "budget"):
        assert parse_budget(given.budget) > 0


@pytest.mark.parametrize("page", pages())
def test_commands_within_the_text_have_the_options_that_they_name(page: str) -> None:
    for line, span in spans(page):
        words = span.split()
        if words[:1] != ["ldmsr"] or len(words) == 1:
            continue
        names = [word for word in words[1:] if word in options_of_ldmsr() and word]
        assert names or words[1] in ("COMMAND", *options_of_ldmsr()[""]), f"{page}:{line}: {span}"
        known = options_of_ldmsr()[""] | (options_of_ldmsr()[names[0]] if names else frozenset())
        for word in words:
            assert not word.startswith("--") or word.partition("=")[0] in known, f"{page}:{line}: {span}"


@pytest.mark.parametrize("page", pages())
def test_options_within_the_text_are_there(page: str) -> None:
    known = FOREIGN_OPTIONS.union(*options_of_ldmsr().values())
    known |= {option for path in (ROOT / "benchmarks").rglob("*.py") for option in options_of_script(str(path))}
    configs = list(BUNDLES.glob("*/configs/*.yaml"))
    known |= {f"--{key}" for key in (*keys_of(*configs), *inspect.signature(monai.bundle.run).parameters)}
    for line, span in spans(page):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
            assert option in known, f"{page}:{line}: there is no option {option}: {span}"


# Other programs


@places([command for command in COMMANDS if command.program == "make"])
def test_make_has_the_target(command: Command) -> None:
    for target in command.arguments:
        assert "=" in target or target in make_targets(), f"{command.place}: there is no target {target}"


@pytest.mark.parametrize("page", pages())
def test_targets_within_the_text_are_there(page: str) -> None:
    for line, span in spans(page):
        if span.startswith("make "):
            for target in span.split()[1:]:
                assert "=" in target or target in make_targets(), f"{page}:{line}: {span}"


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@places(OF_MONAI)
def test_monai_finds_configs_and_keys(command: Command) -> None:
    verb, *rest = command.arguments
    given = dict(pairs(rest))
    names = [word for key in ("--config_file", "--meta_file") if key in given for word in listed(given[key])]
    home = home_of(command, names)
    assert home is not None, f"{command.place}: {', '.join(names)} are not in a bundle, and not in the repository"
    configs = [home / name for name in names if name.endswith(".yaml")]
    takes = inspect.signature(getattr(monai.bundle, verb)).parameters
    for option in given:
        key = re.split("::|#", option.removeprefix("--"))[0]
        assert key in takes or key in keys_of(*configs), f"{command.place}: {option} is no key of {', '.join(names)}"
    if "--ckpt_file" in given:
        assert (home / given["--ckpt_file"]).is_file()


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    assert len(words) % 2 == 0, words
    for option, value in zip(words[::2], words[1::2], strict=True):
        assert option.startswith("--"), option
        yield option, value


def listed(text: str) -> list[str]:
    return list(ast.literal_eval(text)) if text.startswith("[") else [text]


def home_of(command: Command, names: Sequence[str]) -> Path | None:
    """Folder in which a command of MONAI finds its files: as typed, the page's bundle, or a bundle."""
    of_page = [ROOT / command.page.split("/docs/")[0]] if command.page.startswith("bundles/") else []
    tried = of_page or [(ROOT / command.folder).resolve(), *sorted(BUNDLES.iterdir())]
    return next((folder for folder in tried if all((folder / name).is_file() for name in names)), None)


def scripts() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Programs of the repository that pages name, in blocks and in running text: place and words."""
    for command in COMMANDS:
        yield command.place, command.words
    for page in pages():
        for line, span in spans(page):
            if re.match(r"(python3?|benchmarks/\S+\.sh|\.ci/\w+)( |$)", span):
                yield f"{page}:{line}", tuple(shlex.split(span))


def test_programs_of_the_repository_take_what_pages_give_them() -> None:
    found = 0
    for place, words in scripts():
        text = " ".join(words)
        module = re.match(r"python3? (?:-m ((?:benchmarks|monai_ldmsr)[\w.]*)|(benchmarks/\S+\.py))", text)
        if module is None or module[1] == "monai_ldmsr":
            continue
        path = module[2] or f"{module[1].replace('.', '/')}.py"
        assert (ROOT / path).is_file(), f"{place}: there is no {path}"
        for word in words:
            assert not word.startswith("--") or word in options_of_script(path), f"{place}: {path} has no {word}"
        found += 1
    assert found > 10


def test_extras_that_pages_install_are_there() -> None:
    texts = [(command.place, " ".join(command.words)) for command in COMMANDS if command.program.endswith("pip")]
    texts += [(f"{page}:{line}", span) for page in pages() for line, span in spans(page) if "pip install" in span]
    texts += [(f"{page}:{line}", span) for page in pages() for line, span in spans(page) if re.match(r"\.\[", span)]
    for place, text in texts:
        for name, extras in re.findall(r"([\w.-]+)\[([\w,-]+)\]", text):
            if name in (".", "monai_ldmsr"):
                assert set(extras.split(",")) <= extras_of_the_package(), f"{place}: {text}"


def extras_of_the_package() -> set[str]:
    """As the repository declares them; where it does not, as the installed package does."""
    project = (ROOT / "pyproject.toml").read_text()
    table = re.search(r"^\[project\.optional-dependencies\]\n(.*?)(?=^\[|\Z)", project, re.MULTILINE | re.DOTALL)
    if table:
        return set(re.findall(r"^([\w-]+) *=", table[1], re.MULTILINE))
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    if config.has_section("options.extras_require"):
        return set(config.options("options.extras_require"))
    return set(importlib.metadata.metadata("monai_ldmsr").get_all("Provides-Extra") or [])


# Files


@places(COMMANDS)
def test_files_of_the_repository_that_a_command_names_are_there(command: Command) -> None:
    for word in (*command.words, *(value for text in command.environment for value in text.split("=")[1:])):
        for name in listed(word) if word.startswith("['") else [word]:
            if is_of_the_repository(name) and not is_made(command, name):
                assert exists(name, command.page, command.folder), f"{command.place}: there is no {name}"


def is_made(command: Command, name: str) -> bool:
    """Whether a copy on the page is what makes a file."""
    copies = [one for one in COMMANDS if one.program in ("cp", "install") and one.page == command.page]
    return any(name == one.words[-1] for one in copies)


@pytest.mark.parametrize("page", pages())
def test_files_of_the_repository_that_the_text_names_are_there(page: str) -> None:
    for line, span in spans(page):
        if " " not in span and is_of_the_repository(span):
            assert exists(span, page), f"{page}:{line}: there is no {span}"


def is_of_the_repository(name: str) -> bool:
    return bool(re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*", name))


def exists(name: str, page: str, folder: str = ".") -> bool:
    """Whether a path is there below the repository, where the command is typed, or in a bundle."""
    roots = [ROOT, ROOT / folder, (ROOT / page).parent, *BUNDLES.iterdir()]
    return any(any(root.glob(name)) for root in roots if root.is_dir())


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for line, link in links(page):
        name, _, anchor = link.partition("#")
        if re.match(r"\w+:", name):
            continue
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}:{line}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page}:{line}: {link}"


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings, those of an included page too."""
    text = page.read_text(encoding="utf-8")
    text += "".join(
        (page.parent / name).read_text() for name in re.findall(r"^```\{include\} (\S+)$", text, re.MULTILINE)
    )
    headings = re.findall(r"^#+ (.*?)\s*$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


# What is run elsewhere


def test_tests_that_run_what_is_not_run_here_are_there() -> None:
    for begins, by in RUN_BY.items():
        path, _, name = by.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{begins}: there is no {by}"


def test_every_command_is_run_here_or_elsewhere() -> None:
    runs_here = ("ldmsr", "python -m monai.bundle")
    for command in COMMANDS:
        assert command.program in runs_here or whereabouts(command), (
            f"{command.place}: nothing runs {plain(command)!r}; name the test that does in documented_elsewhere.py"
        )


def test_no_command_of_the_package_is_left_out_of_the_runs() -> None:
    """A reason is for what administers a system."""
    assert not [begins for begins in LEFT_OUT if re.match("ldmsr|python -m monai|curl|dask", begins)]


def test_what_is_run_elsewhere_is_in_a_page() -> None:
    used = {whereabouts(command) for command in COMMANDS}
    assert set(RUN_BY.values()) <= used
    assert set(LEFT_OUT.values()) <= used


def test_packages_that_pages_install_are_those_of_the_tests() -> None:
    installed = set(
        re.findall(r"[a-z][\w-]+", "".join((ROOT / ".ci" / name).read_text() for name in ("servers", "viewer")))
    )
    for command in COMMANDS:
        if command.program == "apt-get":
            assert {word for word in command.arguments[1:] if not word.startswith("-")} <= installed, command.place
