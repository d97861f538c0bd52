"""Does what the app calls exist on Android: on the oldest system that it runs on, and on the newest?

Two published descriptions of the API are asked, as no Android SDK is at hand. One (TypeScript declarations of API
levels 21 to 37) knows since which level everything is there, and the values of constants, but no number types. The
other (Python stubs of API level 36) tells int from long in parameters. Neither tells int from long in results.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Member",
    "Reference",
    "declared_classes",
    "parse_reference",
    "problems",
    "stub_classes",
    "wrong_constants",
]

_BASE_LEVEL = 21
"""What has no mark is there at least since this level."""

_NOT_DECLARED = ("android.app.job.",)
"""Packages that the TypeScript declarations leave out: for them API level 36 alone is asked. Of these the app uses
nothing newer than JobScheduler.getPendingJob, which Android's reference says to be there since level 24."""


@dataclass(frozen=True)
class Reference:
    """A member that the dex file names.

    Attributes:
        owner: ``android.view.View.MeasureSpec``. name: ``<init>`` for a constructor.
        parameters: type descriptors; None for a field. result: its descriptor.
    """

    owner: str
    name: str
    parameters: tuple[str, ...] | None
    result: str

    def __str__(self) -> str:
        shown = "" if self.parameters is None else f"({', '.join(self.parameters)})"
        return f"{self.owner}.{self.name}{shown}: {self.result}"


@dataclass(frozen=True)
class Member:
    """A declared method, constructor (``<init>``) or field.

    Attributes:
        parameters: types as the declaration writes them; None for a field. result: likewise; "" for a constructor.
        since: API level.
    """

    name: str
    parameters: tuple[str, ...] | None
    result: str
    since: int


@dataclass
class Declared:
    """A declared class: the names of those that it extends, its members by name, and the API level."""

    bases: tuple[str, ...]
    since: int
    members: dict[str, list[Member]] = field(default_factory=dict)


Classes = dict[str, Declared]

_DESCRIPTOR = r"\[*(?:L[^;]+;|[ZBSCIJFDV])"


def parse_reference(line: str) -> Reference:
    """Read a line of ``baksmali list methods`` or ``list fields``."""
    match = re.fullmatch(rf"(\[*L[^;]+;)->([^(:]+)(?:\((.*)\)|:)({_DESCRIPTOR})", line)
    assert match is not None, line
    owner, name, parameters, result = match.groups()
    found = None if parameters is None else tuple(re.findall(_DESCRIPTOR, parameters))
    return Reference(_class_name(owner), name, found, result)


def _class_name(descriptor: str) -> str:
    return descriptor.lstrip("[")[1:-1].replace("/", ".").replace("$", ".")


# --- API levels 21 to 37, from TypeScript declarations


def declared_classes(path: Path) -> Classes:
    """Read the declarations; about 200,000 lines."""
    classes: Classes = {}
    scopes: list[tuple[str, Declared | None]] = []
    since = _BASE_LEVEL
    comment = False
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r" ?/\* .*? ?\*/", "", raw).strip()
        if comment or line.startswith("/*"):
            if marked := re.search(r"@since (\d+)", line):
                since = int(marked[1])
            comment = "*/" not in line
            continue
        if opened := re.match(r"(?:declare |export )*(?:module|namespace) ([\w.]+) \{", line):
            scopes.append((opened[1], None))
        elif opened := re.match(r"export (?:abstract )?(?:class|interface) (\w+)(.*)\{$", line):
            declared = Declared(tuple(_bases(opened[2])), since)
            classes[".".join([name for name, _ in scopes if name] + [opened[1]])] = declared
            scopes.append((opened[1], declared))
        elif line.startswith("}"):
            scopes.pop()
        elif line.endswith("{"):
            # The abstract methods of an interface stand in the declaration of what implements it.
            scopes.append(("", scopes[-1][1] if scopes else None))
        elif scopes and (inside := scopes[-1][1]) is not None and (member := _member(line, since)):
            inside.members.setdefault(member.name, []).append(member)
        since = _BASE_LEVEL
    return classes


