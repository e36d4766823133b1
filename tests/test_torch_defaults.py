"""What the user set as torch's default type, device or precision changes nothing: hepcal names its own."""

import ast
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

import hepcal
from hepcal.errors import CollapsedWarning
from hepcal.methods.calibrator import Calibrator
from hepcal.networks.settings import own_settings

# Functions of torch that make tensors, and whether their type is torch's default if they are not told.
OF_DEFAULT_TYPE = {
    "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
OF_INTEGERS = {"arange", "as_tensor", "asarray", "randint", "randperm"}


@contextmanager
def defaults(kind: str) -> Iterator[None]:
    """Another default type, a default device that computes nothing, products of rounded factors."""
    if "float64" in kind:
        torch.set_default_dtype(torch.float64)
    if "meta" in kind:
        torch.set_default_device("meta")
    if "bfloat16" in kind:
        torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in kind):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_float32_matmul_precision("highest")


def said(calibrator: Calibrator, pairs: hepcal.JetPairs) -> list[np.ndarray]:
    """Numbers of a freshly opened calibrator."""
    prediction = Calibrator.from_content(calibrator.content, inference=calibrator.inference).predict(pairs)
    found = [prediction.mean, prediction.in_range]
    found += [sigma for sigma in (prediction.sigma_stoch, prediction.sigma_pred) if sigma is not None]
    if prediction.components is not None:
        found += [prediction.median(), prediction.sample(2, seed=1)]
    if prediction.components is not None or prediction.belt is not None:
        found += prediction.interval()
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("mse", kind) for kind in ("float64", "meta", "bfloat16", "autocast")),
        *((name, kind) for name in sorted(TINY) for kind in ("float64, meta", "bfloat16, autocast")),
    ],
)
def test_another_default_type_or_device_changes_no_bit(
    name: str,
    kind: str,
    train_tiny: Callable[[str], Calibrator],
    tiny_calibrator: Callable[[str], Calibrator],
    tiny_pairs: hepcal.JetPairs,
) -> None:
    expected = tiny_calibrator(name)
    with defaults(kind):
        found = train_tiny(name)
        assert found.sha256 == expected.sha256
        numbers = said(found, tiny_pairs)
    for one, other in zip(numbers, said(expected, tiny_pairs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["float64, meta", "bfloat16, autocast"])
def test_moments_do_not_depend_on_defaults_either(
    kind: str, tiny_calibrator: Callable[[str], Calibrator], tiny_pairs: hepcal.JetPairs
) -> None:
    expected = tiny_calibrator("bnn").with_inference("moments")
    with defaults(kind):
        found = said(tiny_calibrator("bnn").with_inference("moments"), tiny_pairs)
    for one, other in zip(found, said(expected, tiny_pairs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["bnn_tails", "gaussian_ansatz", "mse"])
def test_gradients_that_the_user_switched_off_do_not_matter(
    name: str, train_tiny: Callable[[str], Calibrator], tiny_calibrator: Callable[[str], Calibrator]
) -> None:
    with torch.inference_mode():
        found = train_tiny(name)
    assert found.sha256 == tiny_calibrator(name).sha256
    with torch.no_grad():
        assert train_tiny(name).sha256 == found.sha256


def test_precision_comes_back_when_the_last_thread_has_left() -> None:
    products = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("medium")
    before = [product.fp32_precision for product in products]
    inside, others_left = threading.Event(), threading.Event()

    def stays() -> None:
        with own_settings():
            inside.set()
            others_left.wait(60)
            seen.extend(product.fp32_precision for product in products)

    seen: list[str] = []
    other = threading.Thread(target=stays)
    try:
        with own_settings(), own_settings():
            other.start()
            assert inside.wait(60)
        assert [product.fp32_precision for product in products] == ["ieee", "ieee"]
        others_left.set()
        other.join(60)
        assert seen == ["ieee", "ieee"]
        assert [product.fp32_precision for product in products] == before != seen
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_taggers_do_not_depend_on_defaults_either(top_jets: hepcal.JetPairs) -> None:
    method = hepcal.tagging.LoLa(constituents=4, hidden=(4,), draws=3, max_updates=20, patience=20, bayesian=True)

    def trained() -> tuple[bytes, np.ndarray, np.ndarray]:
        with pytest.warns(CollapsedWarning):  # both classes are the same
            tagger = hepcal.tagging.train(top_jets, top_jets, method, seed=1, show=False)
        found = pickle.loads(pickle.dumps(tagger.predict(top_jets)))  # noqa: S301
        return tagger.content, found.score, found.logits()

    expected = trained()
    with defaults("float64, meta, bfloat16, autocast"), torch.inference_mode():
        found = trained()
    assert found[0] == expected[0]
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_tensor_is_made_with_a_type_and_a_device() -> None:
    """Also where no test looks, such as streamed tables and taggers."""
    lacking = []
    for path in sorted(Path(hepcal.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.")):
                continue
            given, name = {keyword.arg for keyword in node.keywords}, ast.unparse(node.func).removeprefix("torch.")
            wanted = {"dtype", "device"} if name in OF_DEFAULT_TYPE else {"device"} if name in OF_INTEGERS else set()
            if not wanted <= given:
                lacking.append(f"{path.name}:{node.lineno}: torch.{name} without {', '.join(sorted(wanted - given))}")
    assert lacking == []
