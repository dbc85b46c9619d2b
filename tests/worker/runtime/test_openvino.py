"""The runtime of OpenVINO, compared with that of PyTorch, which defines the probabilities."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.numpy import load, save
from sqlalchemy import select

from db.engine import Database
from db.models.card import FasterPrecision, ModelCard, ModelInvalid
from db.models.store import read_card
from db.tables import Prediction
from deploy.models import default_model
from tests.pictures import read_picture
from tests.worker.screening.batches import submit
from worker.runtime.features import feature_count
from worker.runtime.loading import chosen, load_model
from worker.runtime.openvino.network import build_graph
from worker.runtime.openvino.ranges import learn_ranges
from worker.runtime.openvino.runtime import OpenVinoRuntime
from worker.runtime.passes import Passes, outputs_of
from worker.runtime.precision import TOLERANCE, LoadedModel, ladder, log_odds
from worker.runtime.protocol import DeviceUnusable, ModelWeightsUnfit, Output, Precision, Runtime
from worker.runtime.torch.artifact import pack_weights
from worker.runtime.torch.normalisation import normalise
from worker.runtime.torch.runtime import build_network
from worker.screening.batch import Screener
from worker.settings import WorkerSettings

#: Two libraries add in different orders. On 30 radiographs the difference was 0.00002 at most.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def fast() -> Runtime:
    return load_model(default_model(), runtime="openvino")


def lively(backbone: str, card: ModelCard, pictures: np.ndarray) -> tuple[ModelCard, bytes]:
    """Return a network with random weights, and with means and variances of batch norm that fit the pictures.

    Without them, random weights make the probabilities of all pictures 0 or 1.
    """
    torch.manual_seed(5)
    network = build_network(backbone, 2).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # type: ignore[assignment]  # the mean of all that was seen
            torch.nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        network(normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2), card.mean, card.std))
    return card.model_copy(update={"backbone": backbone}), pack_weights(network.state_dict())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "alexnet"])
def test_every_backbone_has_the_probabilities_and_features_of_pytorch(
    backbone: str, artefact: Path, pictures: np.ndarray
) -> None:
    from worker.runtime.openvino import runtime as ours
    from worker.runtime.torch import runtime as theirs

    card, weights = lively(backbone, read_card(artefact), pictures)
    exact = theirs.load(card, weights, device="cpu").forward(pictures)
    rows = ours.load(card, weights).forward(pictures, Precision.FP32)
    # Random networks enlarge rounding more than trained ones. A wrong layer would change a lot.
    difference = np.abs(rows.probabilities - exact.probabilities).max()
    assert difference < exact.probabilities[:, 0].std() / 100
    assert np.allclose(rows.probabilities.sum(axis=1), 1, atol=1e-6)
    assert rows.features.shape == (len(pictures), feature_count(backbone))
    assert np.allclose(rows.features, exact.features, rtol=1e-3, atol=1e-3 * exact.features.std())
    upper, lower = np.split(exact.features, 2, axis=1)
    assert not np.allclose(upper, lower, rtol=0.1), "the halves are told apart"


def test_the_shipped_model_has_the_probabilities_of_pytorch(fast: Runtime, pictures: np.ndarray) -> None:
    exact = outputs_of(load_model(default_model(), device="cpu"), pictures).probabilities
    assert np.abs(outputs_of(fast, pictures).probabilities - exact).max() < ROUNDING


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_concurrent_requests_give_each_picture_its_own_probabilities_to_the_last_bit(
    artefact: Path, pictures: np.ndarray, precision: Precision
) -> None:
    from worker.runtime.openvino.runtime import load

    fast = load(*with_int8(*lively("resnet18", read_card(artefact), pictures), pictures))
    alone = np.concatenate([fast.forward(picture[None], precision).probabilities for picture in pictures])
    assert len(np.unique(alone[:, 0])) == len(pictures), "a mix-up would show"
    order = np.random.default_rng(1).integers(0, len(pictures), 60)
    together = fast.forward(pictures[order], precision).probabilities
    assert np.array_equal(together, alone[order])
    one_array = np.ascontiguousarray(pictures[::-1])
    assert np.array_equal(fast.forward(one_array, precision).probabilities, alone[::-1]), "views of one array"


def with_int8(card: ModelCard, weights: bytes, pictures: np.ndarray) -> tuple[ModelCard, bytes]:
    """Return a model whose card has ranges that were learnt from the pictures."""
    faster = FasterPrecision(error=1, ranges=learn_ranges(card, weights, pictures))
    return card.model_copy(update={"precisions": {"int8": faster}}), weights


@pytest.mark.parametrize(("backbone", "last"), [("resnet18", "0.7.1"), ("alexnet", "0.0.12")])
def test_the_features_in_whole_numbers_of_8_bits_are_near_those_in_single_precision(
    backbone: str, last: str, artefact: Path, pictures: np.ndarray
) -> None:
    card, weights = with_int8(*lively(backbone, read_card(artefact), pictures), pictures)

    def features(ranges: Mapping[str, float]) -> np.ndarray:
        network = build_graph(card, weights, ranges)
        (node,) = (one for one in network.get_ops() if one.get_friendly_name() == last)
        network.add_outputs([node.output(0)])
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        found = openvino.Core().compile_model(network, "CPU", settings)(pictures)
        return np.asarray(found[1]).ravel()

    # Not the probabilities: a head with random weights enlarges any difference.
    exact, rounded = features({}), features(card.precisions["int8"].ranges)
    assert np.corrcoef(exact, rounded)[0, 1] > 0.98
    assert np.abs(rounded - exact).max() > 1e-3, "nothing was rounded"


def test_the_shipped_model_in_whole_numbers_is_as_near_as_its_card_says(
    fast: Runtime, pictures: np.ndarray
) -> None:
    column, known = fast.card.positive_columns[0], fast.card.precisions["int8"]
    exact, rounded = (
        np.array([log_odds(float(one)) for one in fast.forward(pictures, precision).probabilities[:, column]])
        for precision in (Precision.FP32, Precision.INT8)
    )
    # Noise is unlike all that the ranges were learnt from. The format says that it does not know.
    differences = np.abs(rounded - exact)
    assert 1e-4 < differences[:2].max() < known.error
    assert (np.abs(rounded[2:]) < 1).all()
    passes = Passes[int](LoadedModel(fast), adaptive=True, size=4)
    rows = dict([*passes.add(enumerate(pictures)), *passes.finish()])
    found = np.array([row.values[column] for _, row in sorted(rows.items()) if row])
    assert np.abs(found - fast.forward(pictures, Precision.FP32).probabilities[:, column]).max() <= TOLERANCE


def test_most_convolutions_compute_with_whole_numbers(artefact: Path, pictures: np.ndarray) -> None:
    card, weights = with_int8(*lively("resnet50", read_card(artefact), pictures), pictures)
    compiled = openvino.Core().compile_model(
        build_graph(card, weights, card.precisions["int8"].ranges), "CPU"
    )
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [
        str(info["primitiveType"].get()) for info in nodes if str(info["layerType"].get()) == "Convolution"
    ]
    # The first layer and the four convolutions of the first block are not rounded.
    assert [kind.endswith("I8") for kind in kinds].count(False) == 5


def test_a_model_without_learnt_ranges_is_in_single_precision(artefact: Path) -> None:
    fast = load_model(artefact, runtime="openvino")
    assert Precision.INT8 in fast.precisions
    assert ladder(fast) == (Precision.FP32,)


def test_a_probability_is_the_same_on_any_number_of_cores(
    artefact: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.runtime.openvino.runtime import load

    card, weights = lively("resnet18", read_card(artefact), pictures)
    rows = []
    for cores in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        rows.append(load(card, weights).forward(pictures).probabilities)
    assert np.array_equal(*rows)


def test_no_black_picture_is_computed(
    fast: Runtime, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    original = OpenVinoRuntime.forward

    def counted(self: OpenVinoRuntime, pixels: np.ndarray, precision: Precision) -> Output:
        computed.append(len(pixels))
        return original(self, pixels, precision)

    monkeypatch.setattr(OpenVinoRuntime, "forward", counted)
    outputs_of(fast, pictures[:5], size=4)
    assert computed == [4, 1]


def test_weights_that_do_not_fit_are_refused(artefact: Path) -> None:
    card = read_card(artefact)
    content = (artefact / "model.safetensors").read_bytes()
    state = load(content)
    for wrong in (
        {name: values for name, values in state.items() if name != "1.8.weight"},
        state | {"0.0.extra": state["1.8.weight"]},
        state | {"1.8.weight": state["1.8.weight"][:1]},
        state | {"0.0.weight": state["0.0.weight"][:, :1]},
    ):
        with pytest.raises(ModelWeightsUnfit):
            build_graph(card, save(wrong))
    with pytest.raises(ModelWeightsUnfit):
        build_graph(card.model_copy(update={"backbone": "resnet34"}), content)
    with pytest.raises(ModelInvalid, match="finite"):
        build_graph(card, save(state | {"1.8.weight": state["1.8.weight"] * np.float32("nan")}))
    with pytest.raises(ModelInvalid):
        build_graph(card, b"no safetensors")
    with pytest.raises(DeviceUnusable):
        load_model(artefact, runtime="openvino", device="cuda")


#: Screens a picture and prints which of some modules were imported.
WITHOUT_TORCH = """
import json, sys
from pathlib import Path
import numpy as np
from worker.runtime.loading import load_model
runtime = load_model(Path(sys.argv[1]), runtime="openvino")
row = runtime.forward(np.zeros((1, 224, 224, 3), np.uint8), "fp32").probabilities
print(json.dumps([name for name in ("torch", "fastai", "openvino_telemetry") if sys.modules.get(name)]))
"""


def test_neither_pytorch_nor_what_reports_to_openvinos_makers_is_imported(artefact: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(artefact)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_openvino_is_chosen_on_a_machine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.runtime.loading._GPUS", (str(tmp_path / "gpu"),))
    assert chosen("auto") == "openvino"
    assert chosen("torch") == "torch"
    (tmp_path / "gpu").touch()
    assert chosen("auto") == "torch"
    assert chosen("openvino") == "openvino"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_each_prediction_names_its_runtime(database: Database, phantoms: Path, runtime: str) -> None:
    files = sorted((phantoms / "jpeg").iterdir())
    settings = WorkerSettings(runtime=runtime)  # type: ignore[arg-type]
    Screener(database, settings).screen(submit(database, files))
    with database.read() as session:
        rows = session.scalars(select(Prediction)).all()
    assert len(rows) == len(files)
    assert {row.runtime.partition("-")[0] for row in rows} == {runtime}


@pytest.mark.shared
def test_radiographs_have_the_probabilities_of_pytorch(shared: Path, fast: Runtime) -> None:
    files = sorted((shared / "chest_xray_original").rglob("*.jpeg"))[::4]
    radiographs = np.stack([read_picture(file).pixels for file in files])
    exact = outputs_of(load_model(default_model(), device="cpu"), radiographs).probabilities
    assert np.abs(outputs_of(fast, radiographs).probabilities - exact).max() < ROUNDING
