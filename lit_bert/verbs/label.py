"""The verb `label`: people label the texts that teach a classifier most, in the terminal or on a page.

python -m lit_bert label reviews.csv --data.label_names refund,delivery,praise
python -m lit_bert label reviews.csv --serve
python -m lit_bert fit --data.dataset reviews.labels.jsonl
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_bert import UserError, require_package
from lit_bert.cli.arguments import Parser
from lit_bert.evaluate.evidence import counted
from lit_bert.io.escape import line
from lit_bert.sources.weights import MINILM
from lit_bert.verbs.serve import access_of, add_address, listen

if TYPE_CHECKING:
    from lit_bert.labelling.pool import Pool
    from lit_bert.labelling.session import Session

log = logging.getLogger("lit_bert.label")
READING = ("format", "delimiter", "encoding", "header", "quoting", "sheet")  # of a file, as for fit
ADDRESS = ("host", "port", "allow_host", "token")  # flags of the page alone
SEED = 0


def label(arguments: list[str]) -> int:
    """The exit code of `label`."""
    own, for_fit = _split(arguments)
    args = _parser().parse_args(own)
    if args.serve:
        for library in ("starlette", "uvicorn", "httptools", "prometheus_client"):
            require_package(library, "serve")
        if for_fit:
            raise UserError("got --serve and settings of fit after --; run fit on the labels afterwards.")
    elif given := [name for name in ADDRESS if getattr(args, name) != _parser().get_default(name)]:
        raise UserError(f"--{given[0].replace('_', '-')} is for the page; give --serve, or leave it out.")
    from lit_bert.cli.start import prepare_process

    prepare_process()
    if for_fit:
        _check_settings(for_fit)
    session, output = _opened(args)
    session.start()
    try:
        wants_fit = _serve(args, session) if args.serve else _in_terminal(session)
    finally:
        session.stop()
    try:
        count = session.write(output)
    except OSError as error:
        raise UserError(
            f"cannot write {line(output)}: {error.strerror}. The answers are kept in "
            f"{line(session.store.path)}; run again with another --output."
        ) from None
    print(f"{counted(count, 'labelled text')} in {line(output)}")
    if not count:
        print("there is nothing to fit yet; run the same again to go on")
        return 0
    if not (wants_fit or for_fit):
        print(f"next: python -m lit_bert fit --data.dataset {line(shlex.quote(str(output)))}")
        return 0
    from lit_bert.verbs.fit import fit

    return fit(["--data.dataset", str(output), *for_fit])


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of this verb, and those after `--`, which are for fit."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _check_settings(for_fit: list[str]) -> None:
    """Has the parser of fit look at its settings before anybody labels a text.

    Raises:
        UserError: it refuses them, or they name other rows.
    """
    from lit_bert.cli.arguments import checked_configs
    from lit_bert.verbs.fit import parsed

    if any(each.split("=")[0] in ("--data.dataset", "--data") for each in for_fit):
        raise UserError("got --data.dataset after --; fit takes the labels of this pool. Leave it out.")
    parsed(checked_configs(for_fit))


def _in_terminal(session: Session) -> bool:
    from lit_bert.labelling.terminal import key_source, label_in_terminal

    # Ended in order by SIGTERM, too, so that the text that is shown is free for others at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return label_in_terminal(session, f"terminal-{uuid.uuid4().hex}", key_source(), sys.stdout)


def _serve(args: argparse.Namespace, session: Session) -> bool:
    from lit_bert.labelling.web import LIMITS, create_app
    from lit_bert.product.server import announce_address, run_server, server_of

    access, listener = access_of(args), listen(args.host, args.port)
    what = f"{line(session.pool.path)} to label"
    app = create_app(session, access, lambda: announce_address(what, access, listener))
    run_server(server_of(app, LIMITS.seconds), listener)
    return False


# --- what is opened


def _opened(args: argparse.Namespace) -> tuple[Session, Path]:
    """The session, and the file that the labelled texts are written to."""
    from lit_bert.cli.parser import read_value
    from lit_bert.data.labels import parse_class_names
    from lit_bert.data.readers.options import ReadOptions
    from lit_bert.labelling.pool import classes_of, read_pool, texts_sha256
    from lit_bert.labelling.session import Session
    from lit_bert.labelling.store import Store, stored_facts

    settings: dict[str, Any] = {name: getattr(args, f"data.{name}") for name in READING}
    if settings["header"] is not None:
        settings["header"] = read_value(settings["header"])
        if not isinstance(settings["header"], bool):
            raise UserError("--data.header is neither true nor false; expected one of them.")
    given = {name: value for name, value in settings.items() if value is not None}
    named = {name: getattr(args, f"data.{name}") for name in ("text_column", "label_column")}
    columns = tuple((name, value) for name, value in named.items() if value is not None)
    pool = read_pool(args.pool, ReadOptions(**given, columns=columns), *named.values())
    answers = args.labels or args.pool.with_name(f"{_stem(args.pool)}.labels.sqlite")
    output = args.output or args.pool.with_name(f"{_stem(args.pool)}.labels.jsonl")
    for one, other in ((output, args.pool), (answers, args.pool), (answers, output)):
        if one.resolve() == other.resolve():
            raise UserError(
                f"{line(one)} would be written over; name another file with --labels or --output."
            )
    if not os.access(output.parent, os.W_OK) or output.is_dir():
        raise UserError(f"{line(output)} cannot be written; name another file with --output.")
    known = stored_facts(answers).get("classes") if answers.is_file() else None
    names = getattr(args, "data.label_names")
    classes = classes_of(pool, parse_class_names(names) if names is not None else known)
    store = Store(answers, {"pool": pool.sha256, "texts": texts_sha256(pool.texts), "classes": classes})
    _say(pool, answers)
    return Session(pool, classes, store, _features(args, pool), SEED), output


def _stem(path: Path) -> str:
    """The name of a file without its ending, such as .csv or .csv.gz."""
    from lit_bert.data.readers.text import COMPRESSED

    return Path(path.stem).stem if path.suffix in COMPRESSED else path.stem


def _say(pool: Pool, answers: Path) -> None:
    known = sum(name is not None for name in pool.labels)
    left_out = f"; {pool.left_out:,} rows without a text or with one that came before" * bool(pool.left_out)
    log.info(
        f"pool       {line(pool.path)}: {len(pool.texts):,} different texts of the column "
        f"{line(pool.column, 40)}, {known:,} with a label{left_out}"
    )
    log.info(f"answers    {line(answers)}, after each key")


def _features(args: argparse.Namespace, pool: Pool) -> Any:
    """Embeddings of the texts, float32 (N, F)."""
    import torch

    from lit_bert.cli.lightning import native_precision
    from lit_bert.labelling.embed import Embedder
    from lit_bert.sources.weights import Weights

    pretrained = getattr(args, "weights.pretrained")
    weights = Weights(pretrained, stand_in=None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    embedder = Embedder(
        weights,
        getattr(args, "data.max_length"),
        native_precision("cuda" if device == "cuda" else "cpu"),
        device,
    )
    log.info(f"weights    {line(weights.source.name)}, frozen")
    return embedder.cached(pool.texts)


# --- flags


def _parser() -> Parser:
    parser = Parser(
        "python -m lit_bert label",
        description="Choose the texts of a file that are worth most to a classifier, ask people for their "
        "class, one key each, and keep each answer at once. One text in five is drawn at random, which gives "
        "an honest score. Run it again to go on, also several at once. What stands after -- is for fit, "
        "which then runs at the end.",
        usage="python -m lit_bert label POOL [OPTIONS] [-- SETTINGS OF FIT]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "pool", type=Path, help="file of texts, of any form that fit reads; labels may be in it"
    )
    parser.add_argument(
        "--data.label_names", metavar="A,B,C", help="the classes; default: those in the file, or of last time"
    )
    for name in ("text_column", "label_column", *READING):
        parser.add_argument(f"--data.{name}", metavar="VALUE", help="as for fit; default: found in the file")
    parser.add_argument(
        "--data.max_length", type=_tokens, default=128, help="tokens of a text that are read (%(default)s)"
    )
    parser.add_argument(
        "--weights.pretrained",
        default=MINILM,
        metavar="NAME",
        help="encoder that compares texts, as for fit (%(default)s)",
    )
    parser.add_argument(
        "--labels", type=Path, help="SQLite file of the answers; default: beside the pool, NAME.labels.sqlite"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON Lines file for fit, written at the end; default: beside the pool, NAME.labels.jsonl",
    )
    parser.add_argument("--serve", action="store_true", help="a page instead of the terminal")
    add_address(parser)
    return parser


def _tokens(value: str) -> int:
    if not value.isdecimal() or not 3 <= int(value) <= 100_000:
        raise argparse.ArgumentTypeError(f"got '{line(value, 60)}'; expected a number of tokens, 3 or more")
    return int(value)


PARSERS = {"label": _parser}