def _bases(clause: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"([a-z][\w]*(?:\.\w+)+)", re.sub(r"<.*?>+", "", clause)))


def _member(line: str, since: int) -> Member | None:
    if method := re.match(
        r"(?:public |protected |abstract |static )*([\w$]+)(?:<.*?>)?\((.*?)\)(?:: (.*))?;$", line
    ):
        name = "<init>" if method[1] == "constructor" else method[1]
        types = tuple(part.partition(":")[2].strip() for part in _split(method[2]))
        return Member(name, types, method[3] or "", since)
    if value := re.match(r"(?:public |protected |static |readonly )*([\w$]+): (.*);$", line):
        return Member(value[1], None, value[2], since)
    return None


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "<({[") - (char in ">)}]")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part for part in [*parts, current] if part.strip()]


_TYPESCRIPT = {**dict.fromkeys("BSIJFD", "number"), "Z": "boolean", "C": "string", "V": "void"}


def _fits_declaration(descriptor: str, written: str) -> bool:
    written = written.removesuffix(" | null")
    if descriptor.startswith("["):
        return written.startswith("androidNative.Array<") or written == "any"
    if descriptor in _TYPESCRIPT:
        return written == _TYPESCRIPT[descriptor] or (
            written == _TYPESCRIPT[descriptor] or bool(re.fullmatch(r'-?[\d.e+-]+|true|false|".*"', written))
        )
    name = _class_name(descriptor)
    if name in ("java.lang.String", "java.lang.CharSequence") and (
        written == "string" or written.startswith('"')
    ):
        return True
    return (
        written.partition("<")[0] == name
        or written == "any"
        or re.fullmatch(r"[A-Z]\w?", written) is not None
    )


# --- API level 36, from Python stubs


def stub_classes(folder: Path) -> Classes:
    """Read the stubs of Android's own packages; those of Java leave the number types out."""
    classes: Classes = {}
    for path in sorted((folder / "android-stubs").rglob("__init__.pyi")):
        package = ".".join(["android", *path.relative_to(folder / "android-stubs").parent.parts])
        _stubs_in(ast.parse(path.read_text(encoding="utf-8")).body, package, classes)
    return classes


def _stubs_in(body: Sequence[ast.stmt], outer: str, classes: Classes) -> None:
    for node in body:
        if not isinstance(node, ast.ClassDef):
            continue
        name = f"{outer}.{node.name}"
        declared = Declared(tuple(ast.unparse(base).partition("[")[0] for base in node.bases), 36)
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                member = _stub_method(item)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                member = Member(item.target.id, None, ast.unparse(item.annotation), 36)
            else:
                continue
            declared.members.setdefault(member.name, []).append(member)
        classes[name] = declared
        _stubs_in(node.body, name, classes)


def _stub_method(node: ast.FunctionDef) -> Member:
    arguments = node.args.posonlyargs + node.args.args
    static = any(getattr(decorator, "id", "") == "staticmethod" for decorator in node.decorator_list)
    types = [
        ast.unparse(a.annotation) if a.annotation else "" for a in (arguments if static else arguments[1:])
    ]
    if node.args.vararg is not None:
        types.append("*")
    name = "<init>" if node.name == "__init__" else node.name.removesuffix("_")  # Python's keywords get a "_"
    return Member(name, tuple(types), ast.unparse(node.returns) if node.returns else "", 36)


_JAVA_NUMBERS = {
    "I": "java.jint", "J": "java.jlong", "F": "java.jfloat", "D": "java.jdouble", "Z": "java.jboolean",
    "B": "java.jbyte", "S": "java.jshort", "C": "java.jchar",
}  # fmt: skip
_PYTHON = {
    "V": "None",
    **dict.fromkeys("IJSB", "int"),
    "Z": "bool",
    **dict.fromkeys("FD", "float"),
    "C": "str",
}


