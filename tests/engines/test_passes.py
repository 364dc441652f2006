"""Passes of models on the CPU take turns, since the kernels that one wants are a switch of all of torch."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from tests.engines.test_decoder import LEFT_ALONE, built

pytestmark = pytest.mark.model


def onednn() -> Any:
    import torch

    return torch.backends.mkldnn


def test_onednn_is_switched_off_for_a_pass_alone() -> None:
    from tokmagic.engines.local.passes import alone

    before = bool(onednn().enabled)
    with alone():
        assert onednn().enabled == before
    with alone(native=True):
        assert not onednn().enabled
    assert onednn().enabled == before
    with pytest.raises(ZeroDivisionError), alone(native=True):
        _ = 1 / 0
    assert onednn().enabled == before


def test_who_switched_it_off_finds_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokmagic.engines.local.passes import alone, can_be_native

    before = bool(onednn().enabled)
    try:
        onednn().enabled = False
        assert not can_be_native()
        with alone(native=True):
            assert not onednn().enabled
        assert not onednn().enabled
    finally:
        onednn().enabled = before


def test_no_other_model_passes_meanwhile() -> None:
    """Neither one of ours nor one of transformers, whatever fails in it."""
    import torch

    from tokmagic.engines.local.passes import Followed, alone

    family, config = LEFT_ALONE["another family"]
    model, seen = built(family, "float32", **config), []
    Followed(model)
    model.model.layers[0].register_forward_pre_hook(lambda *_given: seen.append(bool(onednn().enabled)))
    before, began, ends = bool(onednn().enabled), threading.Event(), threading.Event()

    def ours() -> None:
        with alone(native=True):
            began.set()
            ends.wait(60)

    def theirs() -> None:
        with torch.inference_mode():
            model(torch.tensor([[1, 2]]))

    threads = [threading.Thread(target=it) for it in (ours, theirs)]
    threads[0].start()
    assert began.wait(60)
    threads[1].start()
    threads[1].join(0.3)
    assert seen == []
    ends.set()
    for thread in threads:
        thread.join(60)
    assert seen == [before]
    with pytest.raises(IndexError):
        model(torch.tensor([[10**6]]))
    with alone():
        pass


def test_a_call_that_a_later_hook_ends_keeps_no_turn() -> None:
    """As an answer that nobody reads any more is ended before its next pass."""
    import torch

    from tokmagic.engines.local.passes import Followed, alone

    layer = torch.nn.Linear(2, 2)
    Followed(layer)
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def end(*_given: Any, error: type[BaseException] = error) -> None:
            raise error

        ending = layer.register_forward_pre_hook(end)
        with pytest.raises(error):
            layer(torch.ones(1, 2))
        ending.remove()
        assert layer(torch.ones(1, 2)).shape == (1, 2)
        with alone():
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_is_forked_in_a_pass_begins_one_of_its_own() -> None:
    from tokmagic.engines.local.passes import alone

    before = bool(onednn().enabled)
    with alone(native=True):
        child = os.fork()
        if child == 0:
            is_back = onednn().enabled == before
            with alone():
                os._exit(0 if is_back else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("wide_from", "native_to", "told"),
    [
        (None, 0, None),
        (None, 2, "torch's own kernels for a row"),
        (4, 0, "float32 for several rows"),
        (2, 1, "torch's own kernels for a row, float32 for several rows"),
    ],
)
def test_the_arithmetic_says_what_is_rounded_elsewhere(wide_from: int | None, native_to: int, told: str | None) -> None:
    from tokmagic.engines.local.products import Arithmetic

    assert Arithmetic(wide_from, native_to=native_to).told == told


def test_few_rows_are_computed_by_torchs_own_kernels_where_those_are_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder
    from tokmagic.engines.local.products import Arithmetic

    own = decoder(built("Llama", "bfloat16"), lambda _matrices, _dtype: Arithmetic(native_to=2))
    assert own is not None
    seen, product = [], type(own.widest).product
    monkeypatch.setattr(
        type(own.widest), "product", lambda it, given: (seen.append(bool(onednn().enabled)), product(it, given))[1]
    )
    before, cache = bool(onednn().enabled), own.caches().new()
    with torch.inference_mode():
        for ids, enabled in (([1, 2, 3], before), ([4, 5], False), ([6], False)):
            seen.clear()
            own.forward([Segment(cache, ids)])
            assert set(seen) == {enabled}
    assert onednn().enabled == before


@pytest.mark.parametrize(("native_to", "is_off"), [(0, [False, False, False]), (2, [False, True, True])])
def test_a_model_of_transformers_has_few_rows_computed_so_too(native_to: int, is_off: list[bool]) -> None:
    import torch

    from tokmagic.engines.local.passes import Followed

    family, config = LEFT_ALONE["another family"]
    model, seen = built(family, "bfloat16", **config), []
    Followed(model).native_to = native_to
    before = bool(onednn().enabled)
    model.model.layers[0].register_forward_pre_hook(lambda *_given: seen.append(bool(onednn().enabled)))
    with torch.inference_mode():
        for ids in ([[1, 2, 3]], [[1], [2]]):
            model(torch.tensor(ids))
        model(input_ids=torch.tensor([[1]]))
    assert [it != before for it in seen] == is_off
    assert onednn().enabled == before


def test_where_onednn_is_not_in_use_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tokmagic.engines.local import choices
    from tokmagic.engines.local.products import AS_TRANSFORMERS, Matrix

    monkeypatch.setattr(choices, "_seconds", None)
    assert choices.for_transformers([], torch.float32) == AS_TRANSFORMERS
    monkeypatch.setattr(choices, "can_be_native", lambda: False)
    assert choices.for_transformers([Matrix(torch.ones(4, 4))], torch.float32) == AS_TRANSFORMERS
