"""Plans: all that is known of a cached function from the moment it is decorated, and what is refused at that moment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from unstale.core.about import describe
from unstale.core.codec import Codec, codec_for
from unstale.core.keys import Template
from unstale.core.policy import Consistency, Policy
from unstale.core.replicas import check_colour
from unstale.core.served import Want, stored_key
from unstale.errors import KeyTemplateError, UsageError, ValueTypeError

if TYPE_CHECKING:
    from unstale.cache import Cache
    from unstale.core.table import Cell

MISSING: Any = object()  # in place of the argument of a call without any
BY_POSITION = frozenset({inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})

# Arguments by which a resident entry may be found without rendering its key. For these, equal and of the same type
# means the same key; 0.0 and -0.0, or an enum's member and its value, show why that cannot be said of all types.
PLAIN = frozenset({int, str, bytes, bool, type(None)})


class Names(NamedTuple):
    """The names that a cached function is given: templates of its key and tags, ignored arguments, its namespace.

    `shared`: it shares its entries with other functions that say the same.
    """

    key: str
    tags: tuple[str, ...]
    ignore: tuple[str, ...]
    namespace: str | None
    shared: bool


class Plan:
    """All that is known of a cached function when it is decorated.

    Attributes:
        cache: Its cache.
        function: The function itself.
        template: Its key.
        tags: Its tags' templates.
        policy: Its policy.
        codec: How its values are encoded.
        consistency: Of its reads.
        blocking: It is no coroutine function.
        takes_self: Its first argument is `self` or `cls`, which no key depends on.
        takes_class: And that is `cls`.
        sole: Its parameter, if it has a single one, which may be given by position and is not `self` or `cls`.
        bound_s: How stale its reads may be, in seconds.
        aliases: Fresh resident entries by the arguments of a call.
    """

    def __init__(  # noqa: PLR0917 - one argument an attribute
        self,
        cache: Cache,
        function: Callable[..., Any],
        template: Template,
        tags: tuple[Template, ...],
        policy: Policy,
        codec: Codec,
        consistency: Consistency,
    ) -> None:
        self.cache = cache
        self.function = function
        self.template = template
        self.tags = tags
        self.policy = policy
        self.codec = codec
        self.consistency = consistency
        self.blocking = not inspect.iscoroutinefunction(function)
        parameters = tuple(inspect.signature(function).parameters.values())
        first = parameters[0].name if parameters else ""
        self.takes_self = first in {"self", "cls"}
        self.takes_class = first == "cls"
        alone = len(parameters) == 1 and not self.takes_self and parameters[0].kind in BY_POSITION
        self.sole = parameters[0] if alone else None
        self.bound_s = cache.bound_of(policy, consistency)
        self.aliases: dict[Any, Cell] = {}
        fixed = tuple(tag.text for tag in tags) if not any("{" in tag.text for tag in tags) else None
        self._unused = dict.fromkeys(parameter.name for parameter in parameters)  # in a key, all are given, if not used
        self._stored = stored_key(codec.shape, "")
        self._scopes = None if fixed is None else tuple(dict.fromkeys((template.namespace, *fixed)))

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Give the key of a call.

        Raises:
            KeyArgumentError: An argument cannot be part of a key.
            TypeError: The function cannot be called so; the error is Python's own.
        """
        try:
            return self.template.bind(args, kwargs)
        except TypeError as error:
            raise self._uncallable(error) from None

    def _uncallable(self, error: TypeError) -> TypeError:
        return TypeError(f"{self.function.__qualname__}() {error}")

    def want(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, loads: bool = True, anew: bool = False) -> Want:
        """Give the read of a call."""
        try:
            key = self.template.bind(args, kwargs)
        except TypeError as error:
            raise self._uncallable(error) from None
        scopes = self._scopes
        if scopes is None:
            scopes = self._scopes_of(key, (tag.bind(args, kwargs) for tag in self.tags))
        elif key in scopes:
            scopes = tuple(scope for scope in scopes if scope != key)
        call = partial(self.function, *args, **kwargs) if loads else None
        return Want(  # by their places: the names of ten fields cost as much as the fields
            key, self._stored + key, scopes, self.policy, self.codec, self.bound_s, self.consistency, None, call,
            self.blocking, anew,
        )  # fmt: skip

    def want_to_write(self, named: Mapping[str, Any], codec: Codec) -> Want:
        """Give what is to be written by a call of a writer.

        Args:
            named: The arguments of that call by name, those of the key among them.
            codec: How its value is encoded: to the same bytes.

        Raises:
            KeyArgumentError: An argument cannot be part of a key.
        """
        arguments = {**self._unused, **named}
        key = self.template.render(arguments)
        return Want(
            key=key,
            stored_key=stored_key(codec.shape, key),
            scopes=self._scopes_of(key, (tag.render(arguments) for tag in self.tags)),
            policy=self.policy,
            codec=codec,
            bound_s=self.bound_s,
            blocking=self.blocking,
        )

    def _scopes_of(self, key: str, tags: Iterable[str]) -> tuple[str, ...]:
        return tuple(scope for scope in dict.fromkeys((self.template.namespace, *tags)) if scope != key)

    def name(self, cell: Cell, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the next call with these arguments find their entry without rendering its key."""
        if kwargs or self.policy.copy or self.consistency == "strong":
            return
        alias: Any
        kind: Any
        if self.takes_self:
            args = args[1:]
        if len(args) > 1 or self.takes_self:
            alias, kind = args, tuple(map(type, args))
            plain = PLAIN.issuperset(kind)
        else:
            alias = args[0] if args else MISSING
            kind = type(alias)
            plain = not args or kind in PLAIN
        if plain:
            with self.cache.node.lock:
                if not self.cache.disabled:
                    self.cache.node.table.name(cell, self.aliases, alias, kind)


# Making one ---------------------------------------------------------------------------------------------------------


def make_plan(  # noqa: PLR0917 - the parts of a plan
    cache: Cache, function: Any, names: Names, policy: Policy, codec: Codec | None, how: Consistency
) -> Plan:
    """Give the plan of a cached function, and keep its template from being another function's.

    Raises:
        UsageError: It is no plain function.
        KeyTemplateError: A template would let different calls share an entry.
        ValueTypeError: The return annotation cannot be encoded, or the codec is none.
    """
    check_function(function, "cached")
    signature = inspect.signature(function)
    hints = annotations_of(function)
    key = Template.compile(names.key, signature, hints, ignore=names.ignore, namespace=names.namespace)
    tags = tuple(Template.compile(tag, signature, hints, ignore=names.ignore, require_all=False) for tag in names.tags)
    values = codec_for(hints.get("return", Any), function.__qualname__) if codec is None else _checked_codec(codec)
    made = Plan(cache, function, key, tags, policy, values, how)
    check_colour(policy, blocking=made.blocking, name=function.__qualname__)
    cache.templates.add(key, function, shared=names.shared)
    facts = describe(policy, consistency=how, namespace=names.namespace or "", tags=names.tags)
    with cache.node.lock:  # told with the next poll: most are decorated before the first, some while the service runs
        cache.node.profile.tell(names.key, f"{function.__module__}.{function.__qualname__}", facts)
    return made


def refuse_bare(function: Any) -> None:
    """Refuse `@cache.cached` without a template.

    Raises:
        KeyTemplateError: Always.
    """
    name = getattr(function, "__name__", "name")
    places = "".join(f":{{{each}}}" for each in inspect.signature(function).parameters if each not in {"self", "cls"})
    hint = f'write @cache.cached("{name}{places}")'
    raise KeyTemplateError(f"cached was given {name} itself in place of a key's template", hint=hint)


def check_function(function: Any, what: str) -> None:
    """Refuse what is no plain function.

    Args:
        function: What was decorated.
        what: The decorator's name.

    Raises:
        UsageError: It is none.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        problem, hint = "a generator function", "return a list: what a generator yields is there only once"
    elif isinstance(function, type):
        problem, hint = "a class", "write a function that makes the object"
    elif inspect.isfunction(function):
        return
    else:
        problem, hint = f"a {type(function).__qualname__}", "write a def with named arguments that calls it"
    raise UsageError(f"{what} takes a function, not {problem}: {function!r}", hint=hint)


def _checked_codec(codec: Codec) -> Codec:
    methods = callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))
    if isinstance(codec, type) or not methods or not isinstance(getattr(codec, "shape", None), str):
        msg = f"codec= takes an object with shape, encode and decode, not {codec!r}"
        raise ValueTypeError(msg, hint="write codec=SignedPickle(secret), or leave it out")
    return codec


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Give the annotations of a function.

    Raises:
        ValueTypeError: One names what is not there.
    """
    try:
        return get_type_hints(function)
    except NameError as error:
        msg = f"an annotation of {function.__qualname__} cannot be resolved: {error}"
        raise ValueTypeError(msg, hint="import that name at run time, above the function") from error


# One cache's templates ----------------------------------------------------------------------------------------------


class Templates:
    """The templates of one cache's functions: no two functions share an entry by mistake."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[Template, Any, bool]]] = {}  # by their separators

    def add(self, template: Template, function: Any, *, shared: bool) -> None:
        """Take in the template of a function.

        Raises:
            KeyTemplateError: It could give a key of another function, and not both say that they share theirs.
        """
        function = inspect.unwrap(function)
        known = self._known.setdefault(template.separators, [])
        for other_template, other, other_shared in known:
            if (shared and other_shared) or other is function or not template.meets(other_template):
                continue
            if not _places(function) & _places(other):
                hint = "begin each template with a name of its own; if both give the same result for one key, as a "
                hint += "function and its async twin do, write shared=True for both"
                msg = f"{template.text!r} of {function.__qualname__} could give a key of {other_template.text!r} of "
                raise KeyTemplateError(f"{msg}{other.__qualname__}", hint=hint, template=template.text)
            if function.__code__ is other.__code__ and function.__closure__:
                hint = "what it takes from around it is no part of its keys: make that an argument; or write "
                hint += "shared=True, if the result does not depend on it"
                msg = f"{function.__qualname__} was made twice, and both would share the entries of {template.text!r}"
                raise KeyTemplateError(msg, hint=hint, template=template.text)
        known[:] = [one for one in known if one[0].text != template.text or not _places(one[1]) & _places(function)]
        known.append((template, function, shared))


def _places(function: Any) -> set[tuple[object, ...]]:
    """Say where a function stands: one found there later is the same, loaded again or under another module's name."""
    code, name = function.__code__, function.__qualname__
    if name.endswith("<lambda>"):
        return {(code.co_filename, code)}
    return {(function.__module__, name), (code.co_filename, code.co_firstlineno, name)}
