from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response

import unstale
from tests.support.lagging import Shop, shops
from unstale import Cache
from unstale.core.context import surroundings
from unstale.errors import UsageError
from unstale.flask import Unstale


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give two nodes, of which one is late."""
    with shops(tmp_path) as one:
        yield one
    assert surroundings.get() is None  # no request leaves its session to the thread


def site(shop: Shop, **how: Any) -> Flask:
    """Give an application that writes by one node and reads by the other, as if a load balancer stood before two."""
    app = Flask(__name__)
    extension = Unstale(app, shop.late, **how)

    @app.get("/price")
    def price() -> str:
        return str(shop.read(17))

    @app.put("/price/<int:price>")
    def change(price: int) -> str:
        shop.write(price)
        return str(shop.read(17))

    @app.put("/untouched/<int:price>")
    def change_only(price: int) -> str:
        shop.write(price)
        return ""

    @app.put("/broken/<int:price>")
    def broken(price: int) -> str:
        shop.write(price)
        raise LookupError

    @app.get("/streamed")
    def stream() -> Response:
        return Response(str(shop.read(17)) for _ in range(2))

    @app.get("/known")
    def known() -> dict[str, Any]:
        return {"cache": extension.cache.name, "token": extension.session.token}

    return app


@pytest.mark.parametrize("carried", ["cookie", "header", "nothing"])
def test_h05_a_client_reads_its_own_write_on_a_late_node(shop: Shop, carried: str) -> None:
    """By the cookie or by the header a client sees what it wrote; without either it does not."""
    client = site(shop).test_client(use_cookies=carried == "cookie")
    assert client.get("/price").text == "1"
    written = client.put("/untouched/2")
    headers = {"unstale-ticket": written.headers["unstale-ticket"]} if carried == "header" else {}
    answer = client.get("/price", headers=headers)
    assert answer.text == ("1" if carried == "nothing" else "2")
    assert "unstale-ticket" not in answer.headers
    assert "set-cookie" not in answer.headers


def test_h05_a_request_reads_its_own_write(shop: Shop) -> None:
    """What a request has published, its own reads show."""
    client = site(shop).test_client()
    client.get("/price")
    assert client.put("/price/2").text == "2"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_closed_to_scripts(shop: Shop, scheme: str) -> None:
    """It is sent by HTTPS only if it came so, and never told to scripts."""
    written = site(shop).test_client().put("/price/2", base_url=f"{scheme}://shop.test")
    flags = written.headers["set-cookie"].split("; ")[2:]
    assert flags == ["Path=/", "HttpOnly", "SameSite=Lax", *(["Secure"] if scheme == "https" else [])]


def test_a_request_that_fails_after_its_write(shop: Shop) -> None:
    """The write has come about: the error's page carries the ticket, and the thread is left as it was."""
    client = site(shop).test_client()
    client.get("/price")
    assert client.put("/broken/2").status_code == 500
    assert surroundings.get() is None
    assert client.get("/price").text == "2"


def test_a_request_that_raises_through_the_server(shop: Shop) -> None:
    """Where errors are not handled, as in tests, the session ends all the same."""
    app = site(shop)
    app.testing = True
    with pytest.raises(LookupError):
        app.test_client().put("/broken/2")
    assert surroundings.get() is None


def test_what_runs_before_requests_is_within_the_session(shop: Shop) -> None:
    """A function that was registered before the extension writes and answers in place of the view: it is carried."""
    app = Flask(__name__)

    @app.before_request
    def answer() -> str:
        shop.write(2)
        return "answered"

    Unstale().init_app(app)
    assert "unstale-ticket" in app.test_client().get("/").headers
    assert surroundings.get() is None


def test_a_request_whose_session_never_began(shop: Shop) -> None:
    """If something raises before the session begins, nothing is carried, and nothing breaks."""
    app = Flask(__name__)
    Unstale(app)

    def fail() -> None:
        shop.write(2)
        raise LookupError

    app.before_request_funcs[None].insert(0, fail)
    answer = app.test_client().get("/")
    assert answer.status_code == 500
    assert "unstale-ticket" not in answer.headers


def test_a_streamed_body_is_read_after_the_session(shop: Shop) -> None:
    """What is read while the body is sent is read without the ticket: the request is over by then."""
    client = site(shop).test_client()
    client.get("/price")
    client.put("/untouched/2")
    assert client.get("/streamed").text == "11"
    assert client.get("/price").text == "2"


def test_h24_requests_do_not_share_a_session(shop: Shop) -> None:
    """A thread serves one client after another: the second gets nothing of the first."""
    app = site(shop)
    client, other = app.test_client(), app.test_client()
    other.get("/price")
    client.put("/untouched/2")
    answer = other.get("/price")
    assert (answer.text, answer.headers.get("set-cookie")) == ("1", None)


def test_the_extension_knows_its_cache_and_session(shop: Shop) -> None:
    """Within a request the extension gives the application's cache and the request's session."""
    with unstale.session() as session:
        shop.writer.invalidate("other")
    client = site(shop).test_client()
    answer = client.get("/known", headers={"unstale-ticket": session.token})
    assert answer.json == {"cache": "shop", "token": session.token}
    assert client.get("/known").json == {"cache": "shop", "token": ""}


def test_what_is_missing_is_said() -> None:
    """An application without cache, session or extension, or with two, is told what to write."""
    app, extension = Flask(__name__), Unstale()
    with app.app_context(), pytest.raises(UsageError, match="no session"):
        _ = extension.session
    with app.app_context(), pytest.raises(UsageError, match="no cache"):
        _ = extension.cache
    with Cache() as cache, pytest.raises(UsageError, match="without an application"):
        Unstale(cache=cache)
    extension.init_app(app)
    with pytest.raises(UsageError, match="has the extension"):
        Unstale(app)
