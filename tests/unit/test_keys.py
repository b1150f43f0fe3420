"""Key templates: what is refused, how calls are bound, and which names may be given by hand."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.core.keys import KEY_BYTES_MAX, Template, check_key, check_scope, escape, namespace_of
from unstale.errors import KeyArgumentError, KeyTemplateError, ScopeError


class Plain:
    """Functions of all kinds of arguments."""

    @staticmethod
    def product(product_id: int, lang: str = "en") -> None: ...
    @staticmethod
    def listing(product_id: int, *tags: str, page: int = 1, db: object = None) -> None: ...
    @staticmethod
    def search(text: str, **filters: str) -> None: ...
    @staticmethod
    def keyword(tenant: str, *, page: int) -> None: ...
    @staticmethod
    def positional(tenant: str, /, page: int = 1) -> None: ...
    @staticmethod
    def settings() -> None: ...
    @staticmethod
    def pair(x: str, y: str) -> None: ...
    @staticmethod
    def text(x: str) -> None: ...
    @staticmethod
    def number(x: int) -> None: ...


class Shop:
    """Functions with an object before their arguments."""

    def product(self, product_id: int) -> None: ...
    def make(cls, product_id: int) -> None: ...  # noqa: N805  # what a classmethod looks like inside
    def other(this, product_id: int) -> None: ...  # noqa: N805


def compiled(text: Any, function: Callable[..., object], **options: Any) -> Template:
    """Compile a template as a decorator would."""
    return Template.compile(text, inspect.signature(function), typing.get_type_hints(function), **options)


@pytest.mark.parametrize(
    ("text", "function", "options", "problem", "hint"),
    [
        ("product:{product_id}", Plain.product, {}, "leaves out 'lang'", "ignore=['lang']"),
        ("product:{product_id}:{lang}:{x}", Plain.product, {}, "names 'x'", "product_id, lang"),
        ("product:{product_id}", Plain.product, {"ignore": ["product_id", "lang"]}, "an ignored one", "none"),
        ("product:{product_id}:{lang}", Plain.product, {"ignore": ["size"]}, "'size'", "product_id, lang"),
        ("product:{product_id}", Plain.product, {"ignore": "lang"}, "takes a list", "ignore=['lang']"),
        ("search:{text}", Plain.search, {}, "**filters", "ignore=['filters']"),
        ("search:{text}:{filters}", Plain.search, {"require_all": False}, "**filters", "one by one"),
        ("shop:{self}:{product_id}", Shop.product, {}, "names 'self'", "product_id"),
        ("shop:{product_id}", Shop.other, {}, "leaves out 'this'", "{this}"),
        ("shop:{product_id}", lambda product_id, self: None, {}, "leaves out 'self'", "{self}"),
        (
            "shop:{product_id}:{self}",
            lambda product_id, self: None,
            {"ignore": ["self"]},
            "an ignored one",
            "product_id",
        ),
        ("{product_id}:{lang}", Plain.product, {}, "does not begin with a namespace", "product:{product_id}"),
        (":{product_id}:{lang}", Plain.product, {}, "does not begin with a namespace", "product:{product_id}"),
        ("{product_id}:{lang}", Plain.product, {"namespace": "p"}, "does not begin", "product:{product_id}"),
        ("", Plain.settings, {}, "does not begin", "product:{product_id}"),
        (":x", Plain.settings, {}, "does not begin", "product:{product_id}"),
        ("pair:{x}{y}", Plain.pair, {}, "nothing tells the end of 'x'", "{x}:{y}"),
        ("pair:{x}-{y}", Plain.pair, {}, "nothing tells", "{x}:{y}"),
        ("pair:{x}.and.{y}", Plain.pair, {}, "nothing tells", "{x}:{y}"),
        ("pair:{x}é{y}", Plain.pair, {}, "nothing tells", "{x}:{y}"),
        ("pair:{x},{y}", Plain.pair, {}, "nothing tells", "{x}:{y}"),
        ("pair:{x})({y}", Plain.pair, {}, "nothing tells", "{x}:{y}"),
        ("product:{}", Plain.product, {}, "{} in", "plain name"),
        ("product:{0}", Plain.product, {}, "{0} in", "plain name"),
        ("product:{product_id!r}", Plain.product, {}, "is no name", "plain name"),
        ("product:{product_id:>4}", Plain.product, {}, "is no name", "plain name"),
        ("product:{product_id.x}", Plain.product, {}, "is no name", "plain name"),
        ("product:{ product_id }", Plain.product, {}, "is no name", "plain name"),
        ("product:{{product_id}}", Plain.product, {}, "'{' cannot stand", "separators"),
        ("product:{product_id", Plain.product, {}, "'{' cannot stand", "separators"),
        ("product:product_id}", Plain.product, {}, "'}' cannot stand", "separators"),
        ("a product:{product_id}", Plain.product, {}, "' ' cannot stand", "separators"),
        ("product\n:{product_id}", Plain.product, {}, "cannot stand", "separators"),
        ("product\x7f:{product_id}", Plain.product, {}, "cannot stand", "separators"),
        ("product\ud800:{product_id}", Plain.product, {}, "cannot stand", "separators"),
        ("product%3A:{product_id}", Plain.product, {}, "'%' cannot stand", "separators"),
        ("product!{product_id}", Plain.product, {}, "'!' cannot stand", "separators"),
        ("product:*:{product_id}", Plain.product, {}, "'*' cannot stand", "separators"),
        (17, Plain.product, {}, "not int", "product:{product_id}"),
    ],
)
def test_h29_templates_that_could_confuse_calls_are_refused(
    text: object, function: Callable[..., object], options: dict[str, Any], problem: str, hint: str
) -> None:
    """A template that leaves an argument out, or could write two calls as one key, is refused with what to write."""
    with pytest.raises(KeyTemplateError) as refusal:
        compiled(text, function, **options)
    assert problem in refusal.value.message
    assert hint in refusal.value.hint


@pytest.mark.parametrize("namespace", ["", "*", "a*", "a\nb", 17, ["a"], "x" * 1025, "\ud800"])
def test_namespaces_given_by_hand_are_checked(namespace: object) -> None:
    """A namespace that could not be invalidated is refused when the function is decorated."""
    with pytest.raises(ScopeError) as refusal:
        compiled("settings", Plain.settings, namespace=namespace)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("text", "function", "options", "namespace"),
    [
        ("product:{product_id}:{lang}", Plain.product, {}, "product"),
        ("shop/product/{product_id}:{lang}", Plain.product, {}, "shop/product"),
        ("product::v2-{product_id}:{lang}", Plain.product, {}, "product::v2"),
        ("product_{product_id}|{lang}", Plain.product, {}, "product"),
        ("продукт→{product_id}→{lang}", Plain.product, {}, "продукт"),
        ("product:{product_id}:{lang}", Plain.product, {"namespace": "shop:product"}, "shop:product"),
        ("settings", Plain.settings, {}, "settings"),
        ("config:feature-flags", Plain.settings, {}, "config"),
        ("config:eu:flags", Plain.settings, {}, "config:eu"),
        ("config:", Plain.settings, {}, "config"),
    ],
)
def test_the_namespace_is_what_stands_before_the_arguments(
    text: str, function: Callable[..., object], options: dict[str, Any], namespace: str
) -> None:
    """The namespace is the text before the first placeholder, or before the last separator if there is none."""
    template = compiled(text, function, **options)
    assert (template.text, template.namespace) == (text, namespace)


@pytest.mark.parametrize(
    ("text", "function", "options", "args", "kwargs", "key"),
    [
        ("product:{product_id}:{lang}", Plain.product, {}, (17,), {}, "product:17:en"),
        ("product:{product_id}:{lang}", Plain.product, {}, (17, "de"), {}, "product:17:de"),
        ("product:{product_id}:{lang}", Plain.product, {}, (17,), {"lang": "de"}, "product:17:de"),
        ("product:{product_id}:{lang}", Plain.product, {}, (), {"lang": "de", "product_id": 17}, "product:17:de"),
        ("product:{lang}:{product_id}:{lang}", Plain.product, {}, (17,), {}, "product:en:17:en"),
        ("product:{product_id}:x", Plain.product, {"ignore": ["lang"]}, (17, "de"), {}, "product:17:x"),
        ("l:{product_id}:{tags}:{page}", Plain.listing, {"ignore": ["db"]}, (17,), {}, "l:17:():1"),
        ("l:{product_id}:{tags}:{page}", Plain.listing, {"ignore": ["db"]}, (17, "a", "b"), {}, "l:17:(a,b):1"),
        ("l:{product_id}:{tags}:{page}", Plain.listing, {"ignore": ["db"]}, (17,), {"page": 2, "db": 1}, "l:17:():2"),
        ("l:{product_id}:{page}", Plain.listing, {"ignore": ["db", "tags"]}, (17, "a"), {"page": 2}, "l:17:2"),
        ("search:{text}", Plain.search, {"ignore": ["filters"]}, ("a b",), {}, "search:a%20b"),
        ("search:{text}", Plain.search, {"ignore": ["filters"]}, ("a",), {"size": "xl"}, "search:a"),
        ("search:{text}", Plain.search, {"require_all": False}, ("a",), {"size": "xl"}, "search:a"),
        ("catalog", Plain.product, {"require_all": False}, (17,), {}, "catalog"),
        ("k:{tenant}:{page}", Plain.keyword, {}, ("acme",), {"page": 2}, "k:acme:2"),
        ("k:{tenant}", Plain.keyword, {"ignore": ["page"]}, ("acme",), {"page": 2}, "k:acme"),
        ("p:{tenant}:{page}", Plain.positional, {}, ("acme",), {}, "p:acme:1"),
        ("shop:{product_id}", Shop.product, {}, (Shop(), 17), {}, "shop:17"),
        ("shop:{product_id}", Shop.product, {"ignore": ["self"]}, (Shop(), 17), {}, "shop:17"),
        ("shop:{product_id}", Shop.make, {}, (Shop,), {"product_id": 17}, "shop:17"),
        ("settings", Plain.settings, {}, (), {}, "settings"),
    ],
)
def test_calls_are_bound(  # noqa: PLR0917  # one for each column of the table
    text: str,
    function: Callable[..., object],
    options: dict[str, Any],
    args: tuple[object, ...],
    kwargs: dict[str, object],
    key: str,
) -> None:
    """A call has the same key however its arguments are passed, and so has the binding that Python makes of it."""
    template = compiled(text, function, **options)
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    assert template.bind(args, kwargs) == template.render(bound.arguments) == key


@pytest.mark.parametrize(
    ("text", "function", "args", "kwargs"),
    [
        ("product:{product_id}:{lang}", Plain.product, (), {}),
        ("product:{product_id}:{lang}", Plain.product, (17, "en", "more"), {}),
        ("product:{product_id}:{lang}", Plain.product, (17,), {"more": 1}),
        ("product:{product_id}:{lang}", Plain.product, (17,), {"product_id": 17}),
        ("k:{tenant}:{page}", Plain.keyword, ("acme",), {}),
        ("k:{tenant}:{page}", Plain.keyword, ("acme", 2), {}),
        ("p:{tenant}:{page}", Plain.positional, (), {"tenant": "acme"}),
    ],
)
def test_a_wrong_call_is_a_type_error(
    text: str, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """A call that Python would refuse is refused with Python's own error."""
    with pytest.raises(TypeError) as refusal:
        compiled(text, function).bind(args, kwargs)
    assert type(refusal.value) is TypeError


