"""A server for the tests of the load benchmark: it answers as each text tells it to.

python tests/answers.py --port 8000
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers(BaseHTTPRequestHandler):
    """`stall` takes half a second, `hang up` gets no answer, a number is the status.

    `moody` has another label in a list.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers to one text or a list."""
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        if text == "stall":
            time.sleep(0.5)
        if text == "hang up":
            self.close_connection = True
            return
        status, answer = 200, one("one", text)
        if isinstance(text, list):
            answer = {"predictions": [one("many", each) for each in text]}
        elif text.isdecimal():
            status = int(text)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def one(count: str, text: Any) -> dict[str, Any]:
    """A prediction."""
    return {"label": count if text == "moody" else "calm", "probabilities": {"calm": 0.5}}


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Answers).serve_forever()
