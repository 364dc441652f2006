"""What a CPU computes how: measured once on a machine, and the same again after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engines.test_decoder import built, logits_here
from tests.engines.test_int8 import opened
from tokmagic.engines.base import no_progress

if TYPE_CHECKING:
    from tokmagic.engines.local.products import Arithmetic

pytestmark = pytest.mark.model


def matrices(rows: int = 64, dtype: str = "bfloat16") -> list[Any]:
    import torch

    from tokmagic.engines.local.products import Matrix

    return [Matrix(torch.ones(rows, 32, dtype=getattr(torch, dtype)))] * 2


class Measured:
    """Says something else each time it is asked."""

    __name__ = "measured"

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, _matrices: Any, _dtype: Any) -> Arithmetic:
        from tokmagic.engines.local.products import Arithmetic

        self.times += 1
        return Arithmetic(self.times + 1 if self.times % 2 else None, frozenset({2, 4}), self.times)


def test_what_was_measured_is_measured_and_a_row_is_computed_as_transformers_does() -> None:
    import torch
    from torch.nn import functional

    from tokmagic.engines.local.choices import for_own_passes
    from tokmagic.engines.local.products import Matrix

    weight = torch.randn(1536, 576).bfloat16()
    arithmetic = for_own_passes([Matrix(weight)] * 2, torch.bfloat16)
    assert arithmetic.wide_from is None or arithmetic.wide_from >= 2
    row = torch.randn(1, 576).bfloat16()
    assert not arithmetic.is_wide(1)
    assert torch.equal(Matrix(weight).product(row), functional.linear(row, weight))


def test_a_choice_is_made_once_for_a_machine_and_weights_of_a_shape(tmp_path: Path) -> None:
    import torch

    from tokmagic.engines.local.choices import kept

    home, measured = tmp_path, Measured()
    first = kept(home, measured)(matrices(), torch.bfloat16)
    assert kept(home, measured)(matrices(), torch.bfloat16) == first
    assert measured.times == 1
    others = [
        kept(home, measured)(matrices(rows=128), torch.bfloat16),
        kept(home, measured)(matrices(dtype="float32"), torch.bfloat16),
        kept(home, measured)(matrices(), torch.float32),
        kept(tmp_path / "not there", measured)(matrices(), torch.bfloat16),
    ]
    assert len({first, *others}) == 5
    assert kept(home, measured)(matrices(), torch.bfloat16) == first
    # None, too, is a choice.
    assert kept(home, measured)(matrices(rows=128), torch.bfloat16) == others[0]
    assert others[0].wide_from is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\x00",
        '{"KEY": null}',
        '{"KEY": {"wide_from": 2}}',
        '{"KEY": {"wide_from": "2", "in_parts": [], "native_to": 0}}',
        '{"KEY": {"wide_from": 2, "in_parts": [], "native_to": 0, "onednn": 1}}',
    ],
)
def test_what_cannot_be_read_is_measured_anew(tmp_path: Path, text: str) -> None:
    import torch

    from tokmagic.engines.local.choices import kept

    measured, file = Measured(), tmp_path / "arithmetic.json"
    kept(tmp_path, measured)(matrices(), torch.bfloat16)
    (key,) = json.loads(file.read_text())
    file.write_text(text.replace("KEY", key))
    again = kept(tmp_path, measured)(matrices(), torch.bfloat16)
    assert measured.times == 2
    assert kept(tmp_path, measured)(matrices(), torch.bfloat16) == again
    assert measured.times == 2


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path: Path) -> None:
    import torch

    from tokmagic.engines.local.choices import kept

    home, measured = tmp_path / "file", Measured()
    home.write_text("no folder")
    kept(home, measured)(matrices(), torch.bfloat16)
    kept(home, measured)(matrices(), torch.bfloat16)
    assert measured.times == 2


def test_who_measures_at_the_same_time_computes_the_same(tmp_path: Path) -> None:
    import torch

    from tokmagic.engines.local.choices import kept

    measured, theirs = Measured(), []

    def slowly(matrices: Any, dtype: Any) -> Arithmetic:
        theirs.append(kept(tmp_path, measured)(matrices, dtype))
        return measured(matrices, dtype)

    slowly.__name__ = measured.__name__
    assert [kept(tmp_path, slowly)(matrices(), torch.bfloat16)] == theirs
    assert measured.times == 2


def test_time_that_goes_to_others_is_no_time_of_a_way() -> None:
    """Else a choice would depend on what else the machine does."""
    import time

    from tokmagic.engines.local.choices import _seconds

    waits, computes = _seconds(lambda: time.sleep(0.05), lambda: sum(range(200_000)))
    assert waits < computes


@pytest.mark.slow
def test_a_model_is_loaded_with_what_the_home_keeps(tiny_home: Path, tmp_path: Path) -> None:
    (folder,) = (tiny_home / "models").iterdir()
    made = tmp_path / "models" / folder.name
    made.mkdir(parents=True)
    for file in folder.iterdir():
        (made / file.name).symlink_to(file)
    # Of 16 bits, which may be multiplied in one way or another.
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").unlink()
    (made / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    measured = loaded(tmp_path)
    file = tmp_path / "arithmetic.json"
    ((key, entry),) = json.loads(file.read_text()).items()
    assert loaded(tmp_path) == measured
    assert list(json.loads(file.read_text())) == [key]
    for wide_from, told in ((None, None), (4, "float32 for several rows")):
        file.write_text(json.dumps({key: {**entry, "wide_from": wide_from, "native_to": 0}}))
        assert loaded(tmp_path) == told


def loaded(home: Path) -> str | None:
    """The arithmetic of the model, loaded by a new engine."""
    engine = opened("smollm2", home)
    engine.load(no_progress)
    found = engine.info.arithmetic
    engine.close()
    return found


def choosing(wide_from: int | None, *, onednn: bool = False) -> Any:
    """Chooses 32 bits, or what transformers computes."""
    from tokmagic.engines.local.products import Arithmetic

    return lambda _matrices, _dtype: Arithmetic(wide_from, onednn=onednn)


def doubled(matrix: Any, way: str | None) -> Any:
    """The matrix with a second form of its weights; the test is skipped where this processor knows none."""
    if not matrix.can_be_doubled(way):
        pytest.skip("there is no such second form of weights for this processor")
    return matrix.doubled(way)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 16, 200])
def test_packed_weights_give_the_same_products(rows: int, bias: bool) -> None:
    import torch
    from torch.nn import functional

    from tokmagic.engines.local.passes import alone
    from tokmagic.engines.local.products import Matrix

    weight, given = torch.randn(700, 96).bfloat16(), torch.randn(rows, 96).bfloat16()
    added = torch.randn(700).bfloat16() if bias else None
    packed = doubled(Matrix(weight, added), None)
    assert packed.second_bytes == weight.nbytes
    for native in (False, True):
        with alone(native=native):
            assert torch.equal(packed.product(given), functional.linear(given, weight, added))


@pytest.mark.parametrize("way", ["left", "parts", "onednn"])
@pytest.mark.parametrize("rows", [2, 3, 16, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_widened_weights_that_are_kept_give_the_same_products(rows: int, dtype: str, way: Any) -> None:
    import torch

    from tokmagic.engines.local.products import Matrix

    matrix = Matrix(torch.randn(5000, 700).to(getattr(torch, dtype)), torch.randn(5000))  # more than one piece
    kept = doubled(matrix, way)
    assert (matrix.second_bytes, kept.second_bytes) == (0, 2 * matrix.weight.nbytes)
    given = torch.randn(rows, 700)
    assert torch.equal(kept.wide(given, way), matrix.wide(given, way))
    row = given[:1].to(matrix.weight.dtype)
    bias = matrix.bias.to(row.dtype)
    assert torch.equal(Matrix(kept.weight, bias).product(row), Matrix(matrix.weight, bias).product(row))


def test_other_weights_have_no_second_form() -> None:
    import torch

    from tokmagic.engines.local.int8 import Int8
    from tokmagic.engines.local.products import Matrix

    ways: tuple[Any, ...] = (None, "left", "parts", "onednn")
    for matrix, way in (
        *((Int8.of(torch.randn(32, 32)), way) for way in ways),
        (Matrix(torch.ones(8, 8, dtype=torch.int32)), None),
        *((Matrix(torch.ones(8, 8)), way) for way in ways[1:]),
    ):
        assert matrix.doubled(way) is matrix
        assert not matrix.can_be_doubled(way)


@pytest.mark.parametrize(("wide_from", "onednn"), [(None, False), (2, False), (2, True)])
def test_a_second_form_is_kept_where_memory_is_plenty_and_answers_are_the_same(
    wide_from: int | None, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tokmagic.engines.local import decoder as module
    from tokmagic.engines.local.products import Matrix

    wide = wide_from is not None
    doubled(Matrix(torch.randn(32, 32).bfloat16()), "onednn" if onednn else "left" if wide else None)
    model = built("Llama", "bfloat16")
    ids = torch.randint(0, 300, (80,)).tolist()
    bytes_each = 4 if wide else 2
    second_bytes = bytes_each * sum(it.weight.numel() for it in model.modules() if type(it) is torch.nn.Linear)
    found = []
    for free, expected in ((4 * second_bytes, second_bytes), (4 * second_bytes - 4, 0), (None, 0)):
        monkeypatch.setattr(module, "free_ram", lambda free=free: free)
        own = module.decoder(model, choosing(wide_from, onednn=onednn))
        assert own is not None
        assert own.second_bytes == expected
        found.append(torch.stack(logits_here(own, ids, 60)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