def test_refused_arguments_are_named() -> None:
    """An argument that cannot be part of a key is named, with the template, and may be replaced or ignored."""
    with pytest.raises(KeyArgumentError) as refusal:
        compiled("product:{product_id}:{lang}", Plain.product).bind((17, {}), {})
    assert refusal.value.fields == {"template": "product:{product_id}:{lang}", "argument": "lang"}
    assert "ignore=['lang']" in refusal.value.hint


@pytest.mark.parametrize("letter", ["a", "é", "中", "\U0001d4b3", " "])
def test_h29_keys_are_bounded_in_bytes(letter: str) -> None:
    """A key holds 1024 bytes of UTF-8, escapes included, and not one more."""
    template = compiled("k:{x}:{y}", Plain.pair)
    fit, rest = divmod(KEY_BYTES_MAX - len("k::"), len(escape(letter).encode()))
    assert len(template.bind((letter * fit, "-" * rest), {}).encode()) == KEY_BYTES_MAX
    with pytest.raises(KeyArgumentError, match="too long"):
        template.bind((letter * fit, "-" * (rest + 1)), {})


class Tag(StrEnum):
    CATALOG = "catalog"


@pytest.mark.parametrize("name", ["product", "product:17", "a b", "tenant:Zoë", "x" * 1024, "é" * 512, Tag.CATALOG])
def test_names_are_accepted(name: str) -> None:
    """A scope or key is any text within the bounds, and comes out as a plain str."""
    assert check_scope(name) == check_key(name) == name
    assert type(check_scope(name)) is type(check_key(name)) is str


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("", "empty", "product:17"),
        ("x" * 1025, "longer than 1024 bytes", "hash"),
        ("é" * 513, "longer than 1024 bytes", "hash"),
        ("product:*", "holds a *", "a namespace"),
        ("**", "holds a *", "a namespace"),
        ("a\nb", "control character", "escape"),
        ("a\x85b", "control character", "escape"),
        ("\udc80", "lone surrogate", "escape"),
        (17, "not int", "product:17"),
        (None, "not NoneType", "product:17"),
        (b"product:17", "not bytes", "product:17"),
    ],
)
def test_h29_other_names_are_refused(name: object, problem: str, hint: str) -> None:
    """What could be no scope is refused, as a scope and as a key, with what to write instead."""
    for check in (check_scope, check_key):
        with pytest.raises(ScopeError) as refusal:
            check(name)
        assert problem in refusal.value.message
        assert hint in refusal.value.hint
        assert refusal.value.fields["value"] is name


