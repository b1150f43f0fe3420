from __future__ import annotations

import pytest

from unstale import Cache
from unstale.engines.connect import open_engine
from unstale.engines.postgres_url import OPTIONS, parse_url
from unstale.errors import EngineUrlError


def test_a_url_names_servers_database_and_options() -> None:
    """All parts of a URL are read, and percent-encoding undone."""
    url = parse_url("postgresql://us%40er:p%2Fw@[::1]:5433,other/shop?schema=cache&unlogged=no&timeout=250ms")
    assert (url.hosts, url.ports) == (("::1", "other"), ("5433", ""))
    assert (url.user, url.password, url.database, url.schema) == ("us@er", "p/w", "shop", "cache")
    assert (url.unlogged, url.timeout_s) == (False, 0.25)
    assert url.place == "::1:5433,other/shop"


def test_what_is_left_out_is_libpqs() -> None:
    """User, port and database may be left out, and a folder of sockets may stand for the host."""
    url = parse_url("postgres:///shop?host=/run/postgresql&sslmode=require")
    assert (url.hosts, url.schema, url.unlogged) == ((), "unstale", True)
    (conninfo,) = url.conninfos
    assert "host=/run/postgresql" in conninfo
    assert "sslmode=require" in conninfo
    assert "user=" not in conninfo.replace("tcp_user", "")


def test_of_several_servers_the_one_that_takes_writes_is_asked_for() -> None:
    """Of several servers each is tried by itself for one that takes writes; one alone tells by its answers."""
    several = parse_url("postgresql://a,b:5433/shop").conninfos
    assert all("target_session_attrs=read-write" in conninfo for conninfo in several)
    assert ["host=a" in conninfo for conninfo in several] == ["port=5433" not in conninfo for conninfo in several]
    (alone,) = parse_url("postgresql://a/shop").conninfos
    assert "target_session_attrs=any" in alone


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://", "names no server"),
        ("postgresql://host/a/b", "no database"),
        ("postgresql://host/shop?ttl=5", f"the options are: {OPTIONS}"),
        ("postgresql://host/shop?schema=a.b", "no plain name"),
        ("postgresql://host/shop?unlogged=maybe", "neither yes nor no"),
        ("postgresql://host/shop?timeout=0s", "leaves no time"),
        ("postgresql://host/shop?timeout=soon", "soon"),
        ("postgresql://host/shop?host=other", "twice"),
        ("postgresql://host:0/shop", "no port"),
        ("postgresql://:5432/shop", "names no host"),
        ("postgresql://host/shop?schema", "cannot be read"),
        ("mysql://host", "there is no engine"),
    ],
)
def test_what_cannot_be_is_refused(url: str, said: str) -> None:
    """A URL that names nothing, or an option that there is not, is refused with what to write instead."""
    with pytest.raises(ValueError, match="hint") as caught:
        parse_url(url)
    assert said in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://me:secret@[host/shop", "postgresql://me:secret@host/shop?ttl=5"])
def test_h29_passwords_are_not_told(url: str) -> None:
    """Neither an error nor the text of a URL that was read tells a password."""
    with pytest.raises(EngineUrlError) as caught:
        parse_url(url)
    assert "secret" not in f"{caught.value}{caught.value.fields}"
    read = parse_url("postgresql://me:secret@host/shop")
    assert "secret" not in f"{read!r}{read.place}"


def test_the_scheme_leads_to_the_engine() -> None:
    """Both spellings of the scheme open the engine, which asks nothing yet; secrets are refused."""
    for scheme in ("postgresql", "postgres"):
        engine = open_engine(f"{scheme}://host/shop", "shop", 60.0, ())
        assert engine.guarantees.name == "postgres"
        engine.close()
    with pytest.raises(EngineUrlError, match="signs nothing"):
        Cache("postgresql://host/shop", secret="x" * 32)
