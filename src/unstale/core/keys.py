"""Key templates: how a call becomes the name of its entry, so that no argument can imitate another key (H29).

A key is the literal text of its template with one rendered argument in each place. Between two places stands a
character that no rendered argument holds; so a key can be taken apart again in one way only, and two calls share an
entry if and only if their keys are equal.

The same holds between templates. Two of them have a key in common only if they have the same separators in the same
order, and if, between each two of these, both have one text, or one has an argument that could be written like what the
other one has there. So `user:{name}` meets `user:me` and `user:{login}`; it does not meet `user:{name}:posts`, and
`user:{user_id}` of an `int` does not meet `user:me`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, NewType, get_args, get_origin

from unstale.core.keytext import KEY_BYTES_MAX, SUPPORTED, TOO_LONG, escape, is_plain, plain_text, renderer
from unstale.core.record import EVERYTHING
from unstale.errors import KeyArgumentError, KeyTemplateError, ScopeError, ValueTypeError

__all__ = ["KEY_BYTES_MAX", "Template", "check_key", "check_scope", "check_version", "escape", "namespace_of"]

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_EXAMPLE: Final = 'write the name of what is cached, then its arguments: "product:{product_id}"'
_EXAMPLE_NAME: Final = 'write the whole name, such as "product:17"'
_INT64: Final = range(-(2**63), 2**63)
_VERSION: Final = "give the row's version column, or a timestamp as an integer: int(row.updated_at.timestamp() * 1e6)"

_EXACT: Final = 2**53  # up to here each int has a float of its own
_DIGITS: Final = re.compile("-?[0-9]+")  # what an argument declared int looks like in a key
_ANYTHING: Final = re.compile(".*")  # and any other


class _Place(NamedTuple):
    """A placeholder, its argument's position in a call, and the literal text that follows it."""

    name: str
    position: int
    render: Callable[[object], str]
    tail: str