@pytest.mark.parametrize("names", [["a"], ("a",), {"a"}, {"a": 1}, iter("a")], ids=lambda names: type(names).__name__)
def test_several_names_are_passed_one_by_one(names: object) -> None:
    """A list of scopes, the commonest mistake, is answered with the call that works."""
    with pytest.raises(ScopeError) as refusal:
        check_scope(names)
    assert "invalidate(*scopes)" in refusal.value.hint


def test_everything_is_a_scope_and_no_key() -> None:
    """The asterisk alone names everything, so that it can be invalidated, but not stored under."""
    assert check_scope("*") == "*"
    with pytest.raises(ScopeError):
        check_key("*")


def test_keys_given_by_hand_have_a_namespace() -> None:
    """A key's namespace is its text before the first colon, and is never empty."""
    assert [namespace_of(key) for key in ("product:17", "product", "a:b:c")] == ["product", "product", "a"]
    with pytest.raises(ScopeError, match="no namespace"):
        check_key(":17")


@given(st.text(max_size=300))
def test_h29_keys_from_templates_are_fit_to_be_given_by_hand(text: str) -> None:
    """Whatever the argument, the key of a template is a key and a scope that may be given by hand."""
    key = compiled("k:{x}:{y}", Plain.pair).bind((text[:80], "é"), {})
    assert check_key(key) == check_scope(key) == key
    assert namespace_of(key) == "k"


