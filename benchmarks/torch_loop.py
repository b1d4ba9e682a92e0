"""A DDPM++ drift in plain PyTorch, trained and solved by a plain loop: what benchmarks/side_by_side.py compares with.

It runs in a Python of its own that has PyTorch, NumPy and safetensors, and imports nothing of this package. It is told one
request a line on its standard input, as JSON, and answers each with one:

    {"do": "load", "file": ..., "dtype": "bfloat16"}    weights in this package's names and layout
    {"do": "step" | "forward" | "sample" | "encode"}    once, on pixels of its own; answers {"seconds": ...}
    {"do": "compare", "file": ..., "out": ...}    the drift of given inputs, for a comparison of the networks
    {"do": "train", "steps": ..., "images": FILE, "out": FILE, "seed": ...}    trains and writes the averaged weights

Convolutions in channels-last memory, attention by scaled_dot_product_attention, Adam over all parameters at once: as its
documentation advises. bfloat16 is autocast's; parameters and optimizer stay float32, as here.
"""

import contextlib
import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn


class Norm(nn.GroupNorm):
    """Normalization of min(channels / 4, 32) groups."""

    def __init__(self, channels: int) -> None:
        super().__init__(min(channels // 4, 32), channels, eps=1e-6)


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Block(nn.Module):
    """BigGAN's residual block, conditioned by a gain of the class and a shift of the time (ScoreFlow, eq. 21)."""

    def __init__(self, inputs: int, outputs: int, change: str | None, shared: dict[str, Any]) -> None:
        super().__init__()
        width = shared["width"]
        self.norm_0, self.conv_0 = Norm(inputs), conv3(inputs, outputs)
        self.class_gain = nn.Linear(width, outputs) if shared["conditional"] else None
        self.time = nn.Linear(width, outputs)
        self.norm_1, self.conv_1 = Norm(outputs), conv3(outputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or change else None
        self.change, self.dropout, self.divisor = change, shared["dropout"], shared["divisor"]

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        """The block's output."""
        h = F.silu(self.norm_0(x))
        if self.change == "up":
            h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        if self.change == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv_0(h)
        if self.class_gain is not None:
            h = h * self.class_gain(condition)[:, :, None, None]
        h = h + self.time(time)[:, :, None, None]
        h = self.conv_1(F.dropout(F.silu(self.norm_1(h)), self.dropout, self.training))
        return ((x if self.skip is None else self.skip(x)) + h) / self.divisor


class Attention(nn.Module):
    """Self-attention of one head over the pixels."""

    def __init__(self, channels: int, divisor: float) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """x plus attention over it."""
        h = self.norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h))
        return (x + self.out(h).transpose(1, 2).reshape(x.shape)) / self.divisor


class Drift(nn.Module):
    """f(x, t, c) of images (batch, channel, height, width)."""

    def __init__(self, *, model: dict[str, Any], side: int, channels: int, classes: int) -> None:
        super().__init__()
        base = model["base_channels"]
        self.patch, self.scale, self.base, width = model["patch"], model["time_scale"], base, 4 * base
        self.time_0, self.time_1 = nn.Linear(base, width), nn.Linear(width, width)
        self.class_embedding = nn.Embedding(classes, width) if classes else None
        divisor = math.sqrt(2) if model["skip_rescale"] else 1.0
        self.shared = {"width": width, "conditional": classes > 0, "dropout": model["dropout"], "divisor": divisor}
        self.attended, self.order = model["attention_resolutions"], []
        folded = channels * self.patch**2
        self.in_conv = conv3(folded, base)
        widths = [base * multiplier for multiplier in model["channel_multipliers"]]
        h, side, kept = self._build_down(widths, model["num_blocks"], side // self.patch)
        self._block("middle_block_0", h, h)
        self._attention("middle_attention", h)
        self._block("middle_block_1", h, h)
        h = self._build_up(widths, model["num_blocks"], h, side, kept)
        self.out_norm, self.out_conv = Norm(h), conv3(h, folded)

    def _block(self, name: str, inputs: int, outputs: int, change: str | None = None) -> None:
        self.add_module(name, Block(inputs, outputs, change, self.shared))
        self.order.append(name)

    def _attention(self, name: str, channels: int) -> None:
        self.add_module(name, Attention(channels, self.shared["divisor"]))
        self.order.append(name)

    def _build_down(self, widths: list[int], blocks: int, side: int) -> tuple[int, int, list[int]]:
        """The way down; returns the last channels and side, and the channels of what the way up takes."""
        h, kept = self.base, [self.base]
        for level, width in enumerate(widths):
            for i in range(blocks):
                self._block(f"down_{level}_block_{i}", h, width)
                h = width
                if side in self.attended:
                    self._attention(f"down_{level}_attention_{i}", h)
                self.order.append("keep")
                kept.append(h)
            if level + 1 < len(widths):
                self._block(f"down_{level}_resample", h, h, "down")
                self.order.append("keep")
                kept.append(h)
                side //= 2
        return h, side, kept

    def _build_up(self, widths: list[int], blocks: int, h: int, side: int, kept: list[int]) -> int:
        """The way up; returns the last channels."""
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                self.order.append("take")
                self._block(f"up_{level}_block_{i}", h + kept.pop(), width)
                h = width
            if side in self.attended:
                self._attention(f"up_{level}_attention", h)
            if level:
                self._block(f"up_{level}_resample", h, h, "up")
                side *= 2
        return h

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """dx/dt."""
        half = self.base // 2
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
        angles = self.scale * t[:, None] * frequencies
        time = self.time_1(F.silu(self.time_0(torch.cat([angles.sin(), angles.cos()], 1))))
        time = F.silu(time)
        condition = None if self.class_embedding is None else self.class_embedding(label)
        h = self.in_conv(fold(x, self.patch))
        kept = [h]
        for name in self.order:
            if name == "keep":
                kept.append(h)
            elif name == "take":
                h = torch.cat([h, kept.pop()], 1)
            else:
                module = getattr(self, name)
                h = module(h) if isinstance(module, Attention) else module(h, time, condition)
        return unfold(self.out_conv(F.silu(self.out_norm(h))).float(), self.patch)


def fold(x: Tensor, patch: int) -> Tensor:
    """Patches into channels, as this package orders them: row and column in the patch before the channel."""
    if patch == 1:
        return x
    b, c, height, width = x.shape
    x = x.reshape(b, c, height // patch, patch, width // patch, patch).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(b, -1, height // patch, width // patch).contiguous(memory_format=torch.channels_last)


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    if patch == 1:
        return x
    b, c, height, width = x.shape
    x = x.reshape(b, patch, patch, c // patch**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // patch**2, height * patch, width * patch)


def to_torch(weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """State of `Drift` from {"down_0_block_0.conv_0.kernel": (height, width, in, out), ...}."""
    state = {}
    for name, value in weights.items():
        *path, last = name.split(".")
        if last == "kernel" and value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif last == "kernel":
            value = value.T[:, :, None, None] if path[-1] == "skip" else value.T
        state[".".join([*path, "weight" if last in ("kernel", "scale", "embedding") else last])] = torch.tensor(value)
    return state


def from_torch(state: dict[str, Tensor], names: list[str]) -> dict[str, np.ndarray]:
    """The weights of `to_torch` again, under the given names."""
    weights = {}
    for name in names:
        *path, last = name.split(".")
        value = state[".".join([*path, "weight" if last in ("kernel", "scale", "embedding") else last])].numpy()
        if last == "kernel":
            value = (
                value[:, :, 0, 0].T
                if path[-1] == "skip"
                else value.transpose(2, 3, 1, 0)
                if value.ndim == 4
                else value.T
            )
        weights[name] = np.ascontiguousarray(value)
    return weights


class Process:
    """The network and what it is asked to do."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.side, self.channels = config, config["data"]["shape"][0], config["data"]["shape"][2]
        conditional = config["model"]["conditional"]
        classes = config["data"]["num_classes"] if conditional else 0
        self.network = Drift(model=config["model"], side=self.side, channels=self.channels, classes=classes)
        self.network.to(memory_format=torch.channels_last)
        self.batch, self.names, self.autocast = config["train"]["batch_size"], [], contextlib.nullcontext
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (self.batch, self.side, self.side, self.channels), np.uint8)
        self.pixels, self.labels = torch.tensor(pixels), torch.arange(self.batch) % max(classes, 1)
        self.start_training()

    def start_training(self) -> None:
        """A fresh optimizer and average."""
        o = self.config["optimizer"]
        self.parameters = list(self.network.parameters())
        betas = (o["b1"], o["b2"])
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=o["learning_rate"], betas=betas, eps=o["epsilon"], fused=True
        )
        self.average, self.steps = [p.detach().clone() for p in self.parameters], 0

    def load(self, file: str, dtype: str) -> dict[str, Any]:
        """Takes weights, and the type to compute in."""
        weights = load_file(file)
        self.names = list(weights)
        self.network.load_state_dict(to_torch(weights), strict=True)
        if dtype == "bfloat16":
            self.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
        self.start_training()
        return {"parameters": sum(p.numel() for p in self.parameters), "torch": torch.__version__}

    def drift(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The network under the type that it computes in."""
        with self.autocast():
            return self.network(x, t, label)

    def step(self, pixels: Tensor | None = None, labels: Tensor | None = None) -> float:
        """One step of training: rectified flow's loss with logit-normal times, clipping, warm-up, Adam, average."""
        if pixels is None:
            pixels, labels = self.pixels, self.labels
        o, data, times = self.config["optimizer"], self.config["data"], self.config["times"]
        self.network.train()
        x1 = pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float()
        x1 = (x1 + torch.rand_like(x1)) / 128 - 1 if data["dequantize"] else x1 / 127.5 - 1
        if data["flip"]:
            x1 = torch.where(torch.rand(len(x1), 1, 1, 1) < 0.5, x1.flip(3), x1)
        x0 = torch.randn_like(x1)
        t = torch.sigmoid(times["mean"] + times["std"] * torch.randn(len(x1)))
        x = torch.lerp(x0, x1, t[:, None, None, None])
        loss = F.mse_loss(self.drift(x, t, labels), x1 - x0)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, o["clip_norm"])
        rate = o["learning_rate"] * min(1.0, self.steps / max(o["warmup_steps"], 1))
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.steps += 1
        decay = min(self.config["train"]["ema_decay"], (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return loss.item()

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The drift of one batch at times from 0.1 to 0.9."""
        self.network.eval()
        x = torch.randn(self.batch, self.channels, self.side, self.side).contiguous(memory_format=torch.channels_last)
        return self.drift(x, torch.linspace(0.1, 0.9, self.batch), self.labels)

    @torch.inference_mode()
    def solve(self, start: float, end: float, steps: int = 10) -> Tensor:
        """The midpoint method in equal steps, two network calls each."""
        self.network.eval()
        x = torch.randn(self.batch, self.channels, self.side, self.side).contiguous(memory_format=torch.channels_last)
        h = (end - start) / steps
        for i in range(steps):
            t = torch.full((self.batch,), start + i * h)
            middle = x + h / 2 * self.drift(x, t, self.labels)
            x = x + h * self.drift(middle, t + h / 2, self.labels)
        return x

    def train(self, steps: int, images: str, out: str, seed: int) -> dict[str, Any]:
        """Trains on train_images of an .npz file, in an order drawn anew each epoch; writes the averaged weights."""
        torch.manual_seed(seed)
        with np.load(images) as file:
            pixels, labels = torch.tensor(file["train_images"]), torch.tensor(file["train_labels"].astype(np.int64))
        self.start_training()
        order, losses, start = torch.randperm(len(pixels)), [], time.perf_counter()
        for _ in range(steps):
            if len(order) < self.batch:
                order = torch.randperm(len(pixels))
            rows, order = order[: self.batch], order[self.batch :]
            losses.append(self.step(pixels[rows], labels[rows]))
        seconds = time.perf_counter() - start
        names = [name for name, _ in self.network.named_parameters()]
        save_file(from_torch(dict(zip(names, self.average, strict=True)), self.names), out)
        return {"loss": sum(losses[-100:]) / len(losses[-100:]), "seconds": seconds}

    @torch.inference_mode()
    def compare(self, file: str, out: str) -> dict[str, Any]:
        """Writes the drift of given inputs."""
        given = load_file(file)
        self.network.eval()
        x = torch.tensor(given["x"]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        label = torch.tensor(given["label"]) if "label" in given else None
        y = self.drift(x, torch.tensor(given["t"]), label).permute(0, 2, 3, 1)
        save_file({"drift": np.ascontiguousarray(y.numpy())}, out)
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what a request asks for."""
        what = request.pop("do")
        if what in ("load", "train", "compare"):
            return getattr(self, what)(**request)
        once = {
            "step": self.step,
            "forward": self.forward,
            "sample": lambda: self.solve(0.0, 1.0),
            "encode": lambda: self.solve(1.0, 0.0),
        }
        start = time.perf_counter()
        once[what]()
        return {"seconds": time.perf_counter() - start}


def main() -> None:
    """Answers one request a line; the first argument is the config, as JSON."""
    process = Process(json.loads(sys.argv[1]))
    print(json.dumps({"ready": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(process.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