class _Part(NamedTuple):
    """What a template has between two separators: a text, or an argument of some form between two texts."""

    head: str
    form: re.Pattern[str] | None
    tail: str

    def meets(self, other: _Part) -> bool:
        """Tell whether both could be written alike."""
        if self.form is None:
            return other.meets(self) if other.form is not None else self.head == other.head
        if other.form is None:
            end = len(other.head) - len(self.tail)
            around = other.head.startswith(self.head) and other.head.endswith(self.tail) and end >= len(self.head)
            return around and self.form.fullmatch(other.head, len(self.head), end) is not None
        heads, tails = sorted((self.head, other.head), key=len), sorted((self.tail, other.tail), key=len)
        return heads[1].startswith(heads[0]) and tails[1].endswith(tails[0])


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A key template, compiled for one function.

    Attributes:
        text: The template as it was written.
        namespace: Its text before the first placeholder, or before the last separator if it has none.
        separators: The characters that take its keys apart, in their order.
        parts: What stands between them.
    """

    text: str
    namespace: str
    separators: str
    parts: tuple[_Part, ...]
    _head: str
    _places: tuple[_Place, ...]
    _names: tuple[str, ...]
    _signature: inspect.Signature
    _required: int
    _positional: int
    _defaults: tuple[object, ...]

    @classmethod
    def compile(
        cls,
        text: str,
        fn_signature: inspect.Signature,
        hints: Mapping[str, object],
        *,
        ignore: Collection[str] = (),
        namespace: str | None = None,
        require_all: bool = True,
    ) -> Template:
        """Compile a template for the calls of a function.

        Args:
            text: Literal text with placeholders, as in "product:{product_id}". A placeholder is the plain name of an
                argument; braces have no other use. Between two placeholders stands at least one of `: / | #` or such.
            fn_signature: The function's signature; `self` and `cls` in first position are left out by themselves.
            hints: The function's resolved annotations. An argument of its declared type needs no type in the key.
            ignore: Arguments that the result does not depend on.
            namespace: The namespace to use instead of the template's own.
            require_all: Refuse a template that leaves out an argument. Tags are compiled without.

        Returns:
            The compiled template.

        Raises:
            KeyTemplateError: The template could let two different calls share an entry, or cannot be read.
            ScopeError: The namespace given is not a scope.
        """
        literals, names = _parse(text)
        _check_arguments(text, names, fn_signature, ignore, require_all=require_all)
        own = _namespace(text, literals)
        parameters = [p for p in fn_signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        required = sum(p.default is p.empty for p in positional)
        defaults = tuple(() if p.kind is p.VAR_POSITIONAL else p.default for p in parameters[required:])
        index = {p.name: i for i, p in enumerate(parameters)}
        declared = {p.name: _declared(tuple if p.kind is p.VAR_POSITIONAL else hints.get(p.name)) for p in parameters}
        renderers = {p.name: _strict(declared[p.name], p.name) for p in parameters}
        separators, parts = _take_apart(literals, [_DIGITS if declared[n] is int else _ANYTHING for n in names])
        return cls(
            text=text,
            namespace=own if namespace is None else _checked(namespace, "namespace", "pass one text"),
            separators=separators,
            parts=parts,
            _head=literals[0],
            _places=tuple(_Place(n, index[n], renderers[n], tail) for n, tail in zip(names, literals[1:], strict=True)),
            _names=tuple(index),
            _signature=fn_signature,
            _required=required,
            # A required keyword is missing from every purely positional call: leave that error to Python.
            _positional=-1 if inspect.Parameter.empty in defaults else len(positional),
            _defaults=defaults,
        )

    @property
    def places(self) -> tuple[str, ...]:
        """The arguments that it names, in their order."""
        return tuple(place.name for place in self._places)

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Render the key of a call.

        Args:
            args: The positional arguments of the call, `self` included.
            kwargs: Its keyword arguments.

        Returns:
            The key.

        Raises:
            KeyArgumentError: An argument cannot be part of a key.
            TypeError: The function cannot be called so; the error is Python's own.
        """
        if not kwargs and self._required <= len(args) <= self._positional:
            given = args + self._defaults[len(args) - self._required :] if self._defaults else args
            return self._join(given)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self.render(bound.arguments)

    def render(self, arguments: Mapping[str, object]) -> str:
        """Render the key of bound arguments.

        Args:
            arguments: Every argument by name, defaults applied.

        Returns:
            The key.

        Raises:
            KeyArgumentError: An argument cannot be part of a key.
        """
        return self._join([arguments[name] for name in self._names])

    def meets(self, other: Template) -> bool:
        """Tell whether a key of this template could be one of the other's."""
        same = self.separators == other.separators
        return same and all(one.meets(two) for one, two in zip(self.parts, other.parts, strict=True))

    def _join(self, values: Sequence[object]) -> str:
        key = self._head
        for name, position, render, tail in self._places:
            try:
                key += render(values[position]) + tail
            except KeyArgumentError as refusal:
                raise KeyArgumentError(
                    f"{name!r} cannot be part of the key {self.text!r}: {refusal.message}",
                    hint=refusal.hint or f"pass an id, write ignore=[{name!r}], or use {SUPPORTED}",
                    template=self.text,
                    argument=name,
                ) from None
        if len(key) > KEY_BYTES_MAX // 4 and len(key.encode()) > KEY_BYTES_MAX:
            raise KeyArgumentError(f"the key of {self.text!r} is too long", hint=TOO_LONG, template=self.text)
        return key


def _declared(hint: object) -> object:
    """Give the one type that an annotation declares, or the annotation where it declares none, or several."""
    if get_origin(hint) is Annotated:
        return _declared(get_args(hint)[0])
    if isinstance(hint, NewType):
        return _declared(hint.__supertype__)
    declared: object = getattr(hint, "__value__", hint)  # of a `type` statement
    return get_origin(declared) or declared


