"""How the fake servers of the tests run: on a free port of this machine, in a thread, until the test is through with them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, TypeVar


class HasAddress(Protocol):
    address: str


F = TypeVar("F", bound=HasAddress)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], fake: F) -> Iterator[F]:
    """`fake` while `handler`, whose `fake` it is, answers for it; `fake.address` is its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"fake": fake}))
    fake.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
