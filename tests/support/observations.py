"""Any observation there can be, made from the types of its fields: a new type or field needs no word here."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from gpuwarden.model.observation import AnyObservation

OBSERVATIONS: tuple[type, ...] = get_args(AnyObservation)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def of(kind: type) -> st.SearchStrategy[Any]:
    """Return any value of a type that msgspec can decode."""
    return _of(inspect.type_info(kind))


def _of(wanted: inspect.Type) -> st.SearchStrategy[Any]:
    match wanted:
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _of(field.type) for field in fields})
        case inspect.UnionType(types=types):
            return st.one_of([_of(each) for each in types])
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=3)
        case inspect.VarTupleType(item_type=item):
            return st.lists(_of(item), max_size=3).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*(_of(each) for each in items))
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list(cls))  # type: ignore[call-overload, no-any-return]
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(-(2**63), 2**64 - 1)
        case inspect.FloatType():
            return _FLOATS
        case inspect.StrType():
            return _TEXT
        case inspect.NoneType():
            return st.none()
        case inspect.RawType():
            return st.one_of(_TEXT, _FLOATS, st.booleans(), st.none()).map(
                lambda value: msgspec.Raw(msgspec.json.encode(value))
            )
    raise AssertionError(f"no strategy for {wanted}")
