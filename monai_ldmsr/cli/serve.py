"""``ldmsr serve``: series from a PACS in, results to a PACS out."""

from __future__ import annotations

import argparse
import logging
import queue
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.arguments import Commands, Parser, add_command, add_model_options, limits_of, model_settings
from monai_ldmsr.cli.opened_batch import add_cluster_options, opened_batch
from monai_ldmsr.cli.pacs_arguments import (
    add_caller_options,
    add_listening_options,
    add_send_option,
    caller_of,
    deliveries_of,
)
from monai_ldmsr.number_settings import real_number

if TYPE_CHECKING:
    from monai_ldmsr.batch import BatchProgress
    from monai_ldmsr.pacs.receiver import SeriesReceiver
    from monai_ldmsr.pacs.service import Inbox

__all__ = ["add", "serve"]

_log = logging.getLogger(__name__)


_EXIT_CODES = """\
exit codes: 0 ended by SIGTERM or Ctrl-C; 1 wrong usage or settings; 7 cannot write, or another service works in OUT
            with --alive: 0 while a service works in OUT; 8 none does"""


def add(commands: Commands) -> None:
    """Add ``serve`` to the command's parser."""
    parser = add_command(
        commands,
        "serve",
        "receive series by C-STORE, super-resolve them, send results on",
        "Listen for images from the AE titles of --allow, super-resolve each series once it is whole, and send the "
        "result to each --send. What was received survives a restart; SIGTERM ends it cleanly. OUT has the same ledger "
        "as with 'batch': 'ldmsr batch OUT --status' shows what became of each series.",
        _EXIT_CODES,
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for results; made when missing")
    parser.add_argument("--alive", action="store_true", help="report by the exit code whether a service works in OUT")
    add_listening_options(parser, "TCP port to listen on")
    add_send_option(parser)
    add_caller_options(parser)
    _add_spool_options(parser)
    add_model_options(parser)
    add_cluster_options(parser)
    parser.set_defaults(command=serve)


def _add_spool_options(parser: Parser) -> None:
    group = parser.add_argument_group("what is received")
    group.add_argument("--spool", type=Path, metavar="DIR", help="folder for received images (default: OUT/spool)")
    group.add_argument("--keep", action="store_true", help="keep received images when their results are sent")
    group.add_argument(
        "--retain",
        type=float,
        metavar="DAYS",
        help="remove results that every --send has taken after so many days, and received images with --keep (default: "
        "results stay)",
    )
    group.add_argument(
        "--stable-age",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds without an image after which a series counts as whole (default: 10)",
    )
    group.add_argument(
        "--max-associations",
        type=int,
        default=10,
        metavar="N",
        help="greatest number of associations at once (default: 10)",
    )
    group.add_argument(
        "--max-image-mb", type=int, default=512, metavar="MB", help="greatest size of one image (default: 512)"
    )
    group.add_argument(
        "--min-free-mb", type=int, default=1024, metavar="MB", help="disk space to leave free (default: 1024)"
    )


def serve(arguments: argparse.Namespace) -> int:
    """Run the service until SIGTERM."""
    from monai_ldmsr.pacs.service import is_alive

    output = arguments.output
    if arguments.alive:
        return 0 if is_alive(output) else 8
    from monai_ldmsr.batch import OutputLock, WorkSettings
    from monai_ldmsr.pacs.service import SeriesService

    settings = WorkSettings(**model_settings(arguments))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    inbox: Inbox = queue.SimpleQueue()
    receiver, deliveries = _receiver(arguments, inbox), deliveries_of(arguments)
    with (
        OutputLock(output) as lock,
        opened_batch(
            arguments, settings, lock, deliveries, retry=True, progress=_tell, delivery_attempts=None
        ) as batch,
    ):
        service = SeriesService(
            receiver,
            inbox,
            batch,
            output,
            keep=arguments.keep,
            retain_s=None if arguments.retain is None else 86400 * real_number("retain", arguments.retain, 0.0),
            read_limits=limits_of(arguments),
        )
        service.run(stopping)
    return 0


def _receiver(arguments: argparse.Namespace, inbox: Inbox) -> SeriesReceiver:
    from monai_ldmsr.pacs.receiver import SeriesReceiver
    from monai_ldmsr.pacs.spool import SpoolTimes
    from monai_ldmsr.pacs.store_server import Endpoint, ReceiverLimits

    tls = caller_of(arguments).tls if arguments.dicom_tls else None
    endpoint = Endpoint(arguments.ae_title, arguments.port, arguments.allow, arguments.address, tls)
    sizes = (arguments.max_image_mb * 2**20, arguments.min_free_mb * 2**20)
    limits = ReceiverLimits(arguments.max_associations, *sizes, limits_of(arguments))
    spool = arguments.spool or arguments.output / "spool"
    times = SpoolTimes(quiet_s=real_number("stable-age", arguments.stable_age, 0.1))
    return SeriesReceiver(spool, inbox.put, endpoint, limits=limits, times=times)


def _tell(progress: BatchProgress) -> None:
    from monai_ldmsr.cli.views import spoken_result

    if progress.result is not None:
        _log.info("%s", spoken_result(progress.result))
