"""Records of a dataclass, kept by column: four or eight bytes per number instead of an object per record."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

import numpy as np

T = TypeVar("T")
_ABSENT = -(1 << 63)  # of a name that a record's mapping does not have
_KINDS = ("int", "bool", "list[int]", "dict[str, int]")


class RecordError(ValueError):
    """A number that does not fit; the message is one sentence."""


class RecordLog(Sequence[T], Generic[T]):
    """A sequence of records of the dataclass `kind`, whose fields are int, bool, list[int] or dict[str, int].

    Records come out equal to what went in, but are made anew each time. `column`, `mapping`, `lengths` and `sums` give
    the numbers of all records at once.

    >>> @dataclasses.dataclass
    ... class Visit:
    ...     number: int
    ...     pages: list[int]
    >>> log = RecordLog(Visit)
    >>> log.append(Visit(7, [1, 2]))
    >>> log[0], log.column("number"), log.sums("pages")
    (Visit(number=7, pages=[1, 2]), array([7]), array([3]))
    """

    def __init__(self, kind: type[T]) -> None:
        fields = {  # types as text, whether the class postpones its annotations or not
            field.name: field.type.__name__ if isinstance(field.type, type) else str(field.type)
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        }
        strange = [name for name, type_ in fields.items() if type_ not in _KINDS]
        if strange:
            raise TypeError(f"field {strange[0]} of {kind.__name__}: expected one of {', '.join(_KINDS)}.")
        self._kind, self._fields, self._length = kind, fields, 0
        self._numbers: dict[str, array[int]] = {}
        self._lists: dict[str, tuple[str, str]] = {}  # columns of the items, and of where each list ends
        self._mappings: dict[str, dict[str, array[int]]] = {}
        for name, type_ in fields.items():
            if type_ in ("int", "bool"):
                self._numbers[name] = array("i" if type_ == "int" else "b")
            elif type_ == "dict[str, int]":
                self._mappings[name] = {}
        self._number_of = attrgetter(*self._numbers, "__class__")  # a tuple also where there is one number
        self._names = tuple(self._numbers)
        for name, type_ in fields.items():
            if type_ == "list[int]":
                self._lists[name] = (f"{name} items", f"{name} ends")
                self._numbers |= {f"{name} items": array("i"), f"{name} ends": array("i", [0])}

    def append(self, record: T) -> None:
        """Add a record. Raises RecordError for a number beyond 64 bits (of ps: 106 days)."""
        numbers = self._numbers
        try:
            for name, number in zip(self._names, self._number_of(record), strict=False):
                try:
                    numbers[name].append(number)
                except OverflowError:
                    self._widen(name).append(number)
            for name, (items, ends) in self._lists.items():
                values = getattr(record, name)
                try:
                    numbers[items].extend(array(numbers[items].typecode, values))
                except OverflowError:
                    self._widen(items).extend(array("q", values))
                stop = len(numbers[items])
                try:
                    numbers[ends].append(stop)
                except OverflowError:
                    self._widen(ends).append(stop)
            for name, columns in self._mappings.items():
                mapping = getattr(record, name)
                for key in mapping:
                    if key not in columns:
                        columns[key] = array("q", [_ABSENT]) * self._length
                for key, column in columns.items():
                    column.append(mapping.get(key, _ABSENT))
        except OverflowError:
            raise RecordError(
                f"a {self._kind.__name__} has a number beyond 64 bits; expected less than 106 days of simulated time."
            ) from None
        self._length += 1

    def extend(
        self,
        count: int,
        numbers: Mapping[str, np.ndarray],
        lists: Mapping[str, tuple[np.ndarray, np.ndarray]],
        mappings: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Add `count` records by column: numbers [count], all items of the lists and how many each has [count], and of
        mappings the values by key [count], 0 where a record lacks it. Numbers that are not named are 0."""
        for name in self._names:
            self._put(name, numbers[name] if name in numbers else np.zeros(count, dtype=np.int64))
        for name, (items, ends) in self._lists.items():
            values, lengths = lists[name]
            before = len(self._numbers[items])
            self._put(items, values)
            self._put(ends, before + np.cumsum(lengths))
        for name, columns in self._mappings.items():
            for key, values in mappings[name].items():
                if key not in columns and values.any():
                    columns[key] = array("q", [_ABSENT]) * self._length
            for key, column in columns.items():
                found = mappings[name].get(key, np.zeros(count, dtype=np.int64))
                column.frombytes(np.where(found == 0, _ABSENT, found).astype(np.int64).tobytes())
        self._length += count

    def _put(self, name: str, values: np.ndarray) -> None:
        column = self._numbers[name]
        if column.typecode == "i" and len(values) and max(values.max(), -values.min()) > 2**31 - 1:
            column = self._numbers[name] = array("q", column)
        column.frombytes(values.astype({"i": np.int32, "q": np.int64, "b": np.int8}[column.typecode]).tobytes())

    def _widen(self, name: str) -> array[int]:
        """Give a column eight bytes per number; OverflowError if it has them."""
        if self._numbers[name].typecode == "q":
            raise OverflowError
        self._numbers[name] = wide = array("q", self._numbers[name])
        return wide

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._length))]
        place = index + self._length if index < 0 else index
        if not 0 <= place < self._length:
            raise IndexError(f"record {index} of {self._length}")
        return self._record(place)

    def __iter__(self) -> Iterator[T]:
        return map(self._record, range(self._length))

    def _record(self, place: int) -> T:
        values: dict[str, Any] = {name: self._numbers[name][place] for name in self._names}
        for name, type_ in self._fields.items():
            if type_ == "bool":
                values[name] = bool(values[name])
            elif type_ == "list[int]":
                items, ends = (self._numbers[part] for part in self._lists[name])
                values[name] = items[ends[place] : ends[place + 1]].tolist()
            elif type_ == "dict[str, int]":
                columns = self._mappings[name].items()
                values[name] = {key: column[place] for key, column in columns if column[place] != _ABSENT}
        return self._kind(**values)

    def column(self, name: str) -> np.ndarray:
        """A field of numbers: int64, or bool, [records]."""
        return np.array(self._numbers[name], dtype=bool if self._fields[name] == "bool" else np.int64)

    def lengths(self, name: str) -> np.ndarray:
        """How many numbers a field of lists has, int64 [records]."""
        return np.diff(np.array(self._numbers[self._lists[name][1]], dtype=np.int64))

    def sums(self, name: str) -> np.ndarray:
        """The sum of each list of a field, int64 [records]."""
        values, ends = (np.array(self._numbers[part], dtype=np.int64) for part in self._lists[name])
        return np.diff(np.append(0, values.cumsum())[ends])

    def mapping(self, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """A field of mappings by key: values, int64 [records], 0 where a record has none, and which have one, bool."""
        found = {}
        for key, column in sorted(self._mappings[name].items()):
            values = np.array(column, dtype=np.int64)
            there = values != _ABSENT
            found[key] = np.where(there, values, 0), there
        return found

    def add(self, other: RecordLog[T], names: Sequence[str]) -> None:
        """Add the numbers of these fields of `other`, record by record."""
        for name in names:
            total = np.array(self._numbers[name], dtype=np.int64) + np.array(other._numbers[name], dtype=np.int64)
            self._numbers[name] = array("q", total.tobytes())
