"""The published networks once more, in plain float64 NumPy, from a checkpoint's names alone: the reference for imports.

Written after the structure of score_sde's PyTorch code (the order and the names of its modules), and without anything of our
package: it walks the list of modules as that code does, so names, order and arithmetic are tested together.
"""

import math

import numpy as np


def swish(x):
    return x / (1 + np.exp(-x))


class Weights:
    """A checkpoint as it is written: makes random tensors on first use, in order, and gives them back by name."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors, self.untrained, self.index = {}, [], -1

    def restart(self):
        self.index = -1

    def next(self):
        self.index += 1
        return f"module.all_modules.{self.index}."

    def get(self, name, *shape, around=0.0, trained=True):
        if name not in self.tensors:
            fan = max(1, math.prod(shape[1:]))
            self.tensors[name] = (around + self.rng.normal(size=shape) / math.sqrt(fan) * 0.7).astype(np.float32)
            self.untrained += [] if trained else [name]
        assert self.tensors[name].shape == shape, name
        return self.tensors[name].astype(np.float64)

    @property
    def averages(self):
        return [tensor for name, tensor in self.tensors.items() if name not in self.untrained]


class PublishedNetwork:
    """score_sde's NCSNpp on images (batch, channel, height, width)."""

    def __init__(self, weights, **fields):
        self.w = weights
        self.f = {
            "nf": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "block": "biggan", "taps": (), "output": "none",
            "input": "none", "combine": "sum", "embedding": "positional", "rescale": True, "scale_by_sigma": False,
            "sigmas": np.exp(np.linspace(np.log(50), np.log(0.01), 1000)), **fields,
        }  # fmt: skip

    # Layers, by the names of their tensors.

    def conv(self, x, name, out, stride=1, padding=1):
        kernel = self.w.get(name + "weight", out, x.shape[1], 3, 3)
        bias = self.w.get(name + "bias", out)
        return (
            self.correlate(np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2)), kernel, stride)
            + bias[:, None, None]
        )

    @staticmethod
    def correlate(x, kernel, stride=1):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::stride, ::stride]
        return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)

    def conv1x1(self, x, name, out):
        return (
            np.einsum("nchw,ocij->nohw", x, self.w.get(name + "weight", out, x.shape[1], 1, 1))
            + self.w.get(name + "bias", out)[:, None, None]
        )

    def linear(self, x, name, out):
        return x @ self.w.get(name + "weight", out, x.shape[1]).T + self.w.get(name + "bias", out)

    def nin(self, x, name, out):
        return (
            np.einsum("nchw,co->nohw", x, self.w.get(name + "W", x.shape[1], out))
            + self.w.get(name + "b", out)[:, None, None]
        )

    def norm(self, x, name):
        n, c, h, w = x.shape
        groups = x.reshape(n, min(c // 4, 32), -1)
        normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-6)
        scale, bias = self.w.get(name + "weight", c, around=1.0), self.w.get(name + "bias", c)
        return normal.reshape(x.shape) * scale[:, None, None] + bias[:, None, None]

    def add(self, x, h):
        return (x + h) / math.sqrt(2) if self.f["rescale"] else x + h

    # Resampling.

    def fir(self, x, up=1, down=1, gain=1.0, padding=(0, 0)):
        taps = np.asarray(self.f["taps"]) / np.sum(self.f["taps"])
        n, c, h, w = x.shape
        spread = np.zeros((n, c, h * up, w * up))
        spread[:, :, ::up, ::up] = x
        padded = np.pad(spread, ((0, 0), (0, 0), padding, padding))
        size = len(taps)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))[:, :, ::down, ::down]
        return np.einsum("nchwij,i,j->nchw", windows, taps[::-1], taps[::-1]) * gain

    def up(self, x):
        if not self.f["taps"]:
            return x.repeat(2, 2).repeat(2, 3)
        p = len(self.f["taps"]) - 2
        return self.fir(x, up=2, gain=4.0, padding=((p + 1) // 2 + 1, p // 2))

    def down(self, x):
        if not self.f["taps"]:
            return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
        p = len(self.f["taps"]) - 2
        return self.fir(x, down=2, padding=((p + 1) // 2, p // 2))

    def up_conv(self, x, name, out):
        if not self.f["taps"]:
            return self.conv(self.up(x), name + "Conv_0.", out)
        kernel = self.w.get(name + "Conv2d_0.weight", out, x.shape[1], 3, 3)
        bias = self.w.get(name + "Conv2d_0.bias", out)
        n, c, h, w = x.shape
        spread = np.zeros((n, c, 2 * h - 1, 2 * w - 1))
        spread[:, :, ::2, ::2] = x
        reached = self.correlate(np.pad(spread, ((0, 0), (0, 0), (2, 2), (2, 2))), kernel)
        p = len(self.f["taps"]) - 4
        return self.fir(reached, gain=4.0, padding=((p + 1) // 2 + 1, p // 2 + 1)) + bias[:, None, None]

    def down_conv(self, x, name, out):
        if not self.f["taps"]:
            kernel = self.w.get(name + "Conv_0.weight", out, x.shape[1], 3, 3)
            padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
            return self.correlate(padded, kernel, 2) + self.w.get(name + "Conv_0.bias", out)[:, None, None]
        kernel = self.w.get(name + "Conv2d_0.weight", out, x.shape[1], 3, 3)
        bias = self.w.get(name + "Conv2d_0.bias", out)
        p = len(self.f["taps"])
        return self.correlate(self.fir(x, padding=((p + 1) // 2, p // 2)), kernel, 2) + bias[:, None, None]

    # Blocks.

    def residual(self, x, time, out, change=None):
        name = self.w.next()
        h = swish(self.norm(x, name + "GroupNorm_0."))
        if change:
            h, x = change(h), change(x)
        h = self.conv(h, name + "Conv_0.", out) + self.linear(swish(time), name + "Dense_0.", out)[:, :, None, None]
        h = self.conv(swish(self.norm(h, name + "GroupNorm_1.")), name + "Conv_1.", out)
        if self.f["block"] == "biggan" and (x.shape[1] != out or change):
            x = self.conv1x1(x, name + "Conv_2.", out)
        elif x.shape[1] != out:
            x = self.nin(x, name + "NIN_0.", out)
        return self.add(x, h)

    def attend(self, x):
        name = self.w.next()
        n, c, height, width = x.shape
        h = self.norm(x, name + "GroupNorm_0.")
        q, k, v = (self.nin(h, name + f"NIN_{i}.", c).reshape(n, c, -1) for i in range(3))
        weights = np.exp(np.einsum("ncp,ncq->npq", q, k) / math.sqrt(c))
        weights /= weights.sum(-1, keepdims=True)
        h = np.einsum("npq,ncq->ncp", weights, v).reshape(x.shape)
        return self.add(x, self.nin(h, name + "NIN_3.", c))

    def norm_conv(self, h, out):
        h = swish(self.norm(h, self.w.next()))
        return self.conv(h, self.w.next(), out)

    def embed(self, levels):
        nf = self.f["nf"]
        if self.f["embedding"] == "fourier":
            frequencies = self.w.get(self.w.next() + "W", nf, trained=False)
            angles = np.log(levels)[:, None] * frequencies * 2 * np.pi
        else:
            angles = levels[:, None] * np.exp(-math.log(1e4) * np.arange(nf // 2) / (nf // 2 - 1))
        h = np.concatenate([np.sin(angles), np.cos(angles)], -1)
        return self.linear(swish(self.linear(h, self.w.next(), 4 * nf)), self.w.next(), 4 * nf)

    def __call__(self, x, levels):
        """The network's output for images and what it is told of time (999 t, or noise levels)."""
        f, mult, colours = self.f, self.f["mult"], x.shape[1]
        self.w.restart()
        time = self.embed(levels)
        pyramid, stack = x, [self.conv(x, self.w.next(), f["nf"])]
        for level, multiplier in enumerate(mult):
            for _ in range(f["blocks"]):
                h = self.residual(stack[-1], time, f["nf"] * multiplier)
                stack.append(self.attend(h) if h.shape[2] in f["attention"] else h)
            if level < len(mult) - 1:
                h, c = stack[-1], stack[-1].shape[1]
                h = (
                    self.residual(h, time, c, self.down)
                    if f["block"] == "biggan"
                    else self.down_conv(h, self.w.next(), c)
                )
                if f["input"] == "input_skip":
                    pyramid = self.down(pyramid)
                    features = self.conv1x1(pyramid, self.w.next() + "Conv_0.", c)
                    h = features + h if f["combine"] == "sum" else np.concatenate([features, h], 1)
                elif f["input"] == "residual":
                    h = pyramid = self.add(self.down_conv(pyramid, self.w.next(), c), h)
                stack.append(h)
        h = stack[-1]
        h = self.residual(h, time, h.shape[1])
        h = self.residual(self.attend(h), time, h.shape[1])
        pyramid = None
        for level in reversed(range(len(mult))):
            for _ in range(f["blocks"] + 1):
                h = self.residual(np.concatenate([h, stack.pop()], 1), time, f["nf"] * mult[level])
            h = self.attend(h) if h.shape[2] in f["attention"] else h
            if f["output"] == "output_skip":
                made = self.norm_conv(h, colours)
                pyramid = made if pyramid is None else self.up(pyramid) + made
            elif f["output"] == "residual":
                c = h.shape[1]
                if pyramid is None:
                    pyramid = self.norm_conv(h, c)
                else:
                    h = pyramid = self.add(self.up_conv(pyramid, self.w.next(), c), h)
            if level:
                c = h.shape[1]
                h = self.residual(h, time, c, self.up) if f["block"] == "biggan" else self.up_conv(h, self.w.next(), c)
        h = pyramid if f["output"] == "output_skip" else self.norm_conv(h, colours)
        if f["scale_by_sigma"]:
            used = levels if f["embedding"] == "fourier" else f["sigmas"][levels.astype(int)]
            h = h / used[:, None, None, None]
        return h