def _strict(declared: object, name: str) -> Callable[[object], str]:
    """Choose how the arguments of a parameter are rendered: none but those of its one declared type.

    A "17" for an int would have a key of its own, `product:str!17`, which nobody ends who invalidates `product:17`.
    """
    render = renderer(declared)
    if not isinstance(declared, type) or render is renderer(None):
        return render

    wanted, plain = declared.__qualname__, plain_text(declared)

    def rendered(value: object) -> str:
        if plain is not None and type(value) is declared:  # nearly always: no tag to look for
            return plain(value)
        if declared is float and type(value) is int and abs(value) <= _EXACT:
            value = float(value)
        text = render(value)
        if "!" in text.partition("(")[0]:  # it carries its type
            kind = "None" if value is None else type(value).__qualname__
            hint = f"pass {wanted}({name}), or annotate all that may be passed: {name}: {wanted} | {kind}"
            raise KeyArgumentError(f"it is {kind}, and {wanted} is annotated", hint=hint)
        return text

    return rendered


def _take_apart(literals: list[str], forms: list[re.Pattern[str]]) -> tuple[str, tuple[_Part, ...]]:
    """Take a template apart: its separators, and what stands between them, with one argument at most."""
    separators, parts, now = "", [], _Part("", None, "")
    for literal, form in zip(literals, [*forms, None], strict=True):
        for char in literal:
            if _divides(char):
                separators += char
                parts.append(now)
                now = _Part("", None, "")
            elif now.form is None:
                now = now._replace(head=now.head + char)
            else:
                now = now._replace(tail=now.tail + char)
        if form is not None:
            now = now._replace(form=form)
    return separators, (*parts, now)


def _divides(char: str) -> bool:
    """Tell whether a character occurs in no rendered argument, so that it can only come from a template."""
    return not is_plain(char) and char not in "(),"


def _parse(text: str) -> tuple[list[str], list[str]]:
    """Split a template into its literal texts and, one fewer, the names of its placeholders."""
    if not isinstance(text, str):
        raise KeyTemplateError(f"a template must be a str, not {type(text).__qualname__}", hint=_EXAMPLE)
    parts = _PLACEHOLDER.split(text)
    literals, names = parts[::2], parts[1::2]
    for name in names:
        if not name.isidentifier():
            hint = "a placeholder is the plain name of an argument; compute anything else before the call"
            raise KeyTemplateError(f"{{{name}}} in {text!r} is no name", hint=hint, template=text)
    for char in "".join(literals):
        if char in "{}%!*" or char.isspace() or not char.isprintable():
            hint = "use letters, digits and separators such as : / - _ ."
            raise KeyTemplateError(f"{char!r} cannot stand in the template {text!r}", hint=hint, template=text)
    for left, between, right in zip(names, literals[1:-1], names[1:], strict=False):
        if not any(map(_divides, between)):  # {a}-{b}: "x-y", "z" and "x", "y-z" would be one key (H29)
            hint = f"put a colon between them: {{{left}}}:{{{right}}}"
            message = f"in {text!r} nothing tells the end of {left!r} from the start of {right!r}"
            raise KeyTemplateError(message, hint=hint, template=text)
    return literals, names


def _check_arguments(
    text: str, names: list[str], signature: inspect.Signature, ignore: Collection[str], *, require_all: bool
) -> None:
    """Refuse placeholders without an argument and, in a key, arguments without a placeholder."""
    if isinstance(ignore, str):
        raise KeyTemplateError("ignore= takes a list", hint=f"write ignore=[{ignore!r}]", template=text)
    parameters = list(signature.parameters.values())
    usable = [p.name for i, p in enumerate(parameters) if p.name not in ignore and (i or p.name not in {"self", "cls"})]
    listed = ", ".join(usable) or "none"
    for name in ignore:
        if name not in signature.parameters:
            message = f"ignore= names {name!r}, which the function does not have"
            raise KeyTemplateError(message, hint=f"its arguments are: {listed}", template=text, argument=name)
    for name in names:
        if name not in usable:
            message = f"the template {text!r} names {name!r}, which is no argument of the function, or an ignored one"
            raise KeyTemplateError(message, hint=f"its arguments are: {listed}", template=text, argument=name)
    for parameter in parameters:
        name = parameter.name
        if name not in usable or not (require_all or name in names):
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            hint = f"name the arguments one by one, or write ignore=[{name!r}] if the result does not depend on them"
            raise KeyTemplateError(f"**{name} cannot be part of a key", hint=hint, template=text, argument=name)
        if name not in names:  # two tenants never share an entry by omission
            hint = f"add {{{name}}}, or write ignore=[{name!r}] if the result does not depend on it"
            raise KeyTemplateError(f"{text!r} leaves out {name!r}", hint=hint, template=text, argument=name)


