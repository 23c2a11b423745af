"""An exported folder over HTTP: POST /predict, a page, and the rest that a service needs.

Here are the flags and the socket; product/server.py is the rest.

    python -m lit_bert serve exported --port 8000
    curl http://127.0.0.1:8000/predict --json '{"text": "what a day"}'
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lit_bert import UserError, available_cores, require_package
from lit_bert.cli.arguments import Parser
from lit_bert.io import escape
from lit_bert.product import hosts
from lit_bert.product.folder import newest
from lit_bert.product.formats import predictor_files
from lit_bert.product.models import MB, Models, check_name, name_of, parse_name

if TYPE_CHECKING:
    from lit_bert.product.access import Access

TOKEN_VARIABLE = "LIT_BERT_TOKEN"


def serve(arguments: list[str]) -> int:
    """The exit code of `serve`.

    Returns:
        0 after SIGTERM or Ctrl-C, with everything in flight answered; 1 where a worker died.
    """
    args = _parser().parse_intermixed_args(arguments)
    for library in ("starlette", "uvicorn", "httptools", "prometheus_client"):
        require_package(library, "serve")
    from lit_bert.product.messages import Limits
    from lit_bert.product.server import run

    limits = Limits(args.bytes, args.texts, args.characters, args.seconds, args.queue)
    access = access_of(args)
    models = _models(args)
    statistics = None
    if args.statistics is not None:
        if models.several:
            raise UserError("--statistics is of one model; serve one folder, without --models.")
        (model,) = models.by_name.values()
        statistics = models.predictor(model).keep_statistics(args.statistics)
    listener = listen(args.host, args.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # until `run` has its own
    _allow_connections()
    code = run(models, limits, access, args.threads, listener)
    if statistics is not None:
        statistics.flush()
    return code


def access_of(args: argparse.Namespace) -> Access:
    """Which requests are answered, by the flags of `add_address`."""
    from lit_bert.product.access import Access

    token = args.token or os.environ.get(TOKEN_VARIABLE)
    if token is not None and not token.strip():
        raise UserError(f"the token is empty; give {TOKEN_VARIABLE} some characters, or unset it.")
    return Access(hosts.Hosts(args.host, args.allow_host), token)


def _models(args: argparse.Namespace) -> Models:
    """The models that the arguments name, each opened once.

    Raises:
        UserError: two have one name, or one cannot be served.
    """
    several = len(args.folders) > 1 or bool(args.models)
    named = [(name_of(folder), folder) for folder in args.folders or ([] if args.models else [newest()])]
    named += [parse_name(each) for each in args.models]
    models = Models(several, None if args.memory_limit_mb is None else args.memory_limit_mb * MB)
    for name, folder in named:
        if name in models.by_name:
            raise UserError(
                f"{models.by_name[name].folder} and {folder} would both be served as "
                f"'{escape.line(name, 80)}'. Name them with --models NAME=FOLDER."
            )
        models.add(check_name(name) if several else name, folder, args.file)
    return models


def _parser() -> Parser:
    parser = Parser(
        "python -m lit_bert serve",
        description="Answers POST /predict over HTTP from an exported folder, with a page at / and its "
        "documentation at /docs. SIGTERM and Ctrl-C finish what is in flight.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="folder",
        type=Path,
        help="what `python -m lit_bert export` wrote; without it the newest below checkpoints/. Of several, "
        "each answers at /models/NAME, under the name of its run, and is loaded when it is asked",
    )
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="NAME=FOLDER", help="folders to serve at /models/NAME"
    )
    parser.add_argument(
        "--memory_limit_mb",
        type=_count,
        help="memory of the models that are loaded; past it, the one used least recently is unloaded "
        "(default: no limit)",
    )
    add_address(parser)
    parser.add_argument(
        "--file", help=f"ONNX file to run; default: the first that is there of {', '.join(predictor_files())}"
    )
    parser.add_argument(
        "--bytes", type=_count, default=2**20, help="bytes of a request's body, at most (%(default)s)"
    )
    parser.add_argument(
        "--texts", type=_count, default=256, help="texts in one request, at most (%(default)s)"
    )
    parser.add_argument(
        "--characters", type=_count, default=10_000, help="characters of one text, at most (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=10.0, help="seconds for one request, at most (%(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=_count,
        default=256,
        help="texts waiting, at most; one client address gets half (%(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=_count,
        default=available_cores(),
        help="texts that are computed side by side, one core each (%(default)s)",
    )
    parser.add_argument(
        "--statistics",
        metavar="FILE",
        help="JSON file of counts of what is asked, without a text, to compare with `drift`; written every "
        "few seconds and at the end, and one that is there goes on; a file for each server of a model",
    )
    return parser


def add_address(parser: Parser) -> None:
    """Adds the flags that say where a server listens and which requests it answers."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every network (%(default)s)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="TCP port; 0 takes a free one (%(default)s)")
    parser.add_argument(
        "--allow-host",
        type=_host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address under which clients reach the server, such as that of a proxy before it; can "
        f"be given several times, * is any (always accepted: {hosts.LOOPBACK}, --host, and the address of "
        "this machine that a client connects to)",
    )
    parser.add_argument(
        "--token",
        help="answer only requests with this bearer token; better set the variable "
        f"{TOKEN_VARIABLE}, as process lists show flags",
    )


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"got '{value}'; expected a whole number of 1 or more")
    return int(value)


def _port(value: str) -> int:
    if not value.isdecimal() or int(value) > 65_535:
        raise argparse.ArgumentTypeError(f"got '{value}'; expected a number from 0 to 65535")
    return int(value)


def _host_name(value: str) -> str:
    named = hosts.parse(f"[{value}]" if value.count(":") > 1 and not value.startswith("[") else value)
    if value != hosts.ANY and (named is None or named.port is not None):
        raise argparse.ArgumentTypeError(
            f"got '{escape.line(value, 100)}'; expected a name such as example.org, an address, or * for "
            "any, without scheme and port (and names in other scripts as xn--…)"
        )
    return named.host if named else value


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"got '{value}'; expected seconds, above 0 and up to 3600")
    return seconds


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, not listening yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)  # now, as two may bind a port that they reuse, and only one may listen
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host} port {port}: {what}. Choose another --port or --host."
        ) from None
    return listener


def _allow_connections() -> None:
    """As many open connections as the system lets us: idle ones must not keep others out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


PARSERS = {"serve": _parser}