def _fits_stub(descriptor: str, written: str) -> bool:
    if descriptor.startswith("["):
        return any(word in written for word in ("JavaArray", "*", "Sequence", "bytes"))
    if descriptor in _JAVA_NUMBERS:
        return _JAVA_NUMBERS[descriptor] in written
    name = _class_name(descriptor)
    loose = ("java.lang.CharSequence", "java.lang.Object", "java.lang.Class")
    return (
        name in loose or name.rpartition(".")[2] in written or re.fullmatch(r"_?\w{1,2}", written) is not None
    )


# --- the verdict


def problems(reference: Reference, declared: Classes, stubs: Classes, oldest: int) -> str | None:
    """Say what is wrong with a reference, or return None.

    Args:
        declared: of :func:`declared_classes`. stubs: of :func:`stub_classes`; asked for Android's own classes.
        oldest: the API level on which the member has to be there.
    """
    levels = [
        max(member.since, declared[owner].since)
        for owner, member in _members(reference.owner, reference.name, declared)
        if _same(reference, member, _fits_declaration, results=True)
    ]
    unknown = reference.owner.startswith(_NOT_DECLARED) and reference.owner not in declared
    if not levels and not unknown:
        return f"{reference} is not declared in any API level"
    if levels and min(levels) > oldest:
        return f"{reference} is there since API level {min(levels)}, the app runs on {oldest}"
    if reference.owner.startswith("android.") and not any(
        _same(reference, member, _fits_stub, results=False) and _result_fits(reference, member)
        for _, member in _members(reference.owner, reference.name, stubs)
    ):
        return f"{reference} is not in API level 36"
    return None


def _members(owner: str, name: str, classes: Classes) -> Iterator[tuple[str, Member]]:
    """The members of that name in a class and in all that it extends; constructors in the class alone."""
    waiting, seen = [owner], set()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in classes:
            continue
        seen.add(current)
        yield from ((current, member) for member in classes[current].members.get(name, []))
        if name != "<init>":
            waiting += [_resolved(base, current, classes) for base in classes[current].bases]


def _resolved(base: str, inside: str, classes: Classes) -> str:
    """The full name of a base that is written relative to a package or an outer class."""
    outer = inside
    while outer:
        outer = outer.rpartition(".")[0]
        if f"{outer}.{base}" in classes:
            return f"{outer}.{base}"
    return base


def _same(reference: Reference, member: Member, fits: object, *, results: bool) -> bool:
    assert callable(fits)
    if (reference.parameters is None) != (member.parameters is None):
        return False
    if reference.parameters is not None and member.parameters is not None:
        if len(reference.parameters) != len(member.parameters):
            return False
        if not all(fits(a, b) for a, b in zip(reference.parameters, member.parameters, strict=True)):
            return False
    return not results or reference.name == "<init>" or bool(fits(reference.result, member.result))


def _result_fits(reference: Reference, member: Member) -> bool:
    if reference.name == "<init>":
        return True
    if reference.result in _PYTHON:
        return re.search(rf"\b{_PYTHON[reference.result]}\b", member.result) is not None
    return True


def wrong_constants(stubs: Path, declared: Classes) -> list[str]:
    """Compare the constants of ci/stubs, which compilers copy into the app, with those that Android has.

    Args:
        stubs: the folder of Java files.
    """
    wrong = []
    for path in sorted(stubs.rglob("*.java")):
        text = path.read_text(encoding="utf-8")
        outer = ".".join(path.relative_to(stubs).with_suffix("").parts)
        scopes = [outer.rpartition(".")[0]]
        for line in text.splitlines():
            if opened := re.match(
                r"\s*(?:public |static |final |abstract )*(?:class|interface|enum) (\w+)", line
            ):
                scopes.append(opened[1])
            elif line.strip() == "}":
                scopes.pop()
            elif constant := re.match(r'\s*public static final \w+ (\w+) = (-?\d+|".*");', line):
                owner, (name, value) = ".".join(scopes), constant.groups()
                values = {member.result for _, member in _members(owner, name, declared)}
                if value not in values and not owner.startswith(_NOT_DECLARED):
                    wrong.append(f"{owner}.{name} is {value} in {path.name}, Android has {values or 'none'}")
    return wrong
