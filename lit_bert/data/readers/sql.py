"""Rows of a database, by SQLAlchemy: read only, a part at a time.

python -m lit_bert fit --data.dataset sqlite:///reviews.db --data.query 'SELECT text, label FROM reviews'

A password is never part of an address, which runs, checkpoints and cards keep: it comes from
$LIT_BERT_SQL_PASSWORD, or from where the database's own client finds it (PostgreSQL: $PGPASSWORD, ~/.pgpass).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lit_bert import UserError, require_package
from lit_bert.data.cells import Numbered, refuse_repeated_columns
from lit_bert.data.readers.options import ReadOptions
from lit_bert.io import escape

PASSWORD = "LIT_BERT_SQL_PASSWORD"
DIALECT = re.compile(
    r"(sqlite|postgresql|postgres|mysql|mariadb|mssql|oracle|duckdb|snowflake|bigquery)(\+\w+)?://"
)
ROWS = 1024  # fetched at a time
DRIVERS = {"postgresql": "psycopg"}  # taken where an address names none


def is_database(place: object) -> bool:
    return DIALECT.match(str(place)) is not None


def read_query(address: str, options: ReadOptions) -> Iterator[Numbered]:
    """The rows that the query gives.

    Raises:
        UserError: there is no such database, it refuses the query, or it goes away.
    """
    with _result(address, options) as result:
        names = list(result.keys())
        for number, row in enumerate(result, 1):
            yield Numbered(number, 0, dict(zip(names, map(_plain, row), strict=True)))


def query_columns(address: str, options: ReadOptions) -> list[str]:
    """The columns that the query gives, in order."""
    with _result(address, options) as result:
        return list(result.keys())


def query_fingerprint(address: str, options: ReadOptions) -> str:
    """Changes with the rows that the query gives, and with their order."""
    digest = hashlib.sha256()
    for numbered in read_query(address, options):
        digest.update(row_bytes(numbered))
    return f"sql:{digest.hexdigest()}"


def row_bytes(numbered: Numbered) -> bytes:
    """The row for a digest."""
    return repr(list(numbered.row.items())).encode(errors="surrogatepass")  # type: ignore[union-attr]


def _plain(value: Any) -> Any:
    """A value of a driver as one of those that other forms have."""
    return bytes(value) if isinstance(value, memoryview) else value


def url_of(address: str) -> Any:
    """The address as SQLAlchemy has it, with the password of the environment.

    Raises:
        UserError: it is no address, holds a password, or names a file that is not there.
    """
    require_package("sqlalchemy", "files")
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        shown = escape.line(re.sub(r"(?<=://).*@", "…@", address), 200)
        raise UserError(
            f"{shown} is no address of a database; expected one such as sqlite:///file.db or "
            "postgresql://user@host/name."
        ) from None
    name = url.get_backend_name()
    if url.password is not None or any("pass" in key.lower() for key in url.query):
        raise UserError(
            f"the address of the {name} database on {url.host} holds a password, which runs and checkpoints "
            f"would keep. Leave it out, and set the environment variable {PASSWORD}"
            + (" or PGPASSWORD, or write it into ~/.pgpass." if name == "postgresql" else ".")
        )
    if name == "sqlite":
        if not url.database or not os.path.isfile(url.database):
            raise UserError(
                f"no file {escape.line(url.database or 'in the address', 200)} with an SQLite database. "
                "Check the path; an absolute one has four slashes, as in sqlite:////home/me/file.db."
            )
        # By SQLite's own kind of address, which alone can say that nothing is to be written.
        path = Path(url.database).resolve().as_uri().removeprefix("file://")
        return url.set(database=f"file:{path}", query={"mode": "ro", "uri": "true"})
    if name in DRIVERS and "+" not in url.drivername:
        require_package(DRIVERS[name], "files")
        url = url.set(drivername=f"{name}+{DRIVERS[name]}")
    return url.set(password=os.environ[PASSWORD]) if os.environ.get(PASSWORD) else url


@contextlib.contextmanager
def _result(address: str, options: ReadOptions) -> Iterator[Any]:
    """The result of the query, which is fetched as it is read."""
    url = url_of(address)
    from sqlalchemy import create_engine, exc, text
    from sqlalchemy.pool import NullPool

    shown = escape.line(address, 200)
    if not options.query:
        raise UserError(
            f"{shown} is a database; expected a query that gives a text and a label a row. Give it with "
            '--data.query, as in --data.query "SELECT text, label FROM reviews ORDER BY id".'
        )
    settings: dict[str, Any] = {"stream_results": True, "yield_per": ROWS}
    if url.get_backend_name() == "postgresql":
        settings["postgresql_readonly"] = True
    try:
        engine = create_engine(url, poolclass=NullPool)
    except (exc.SQLAlchemyError, ImportError) as error:
        raise UserError(
            f"{shown} cannot be opened: {escape.line(escape.first_line(error))}. Install the driver of that "
            "database."
        ) from None
    try:
        with engine.connect().execution_options(**settings) as connection:
            query = options.query.replace(":", r"\:")  # no place for a parameter
            result = connection.execute(text(query))
            if not result.returns_rows:
                raise UserError(
                    f"--data.query gives no rows; expected a SELECT, got '{escape.line(options.query, 100)}'."
                )
            refuse_repeated_columns(list(result.keys()), Path("the result of --data.query"))
            yield result
    except exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise UserError(
            f"{shown} gives no rows: {escape.line(escape.first_line(cause))}. Check the address, the query "
            f"and the password (${PASSWORD}), and that the database is running."
        ) from None
    except OSError as error:
        raise UserError(f"{shown} went away: {error.strerror or error}. Run again.") from None
    finally:
        engine.dispose()


def stored_address(address: str) -> str:
    """The address that finds the same database from any working directory."""
    if address.startswith("sqlite"):
        path = url_of(address).database.removeprefix("file:")
        return f"sqlite:///{unquote(path)}"
    return address
