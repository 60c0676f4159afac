"""Every state comes back from a checkpoint with its values and types; what cannot is refused with its place."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl.checkpoints import state_tree, tensor_file
from mtrl.checkpoints.json_text import dump_json, parse_json
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput
from tests.checkpoints.example_checkpoints import assert_same
from tests.checkpoints.malicious_files import HOSTILE_TENSOR_FILES

NUMPY_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
SHAPES = [(), (0,), (3,), (0, 4), (2, 3, 1)]


def saved_and_loaded(folder: Path, state: dict) -> dict:
    store = CheckpointStore(folder / "checkpoints")
    store.save(1, state, info={})
    return store.load("latest").state


def test_every_dtype_and_shape_of_tensors_and_arrays_comes_back(tmp_path: Path) -> None:
    state: dict = {}
    for shape in SHAPES:
        values = torch.arange(6)[: int(np.prod(shape))].reshape(shape) % 2
        state[str(shape)] = {str(dtype): values.to(dtype) for dtype in tensor_file.DTYPES}
        state[str(shape)] |= {dtype: values.numpy().astype(dtype) for dtype in NUMPY_DTYPES}
    state["scalars"] = [np.ones((), dtype)[()] for dtype in NUMPY_DTYPES]
    loaded = saved_and_loaded(tmp_path, state)
    bfloat16 = str(torch.bfloat16)
    for shape in map(str, SHAPES):  # compared apart: NumPy has no such dtype
        assert torch.equal(state[shape].pop(bfloat16), loaded[shape].pop(bfloat16))
    assert_same(state, loaded)


def test_values_that_json_lacks_and_odd_keys_come_back(tmp_path: Path) -> None:
    state = {
        "floats": [float("nan"), float("inf"), -float("inf"), -0.0, 0.1, 1e-320, 1.7976931348623157e308],
        "large": 2**127 + 1,
        "a/b": {"~1": torch.ones(2)},
        "a": {"b": {"~1": torch.zeros(2)}},
        "": {"": np.zeros(0)},
        "text": "Grüße \x1b[31m\0",
        "empty": {},
        "nothing": None,
        "list": [{"steps": 3, "weights": np.ones(2)}, [], [True]],
    }
    assert_same(state, saved_and_loaded(tmp_path, state))


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from([torch.arange(3), np.arange(2.0), np.float32(2), torch.tensor(True), np.zeros((2, 0), np.uint32)])
)
keys = st.text(st.characters(codec="utf-8"), max_size=3).filter(lambda key: not key.startswith("$"))
trees = st.recursive(
    leaves, lambda child: st.lists(child, max_size=3) | st.dictionaries(keys, child, max_size=3), max_leaves=12
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, trees, max_size=3))
def test_any_nested_state_survives_flattening_and_its_files(state: dict) -> None:
    document, tensors = state_tree.flatten(state)
    document, tensors = parse_json(dump_json(document)), tensor_file.decode(tensor_file.encode(tensors))
    assert_same(state, state_tree.unflatten(document, tensors))


@pytest.mark.parametrize(
    "value",
    [object(), (1, 2), {1: 2}, {"$is": "nan"}, {1, 2}, b"x", np.array(["a"]), np.array([None]),
     torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex128), Path("x"), np.zeros(2, "M8[s]"), type, print],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_a_checkpoint_cannot_hold_is_named_by_its_place(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="/agent/deep"):
        saved_and_loaded(tmp_path, {"agent": {"deep": [value]}})
    assert os.listdir(tmp_path / "checkpoints") == []


def test_views_and_read_only_arrays_are_saved_by_value(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    state = {
        "parameter": parameter,
        "same": parameter.detach(),
        "transposed": parameter.detach().t(),
        "expanded": parameter.detach()[:1].expand(5, 4),
        "slice": parameter.detach()[1:, ::2],
        "frozen": np.broadcast_to(np.ones(3), (2, 3)),
        "reversed": np.arange(3)[::-1],
        "big-endian": np.arange(5, dtype=">i4"),
    }
    loaded = saved_and_loaded(tmp_path, state)
    assert loaded["big-endian"].tolist() == [0, 1, 2, 3, 4]
    for name, value in state.items():
        assert np.array_equal(loaded[name], torch.as_tensor(np.array(value.tolist())))
    for value in loaded.values():
        value[:] = 0  # neither shared with another nor read-only
        assert parameter.sum() == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_on_a_gpu_comes_back_on_the_cpu(tmp_path: Path) -> None:
    loaded = saved_and_loaded(tmp_path, {"x": torch.ones(3, device="cuda")})
    assert_same(loaded, {"x": torch.ones(3)})


def test_the_size_of_a_state_is_that_of_its_values() -> None:
    state = {"a": torch.zeros(10), "b": {"c": [np.zeros(3), 5]}, "d": torch.zeros(2, dtype=torch.bool)}
    assert state_tree.state_bytes(state) == 40 + 24 + 2


@pytest.mark.parametrize("name", HOSTILE_TENSOR_FILES)
def test_a_malformed_tensor_file_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        tensor_file.decode(HOSTILE_TENSOR_FILES[name])


def test_every_truncation_of_a_tensor_file_is_refused() -> None:
    data = tensor_file.encode({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.bool)})
    for length in range(len(data)):
        with pytest.raises(BadInput):
            tensor_file.decode(data[:length])


@pytest.mark.parametrize(
    "text",
    [b"NaN", b"[Infinity]", b"[" * 100_000, b"1" * 10_000, b"{", b"", b'"\xff"', b"[1]x", b" " * 2**23],
    ids=lambda text: repr(text[:10]),
)
def test_what_is_not_bounded_json_is_refused(text: bytes) -> None:
    with pytest.raises(BadInput):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    ["x" * 2**23, "\ud800", 10**4301, float("nan"), {"a": [float("inf")]}],
    ids=["large", "surrogate", "digits", "nan", "inf"],
)
def test_json_that_cannot_be_read_back_is_not_written(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        dump_json(value)
