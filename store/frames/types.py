"""Conversion of Arrow tables to pandas frames, for the three families of types in pandas."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from tokentape.store.errors import StoreError

DtypeBackend = Literal["numpy_nullable", "pyarrow"] | None

_NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
}


def to_pandas(table: pa.Table, dtype_backend: DtypeBackend) -> pd.DataFrame:
    """Return a frame that owns its memory, from a table whose schema says what may be missing.

    Raise StoreError for an unknown `dtype_backend`.
    """
    if dtype_backend not in (None, "numpy_nullable", "pyarrow"):
        raise StoreError(
            f"dtype_backend must be None, 'numpy_nullable' or 'pyarrow', not {dtype_backend!r}"
        )
    columns = {
        field.name: _series(column, field, dtype_backend)
        for field, column in zip(table.schema, table.columns, strict=True)
    }
    return pd.DataFrame(columns, columns=table.column_names, copy=False)


def _series(column: pa.ChunkedArray, field: pa.Field, dtype_backend: DtypeBackend) -> Any:
    if pa.types.is_dictionary(field.type):
        column = pa.chunked_array([_sorted_dictionary(column, field.type)])
    if dtype_backend == "pyarrow":
        return column.to_pandas(types_mapper=pd.ArrowDtype)
    if pa.types.is_dictionary(field.type) or pa.types.is_timestamp(field.type):
        return column.to_pandas()
    if pa.types.is_string(field.type):
        text = _text(pd.NA if dtype_backend == "numpy_nullable" else np.nan)
        return column.to_pandas(types_mapper=lambda _: text)
    if field.nullable or dtype_backend == "numpy_nullable":
        return column.to_pandas(types_mapper=_NULLABLE.get)
    # Copied, because Arrow's memory is read-only.
    return np.array(column.to_numpy())


def _text(missing: Any) -> Any:
    """Return the type of a column of texts, whose missing values are `missing`."""
    try:
        return pd.StringDtype("pyarrow", na_value=missing)
    except TypeError:
        # pandas 2.2 selects the missing value by the name of the storage.
        return pd.StringDtype("pyarrow" if missing is pd.NA else "pyarrow_numpy")


def _sorted_dictionary(column: pa.ChunkedArray, kind: pa.DataType) -> pa.DictionaryArray:
    """Return a column with a sorted dictionary of the values in it, equal for all stores."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=values.__getitem__)
    places = np.empty(len(values), np.int32)
    places[order] = np.arange(len(values), dtype=np.int32)
    codes = pa.array(places).take(encoded.indices)
    return pa.DictionaryArray.from_arrays(
        codes, pa.array([values[i] for i in order], kind.value_type)
    )