def _namespace(text: str, literals: list[str]) -> str:
    """Take the namespace from a template's first literal text, which is never empty."""
    head = literals[0]
    if len(literals) == 1:  # no placeholder: "config:flags" lies in "config", "config" in itself
        head = head[: max((i for i, char in enumerate(head) if _divides(char)), default=len(head))]
    while head and (head[-1] in "_.@~+-" or not is_plain(head[-1])):
        head = head[:-1]
    if not head:
        raise KeyTemplateError(f"{text!r} does not begin with a namespace", hint=_EXAMPLE, template=text)
    return head


def check_scope(scope: object) -> str:
    """Check a scope that was written by hand.

    Args:
        scope: A key, a tag or a namespace, or `*` for everything.

    Returns:
        The scope, as a plain str.

    Raises:
        ScopeError: It is no text, empty, too long, not encodable, or holds a control character or a pattern.
    """
    if isinstance(scope, str) and scope == EVERYTHING:
        return EVERYTHING
    return _checked(scope, "scope", "pass them one by one: invalidate(*scopes)")


def check_key(key: object) -> str:
    """Check a key that was written by hand.

    Args:
        key: The text of the key; what stands before its first colon is its namespace.

    Returns:
        The key, as a plain str.

    Raises:
        ScopeError: It is no scope, or begins with a colon.
    """
    text = _checked(key, "key", "pass one key")
    if text.startswith(":"):
        raise ScopeError(f"the key {text!r} has no namespace", hint='begin with one: "product:17"', value=key)
    return text


def check_version(version: object) -> int:
    """Check a source version that was given by hand.

    Args:
        version: An integer that the log can carry: of 64 bits, with a sign.

    Raises:
        ValueTypeError: It is none.
    """
    if type(version) is not int:
        raise ValueTypeError(f"a version is an integer, not {type(version).__qualname__}", hint=_VERSION, value=version)
    if version not in _INT64:
        raise ValueTypeError("a version has at most 64 bits", hint=_VERSION, value=version)
    return version


def namespace_of(key: str) -> str:
    """Give the namespace of a key written by hand: its text before the first colon, or all of it."""
    return key.partition(":")[0]


def _checked(name: object, what: str, if_many: str) -> str:
    if not isinstance(name, str):
        hint = if_many if isinstance(name, Iterable) and not isinstance(name, bytes) else _EXAMPLE_NAME
        raise ScopeError(f"a {what} must be a str, not {type(name).__qualname__}", hint=hint, value=name)
    text = str.__str__(name)  # a StrEnum member is welcome, as its plain text
    if not text:
        raise ScopeError(f"an empty {what} names nothing", hint=_EXAMPLE_NAME, value=name)
    if len(text) > KEY_BYTES_MAX or len(text.encode(errors="replace")) > KEY_BYTES_MAX:
        raise ScopeError(f"the {what} is longer than {KEY_BYTES_MAX} bytes", hint=TOO_LONG, value=name)
    if EVERYTHING in text:
        hint = 'there are no patterns: name a tag, or a namespace such as "product"'
        raise ScopeError(f"the {what} {text!r} holds a *", hint=hint, value=name)
    if _UNFIT.search(text):
        message = f"the {what} {text!r} holds a control character or a lone surrogate"
        raise ScopeError(message, hint='escape what comes from outside: f"product:{escape(name)}"', value=name)
    return text
