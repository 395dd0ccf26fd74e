"""Train the two models of the example and write everything that the build needs.

    pip install torch==2.13.0 scikit-learn onnx onnxscript
    python train.py

Data: the handwritten digits that ship with scikit-learn, 1,797 images of 8x8 cells with values 0..16, which is what a
touch grid sees of a finger (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, doi:10.24432/C50P49, CC BY 4.0). Two thirds train, one third is kept for testing.

Writes beside this file:

* touch.onnx         64-16-10, HardTanh between, scores of the ten digits (exporter of torch.export, opset 20)
* touch_cnn.onnx     depthwise-separable, with a residual, probabilities (TorchScript exporter, opset 13)
* touch_calib.npz    `grid`: 100 training images, float32 (100, 1, 8, 8), cells / 16: what the models are fed with
* touch_test.npz     `grid`: the test images as the grid delivers them, uint8 (N, 8, 8), 0..16; `label`: uint8 (N,)

A seed fixes the result on one version of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).parent
FULL_SCALE = 16.0
CALIBRATION_SAMPLES = 100


class Touch(nn.Module):
    """64-16-10 with HardTanh: (1, 1, 8, 8) -> (1, 10) scores; 1,184 multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 16)
        self.scores = nn.Linear(16, 10)

    def forward(self, grid: Tensor) -> Tensor:
        """Scores of the digits."""
        scores: Tensor = self.scores(nn.functional.hardtanh(self.hidden(grid.flatten(1))))
        return scores


class Separable(nn.Sequential):
    """Depthwise 3x3, then pointwise, each with batch normalization; HardTanh between them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Hardtanh(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )


class TouchCnn(nn.Module):
    """Convolution, a separable block with a residual, a separable block with stride 2: (1, 1, 8, 8) -> (1, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.Hardtanh())
        self.residual = Separable(12, 12, 1)
        self.reduce = Separable(12, 24, 2)
        self.scores = nn.Linear(24, 10)

    def forward(self, grid: Tensor) -> Tensor:
        """Scores of the digits."""
        features = self.stem(grid)
        features = nn.functional.relu(features + self.residual(features))
        features = nn.functional.relu(self.reduce(features))
        scores: Tensor = self.scores(features.mean((2, 3)))
        return scores


def train(build: Callable[[], nn.Module], grids: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A trained model, in evaluation mode; the images are shifted by up to a cell while training."""
    torch.manual_seed(1)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs=epochs, steps_per_epoch=len(grids) // 64 + 1)
    for _ in range(epochs):
        for batch in torch.randperm(len(grids)).split(64):
            shift = [int(step) for step in torch.randint(-1, 2, (2,))] if torch.rand(()) < 0.3 else [0, 0]
            images = torch.roll(grids[batch], shift, (2, 3))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels[batch], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def report(name: str, model: nn.Module, grids: Tensor, labels: Tensor) -> None:
    """Print the accuracy on images that training never saw."""
    with torch.no_grad():
        right = int((model(grids).argmax(1) == labels).sum())
    print(f"{name}: float accuracy {right}/{len(labels)} = {100 * right / len(labels):.2f} %")


def export(name: str, model: nn.Module, output: str, **options: object) -> None:
    """Write NAME.onnx without the stack traces, which hold paths of the machine, that the exporter puts into it."""
    path = HERE / f"{name}.onnx"
    example = (torch.zeros(1, 1, 8, 8),)
    torch.onnx.export(model, example, str(path), input_names=["grid"], output_names=[output], **options)
    exported = onnx.load(path)
    parts = (*exported.graph.node, *exported.graph.value_info, *exported.graph.initializer, exported.graph, exported)
    for part in parts:
        part.ClearField("metadata_props")
    onnx.save(exported, path)


def main() -> None:
    """Train, report, export."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    digits = load_digits()
    cells = digits.images.astype(np.uint8)
    train_cells, test_cells, train_labels, test_labels = train_test_split(
        cells, digits.target, test_size=1 / 3, random_state=1, stratify=digits.target
    )
    grids, test_grids = (
        torch.tensor(part[:, None] / FULL_SCALE, dtype=torch.float32) for part in (train_cells, test_cells)
    )
    labels, answers = torch.tensor(train_labels), torch.tensor(test_labels)

    touch = train(Touch, grids, labels, 120)
    report("touch", touch, test_grids, answers)
    export("touch", touch, "scores", opset_version=20, dynamo=True, external_data=False)

    touch_cnn = train(TouchCnn, grids, labels, 80)
    report("touch_cnn", touch_cnn, test_grids, answers)
    with_softmax = nn.Sequential(touch_cnn, nn.Softmax(1))
    export("touch_cnn", with_softmax, "probabilities", opset_version=13, dynamo=False)

    np.savez_compressed(HERE / "touch_calib.npz", grid=grids[:CALIBRATION_SAMPLES].numpy())
    np.savez_compressed(HERE / "touch_test.npz", grid=test_cells, label=test_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