@pytest.mark.parametrize(
    ("one", "function", "other", "another", "meet"),
    [
        ("user:{x}", Plain.text, "user:{x}", Plain.text, True),
        ("user:{x}", Plain.text, "user:{x}", Plain.number, True),
        ("user:{x}", Plain.text, "user:me", Plain.settings, True),
        ("user:{x}", Plain.number, "user:17", Plain.settings, True),
        ("user:{x}", Plain.number, "user:-17", Plain.settings, True),
        ("user:{x}", Plain.number, "user:me", Plain.settings, False),
        ("user:{x}", Plain.text, "user:", Plain.settings, True),
        ("user:{x}", Plain.text, "user:me:all", Plain.settings, False),
        ("user:{x}", Plain.text, "user/{x}", Plain.text, False),
        ("user:{x}", Plain.text, "users:{x}", Plain.text, False),
        ("user:{x}:a", Plain.text, "user:{x}:b", Plain.text, False),
        ("user:a-{x}", Plain.text, "user:{x}-b", Plain.text, True),
        ("user:a-{x}", Plain.text, "user:b-{x}", Plain.text, False),
        ("user:{x}-a", Plain.text, "user:{x}-b", Plain.text, False),
        ("user:{x}-b-a", Plain.text, "user:{x}-a", Plain.text, True),
        ("user:a-{x}-z", Plain.text, "user:a-z", Plain.settings, False),
        ("user:a-{x}-z", Plain.text, "user:a--z", Plain.settings, True),
        ("user:aba{x}aba", Plain.text, "user:aba", Plain.settings, False),
        ("user:v{x}", Plain.number, "user:v17", Plain.settings, True),
        ("user:v{x}", Plain.number, "user:vx", Plain.settings, False),
        ("user:{product_id}:{lang}", Plain.product, "user:17:en", Plain.settings, True),
        ("user:{product_id}:{lang}", Plain.product, "user:me:en", Plain.settings, False),
        ("me", Plain.settings, "me", Plain.settings, True),
        ("me", Plain.settings, "you", Plain.settings, False),
    ],
)
def test_templates_meet(
    one: str, function: Callable[..., object], other: str, another: Callable[..., object], meet: object
) -> None:
    """Two templates meet, either way round, if and only if they could write one key."""
    sides = compiled(one, function), compiled(other, another)
    assert (sides[0].meets(sides[1]), sides[1].meets(sides[0])) == (meet, meet)


@given(st.text("ab:-1", max_size=4), st.text("ab:-1", max_size=4), st.text("ab-1", max_size=4), st.integers(-20, 20))
def test_templates_that_share_a_key_meet(head: str, tail: str, text: str, number: int) -> None:
    """Whatever stands around its argument: a template meets each of its own keys, taken as a template."""
    for function, argument in ((Plain.text, text), (Plain.number, number)):
        template = compiled(f"n:{head}{{x}}{tail}", function)
        assert template.meets(compiled(template.bind((argument,), {}), Plain.settings))
