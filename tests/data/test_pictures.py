"""Pictures of every format, mode and size, against numpy, closed forms and Pillow's own operations done by hand."""

import errno
import io
import os
import pathlib
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageOps

from scoreflow_jax.data import pictures
from scoreflow_jax.data.pictures import UnreadablePicture, check_picture, framed, read_picture, suffixes
from tests.conftest import shared
from tests.data.folders import noise, reachable_folder, without_rights

LANCZOS = Image.Resampling.LANCZOS


def saved(path, picture, **options):
    """Writes pixels or a picture; returns the path."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(path, **options)
    return path


def encoded(picture, format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def read(path, channels=3):
    """Read at its own size, so that nothing is resized."""
    width, height, _ = check_picture(path)
    pixels = read_picture(path, (height, width, channels))
    assert pixels.dtype == np.uint8
    return pixels if channels == 3 else pixels[..., 0]


def refused(path, *parts):
    """Both ways of reading refuse it with the same printable reason, without its name."""
    reasons = []
    for call in (check_picture, lambda p: read_picture(p, (4, 4, 3))):
        with pytest.raises(UnreadablePicture) as caught:
            call(path)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    assert reasons[0].isprintable()
    assert str(path) not in reasons[0]
    for part in parts:
        assert part in reasons[0]


def png(samples, color_type, chunks=()):
    """A PNG of 16-bit samples, which Pillow cannot write in colour; `chunks` go before the pixels."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


# Framing


def test_nothing_is_done_to_a_picture_of_the_right_size(tmp_path):
    pixels = noise(9, 13)
    path = saved(tmp_path / "a.png", pixels)
    for framing in ("crop", "fit"):
        np.testing.assert_array_equal(read_picture(path, (9, 13, 3), framing), pixels)
        np.testing.assert_array_equal(framed(pixels, (9, 13, 3), framing), pixels)


@pytest.mark.parametrize(
    ("size", "shape", "box"),  # sizes are (height, width), boxes (left, top, right, bottom)
    [
        ((40, 90), (16, 16), (25, 0, 65, 40)),
        ((91, 40), (16, 16), (0, 25, 40, 65)),
        ((40, 40), (10, 20), (0, 10, 40, 30)),
        ((30, 31), (60, 62), (0, 0, 31, 30)),
        ((5, 7), (16, 16), (1, 0, 6, 5)),
    ],
)
def test_the_largest_centred_part_is_resized_by_pillows_lanczos(tmp_path, size, shape, box):
    pixels = noise(*size)
    path = saved(tmp_path / "a.png", pixels)
    wanted = Image.fromarray(pixels).crop(box).resize(shape[::-1], LANCZOS)
    np.testing.assert_array_equal(read_picture(path, (*shape, 3)), np.asarray(wanted))
    grey = Image.fromarray(pixels).convert("L").crop(box).resize(shape[::-1], LANCZOS)
    np.testing.assert_array_equal(read_picture(path, (*shape, 1))[..., 0], np.asarray(grey))


def lanczos(pixels, size):
    """Resizes axis 0 by Lanczos of three lobes, wider by the factor of shrinking; another implementation."""
    factor = len(pixels) / size
    width = max(factor, 1.0)
    centres = (np.arange(size) + 0.5) * factor
    distances = (np.arange(len(pixels)) + 0.5 - centres[:, None]) / width
    weights = np.where(abs(distances) < 3, np.sinc(distances) * np.sinc(distances / 3), 0)
    return np.clip(np.round((weights / weights.sum(1, keepdims=True)) @ pixels), 0, 255)


@pytest.mark.parametrize(("size", "side"), [(60, 16), (50, 32), (20, 33)])
def test_the_filter_is_lanczos(size, side):
    pixels = noise(size, size, 1)
    wanted = lanczos(lanczos(pixels.T.astype(float), side).T, side)
    found = framed(pixels[..., None], (side, side, 1))[..., 0].astype(float)
    assert np.abs(found - wanted).max() <= 1  # rounding between the two passes


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (16, 16), (30, 20), (6, 8)])
def test_fit_keeps_the_whole_picture_in_white(tmp_path, size):
    pixels = noise(*size)
    path = saved(tmp_path / "a.png", pixels)
    wanted = ImageOps.pad(Image.fromarray(pixels), (16, 16), LANCZOS, color="white")
    found = read_picture(path, (16, 16, 3), "fit")
    shorter = round(16 * min(size) / max(size))
    if (16 - shorter) % 2 == 0:  # else it is a matter of taste where the odd line of white goes
        np.testing.assert_array_equal(found, np.asarray(wanted))
    white = (found == 255).all(axis=2)
    assert white.all(axis=1).sum() + white.all(axis=0).sum() == 16 - shorter
    grey = read_picture(path, (16, 16, 1), "fit")[..., 0]
    np.testing.assert_array_equal(grey[white], 255)


def test_fit_leaves_a_line_of_the_narrowest_picture(tmp_path):
    """And not a white square."""
    path = saved(tmp_path / "a.png", Image.new("RGB", (1000, 2), (10, 20, 30)))
    found = read_picture(path, (8, 8, 3), "fit")
    np.testing.assert_array_equal(found[3], np.broadcast_to([10, 20, 30], (8, 3)))
    np.testing.assert_array_equal(np.delete(found, 3, axis=0), 255)


def test_the_right_half_of_a_pair(tmp_path):
    pixels = noise(32, 64)
    path = saved(tmp_path / "pair.png", pixels)
    np.testing.assert_array_equal(read_picture(path, (32, 32, 3), "right_half"), pixels[:, 32:])
    wanted = Image.fromarray(pixels[:, 32:].copy()).resize((16, 16), LANCZOS)
    np.testing.assert_array_equal(read_picture(path, (16, 16, 3), "right_half"), np.asarray(wanted))
    np.testing.assert_array_equal(  # also where the pair itself is of the size asked for
        framed(pixels, (32, 64, 3), "right_half"), framed(pixels[:, 32:].copy(), (32, 64, 3))
    )


def test_arrays_are_framed_like_files(tmp_path):
    pixels = noise(33, 20)
    path = saved(tmp_path / "a.png", pixels)
    for framing in pictures.FRAMINGS:
        np.testing.assert_array_equal(framed(pixels, (8, 12, 3), framing), read_picture(path, (8, 12, 3), framing))
    grey = framed(pixels, (33, 20, 1))[..., 0]
    weighted = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - weighted).max() <= 0.51
    np.testing.assert_array_equal(framed(grey[..., None], (33, 20, 3)), np.stack([grey] * 3, -1))


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 60)),
    turned=st.booleans(),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3])),
    framing=st.sampled_from(pictures.FRAMINGS),
)
@settings(max_examples=150, deadline=None)
def test_any_size_becomes_any_other(size, turned, shape, framing):
    """One colour stays that colour, whatever is cut; "fit" shows it in a centred box of the picture's proportions."""
    height, width = size[::-1] if turned else size
    picture = Image.new("L" if shape[2] == 1 else "RGB", (width, height), 90 if shape[2] == 1 else (90, 90, 90))
    found = framed(picture, shape, framing)
    assert found.shape == shape
    if framing != "fit":
        np.testing.assert_array_equal(found, 90)
        return
    assert set(np.unique(found)) <= {90, 255}
    rows, columns = (found == 90).any(axis=(1, 2)), (found == 90).any(axis=(0, 2))
    scale = min(shape[0] / height, shape[1] / width)
    for line, length, room in ((rows, height, shape[0]), (columns, width, shape[1])):
        assert line.sum() == pytest.approx(max(1, length * scale), abs=0.5)
        white = np.flatnonzero(line)
        assert abs(white[0] - (room - 1 - white[-1])) <= 1
    assert (found == 90).all(axis=2).sum() == rows.sum() * columns.sum()


# Modes


def test_grey_palette_and_bilevel_pictures_become_rgb_and_grey(tmp_path):
    grey = noise(9, 11, 1)
    for mode, values in (("L", grey), ("1", np.where(grey > 127, 255, 0)), ("P", grey)):
        picture = Image.fromarray(values.astype(np.uint8)).convert(mode, dither=Image.Dither.NONE)
        path = saved(tmp_path / f"{mode}.png", picture)
        assert Image.open(path).mode == mode
        np.testing.assert_array_equal(read(path), np.stack([values] * 3, -1))
        np.testing.assert_array_equal(read(path, 1), values)
    colours = noise(1, 256)[0]
    picture = Image.fromarray(grey)
    picture.putpalette(colours.tobytes())
    np.testing.assert_array_equal(read(saved(tmp_path / "colours.png", picture)), colours[grey])


def over_white(colours, alpha):
    return colours * (alpha / 255) + 255 * (1 - alpha / 255)


def test_what_is_transparent_becomes_white(tmp_path):
    pixels = noise(16, 16, 4)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    colours, alpha = pixels[..., :3].astype(float), pixels[..., 3:].astype(float)
    for name, options in (("a.png", {}), ("a.tif", {}), ("a.tga", {}), ("a.webp", {"lossless": True, "exact": True})):
        found = read(saved(tmp_path / name, pixels, **options))
        assert np.abs(found - over_white(colours, alpha)).max() <= 1  # Pillow's arithmetic is in whole numbers
        np.testing.assert_array_equal(found[0], 255)
        np.testing.assert_array_equal(found[1], pixels[1, :, :3])
    grey = saved(tmp_path / "grey.png", Image.merge("LA", [Image.fromarray(pixels[..., c]) for c in (0, 3)]))
    assert Image.open(grey).mode == "LA"
    assert np.abs(read(grey) - over_white(colours[..., :1], alpha)).max() <= 1
    assert np.abs(read(grey, 1) - over_white(colours[..., 0], alpha[..., 0])).max() <= 1


def test_transparent_colours_of_a_palette_become_white(tmp_path):
    indices, colours, alpha = noise(16, 16, 1), noise(1, 256, seed=1)[0], noise(1, 256, 1, seed=2)[0]
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    by_bytes = read(saved(tmp_path / "bytes.png", picture, transparency=alpha.tobytes()))
    wanted = over_white(colours[indices].astype(float), alpha[indices][..., None].astype(float))
    assert np.abs(by_bytes - wanted).max() <= 1
    one = int(indices[3, 4])
    for name in ("one.png", "one.gif"):
        path = saved(tmp_path / name, picture, transparency=one)
        np.testing.assert_array_equal(read(path), np.where((indices == one)[..., None], 255, colours[indices]))


def test_a_colour_that_means_transparent_becomes_white(tmp_path):
    grey = noise(8, 8, 1)
    one = int(grey[2, 2])
    found = read(saved(tmp_path / "grey.png", grey, transparency=one), 1)
    np.testing.assert_array_equal(found, np.where(grey == one, 255, grey))
    pixels = noise(8, 8)
    pixels[5] = (1, 2, 3)
    found = read(saved(tmp_path / "colour.png", pixels, transparency=(1, 2, 3)))
    np.testing.assert_array_equal(found, np.where((pixels == (1, 2, 3)).all(-1, keepdims=True), 255, pixels))
    bilevel = Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8)).convert("1")
    np.testing.assert_array_equal(read(saved(tmp_path / "bilevel.png", bilevel, transparency=0)), 255)


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk_is_light_less_ink(tmp_path, name):
    ink = np.repeat(np.repeat(noise(2, 2, 4), 8, 0), 8, 1)  # blocks, which JPEG keeps nearly
    path = saved(
        tmp_path / name, Image.frombytes("CMYK", (16, 16), ink.tobytes()), **({"quality": 100} if "j" in name else {})
    )
    assert Image.open(path).mode == "CMYK"
    np.testing.assert_array_equal(read(path), np.asarray(Image.open(path).convert("RGB")))
    wanted = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:].astype(float)) / 255
    assert np.abs(read(path) - wanted).max() <= (1 if name == "a.tif" else 4)


def test_ycbcr_and_lab(tmp_path):
    pixels = noise(8, 8)
    path = saved(tmp_path / "ycbcr.tif", Image.fromarray(pixels).convert("YCbCr"))
    assert Image.open(path).mode == "YCbCr"
    assert np.abs(read(path).astype(int) - pixels).max() <= 3
    path = saved(tmp_path / "lab.tif", Image.frombytes("LAB", (8, 8), pixels.tobytes()))
    np.testing.assert_array_equal(read(path), np.asarray(Image.open(path).convert("RGB")))
    np.testing.assert_array_equal(read(path, 1), np.asarray(Image.open(path).convert("RGB").convert("L")))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big_endian.tif", "a.pgm"])
def test_sixteen_bits_are_divided_by_257(tmp_path, name):
    """All 65,536 values; k * 257, which is what 8 bits become in 16, gives k."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = Image.fromarray(values)
    if name == "big_endian.tif":
        picture = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
    path = saved(tmp_path / name, picture)
    assert Image.open(path).mode.startswith("I")
    found = read(path, 1)
    np.testing.assert_array_equal(found, np.round(values / 257))
    np.testing.assert_array_equal(found.ravel()[::257], np.arange(256))
    np.testing.assert_array_equal(read(path), np.stack([found] * 3, -1))


def test_sixteen_bits_where_they_come_as_32(tmp_path):
    values = np.array([[0, 257, 65535]], np.int32)
    path = saved(tmp_path / "a.tif", values)
    assert Image.open(path).mode == "I"
    np.testing.assert_array_equal(read(path, 1), [[0, 1, 255]])
    refused(saved(tmp_path / "more.tif", values + 1), "1 to 65536", "at most 16 bits")
    refused(saved(tmp_path / "less.tif", values - 1), "-1 to 65534")


def test_sixteen_bits_of_colour_and_alpha(tmp_path):
    eight = noise(8, 8, 4)
    eight[..., 3] = np.where(eight[..., 3] > 127, 255, 0)
    sixteen = eight.astype(np.uint16) * 257
    wanted = np.where(eight[..., 3:] == 0, 255, eight[..., :3])
    path = tmp_path / "a.png"
    for channels, color_type, expected in (
        ([0, 1, 2], 2, eight[..., :3]),
        ([0, 1, 2, 3], 6, wanted),
        ([0, 3], 4, np.stack([wanted[..., 0]] * 3, -1)),
    ):
        path.write_bytes(png(sixteen[..., channels], color_type))
        np.testing.assert_array_equal(read(path), expected)


def test_a_value_of_16_bits_that_means_transparent_becomes_white(tmp_path):
    values = np.array([[1000, 257 * 7, 65535]], np.uint16)
    (tmp_path / "a.png").write_bytes(png(values, 0, [(b"tRNS", struct.pack(">H", 1000))]))
    np.testing.assert_array_equal(read(tmp_path / "a.png", 1), [[255, 7, 255]])


@pytest.mark.parametrize("name", ["a.tif", "a.pfm"])
def test_floating_point_numbers_are_refused(tmp_path, name):
    path = saved(tmp_path / name, np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    refused(path, "floating-point numbers, whose range a picture does not say")


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_pictures_are_turned_as_exif_says(tmp_path, name, orientation):
    """As a camera means it: 6 was held with its right side up. 0 and 9 mean nothing."""
    options = {"lossless": True} if name == "a.webp" else {}
    upright = saved(tmp_path / name, noise(6, 10), **options)
    wanted = TURNED.get(orientation, TURNED[1])(read(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"turned_{name}", noise(6, 10), exif=exif, **options)
    np.testing.assert_array_equal(read(path), wanted)
    assert check_picture(path)[:2] == wanted.shape[1::-1]


def test_damaged_exif_does_not_make_a_picture_unreadable(tmp_path):
    plain = read(saved(tmp_path / "plain.jpg", noise(6, 10)))
    for damaged in (b"garbage", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"):
        path = saved(tmp_path / "damaged.jpg", noise(6, 10), exif=b"Exif\0\0" + damaged)
        np.testing.assert_array_equal(read(path), plain)
    # Orientation 6, and a camera's make that is a number: Pillow's exif_transpose fails on it.
    tags = struct.pack("<HHHIHHHHII", 2, 0x0112, 3, 1, 6, 0, 0x010F, 4, 1, 7) + bytes(4)
    path = saved(tmp_path / "odd.jpg", noise(6, 10), exif=b"Exif\0\0II*\0\x08\0\0\0" + tags)
    np.testing.assert_array_equal(read(path), np.rot90(plain, -1))


# Formats

_WRITES = {  # format: options, and the largest mean error; 0 is exact
    "AVIF": ({"quality": 90}, 3.0),
    "BLP": ({"mode": "P"}, 0.0),
    "BMP": ({}, 0.0),
    "DDS": ({}, 0.0),
    "DIB": ({}, 0.0),
    "GIF": ({}, 0.0),
    "ICNS": ({}, 3.0),  # which resizes it when it writes
    "ICO": ({"sizes": [(64, 64)]}, 0.0),
    "IM": ({}, 0.0),
    "JPEG": ({"quality": 95}, 3.0),
    "JPEG2000": ({}, 0.0),
    "MPO": ({"quality": 95}, 3.0),
    "MSP": ({"mode": "1"}, 0.0),
    "PCX": ({}, 0.0),
    "PNG": ({}, 0.0),
    "PPM": ({}, 0.0),
    "QOI": ({}, 0.0),
    "SGI": ({}, 0.0),
    "TGA": ({}, 0.0),
    "TIFF": ({}, 0.0),
    "WEBP": ({"lossless": True}, 0.0),
    "XBM": ({"mode": "1"}, 0.0),
}
_NEVER_READ = {"BUFR", "EPS", "GRIB", "HDF5", "PALM", "PDF", "WMF"}
_NUMBERS = {"SPIDER"}  # is read, and holds floating-point numbers


def written(format):
    """A picture of four colours in a format, and its pixels; the file's bytes."""
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    options, _ = _WRITES[format]
    colours = np.array([[250, 20, 30], [10, 200, 90], [0, 0, 0], [40, 80, 255]], np.uint8)
    if options.get("mode") == "1":
        colours = np.array([[0] * 3, [255] * 3, [255] * 3, [0] * 3], np.uint8)
    pixels = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, 0), 32, 1)
    picture = Image.fromarray(pixels)
    if mode := options.get("mode"):
        picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE)
    return pixels, encoded(picture, format, **{k: v for k, v in options.items() if k != "mode"})


def test_no_format_that_pillow_writes_is_forgotten():
    Image.init()
    assert set(Image.SAVE) <= set(_WRITES) | _NEVER_READ | _NUMBERS


@pytest.mark.parametrize("format", sorted(_WRITES))
def test_every_format_is_read_whatever_its_name(tmp_path, format):
    pixels, data = written(format)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    width, height, _ = check_picture(path)
    assert width == height
    error = np.abs(framed(read(path), (64, 64, 3)).astype(float) - pixels).mean()
    assert error <= _WRITES[format][1]


@pytest.mark.parametrize("format", sorted(_WRITES))
def test_a_truncated_file_is_refused_in_every_format(tmp_path, format):
    _, data = written(format)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: len(data) * 3 // 5])
    refused(path)


def test_endings_are_those_of_the_formats_that_are_read():
    Image.init()
    common = {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".tga",
        ".jp2",
    }
    assert common | {".ico", ".mpo", ".psd", ".dds", ".qoi"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".mpg", ".wmf", ".emf", ".iim", ".h5", ".txt", ""} & suffixes()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_read(tmp_path, format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((10, 20, 30), (200, 0, 0), (0, 200, 0))]
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "a.png"
    path.write_bytes(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert Image.open(path).n_frames == 3
    found = read(path).astype(int)
    assert np.abs(found - (10, 20, 30)).max() <= (2 if format == "MPO" else 0)


# Refusals


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.4", b"\0" * 5000])
def test_a_file_that_is_no_picture(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    refused(tmp_path / "a.jpg", "not a picture that Pillow can read")


_JPEG = encoded(Image.fromarray(noise(40, 40)), "JPEG")


@given(length=st.integers(0, len(_JPEG) - 1))
@settings(max_examples=40, deadline=None)
def test_any_beginning_of_a_jpeg_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "begun.jpg"
    path.write_bytes(_JPEG[:length])
    refused(path)


@given(
    format=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "PCX", "QOI", "ICO", "DDS"]),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6),
    in_header=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_whatever_damage_is_read_or_refused(tmp_path_factory, format, changes, in_header):
    """Never another exception, which would end a training."""
    data = bytearray(encoded(Image.fromarray(noise(12, 12)), format))
    for place, value in changes:
        data[place % min(len(data), 64 if in_header else 2**16)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # so that sizes made up by damage stay small
        reason = ""
        try:
            assert read_picture(path, (8, 8, 3)).shape == (8, 8, 3)
        except UnreadablePicture as error:
            reason = str(error)
    assert reason.isprintable()


def test_what_a_file_writes_into_a_message_cannot_reach_the_terminal(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(8, 8))

    def quote(*_, **__):
        raise SyntaxError("no such keyword: \x1b[2J\u202e\nand more")

    monkeypatch.setattr(Image, "open", quote)
    refused(path, r"damaged: no such keyword: \x1b[2J\u202e")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    """Its header is enough: after it there is nothing."""
    path = tmp_path / "a.png"
    whole = encoded(Image.new("1", (8, 8)), "PNG")
    for side in (12_000, 40_000):  # over the limit, and so far over it that Pillow itself refuses it
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
        refused(path, "a decompression bomb?", f"{Image.MAX_IMAGE_PIXELS:,}")


def test_the_limit_is_pillows(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
    assert check_picture(path)[:2] == (40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    refused(path, "Its pixels are 1,600, more than Pillow's limit of 1,599")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert check_picture(path)[:2] == (40, 40)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


def iptc(data):
    """An IPTC file that holds another one, which Pillow opens in whatever format it is."""
    size, record = struct.pack(">H", 20), lambda r, d, b: bytes([0x1C, r, d]) + struct.pack(">H", len(b)) + b
    head = record(3, 60, b"\1\0") + record(3, 65, b"\0") + record(3, 20, size) + record(3, 30, size)
    return head + record(3, 120, b"\5") + record(8, 10, data)


@pytest.mark.parametrize(
    "data", [EPS, iptc(EPS), b"\xc5\xd0\xd3\xc6" + bytes(26) + EPS], ids=["eps", "iptc", "dos_eps"]
)
def test_no_other_program_is_started(tmp_path, monkeypatch, data):
    """PostScript is a programming language: a "picture" in it would be run by Ghostscript."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "a.jpg").write_bytes(data)
    refused(tmp_path / "a.jpg", "not a picture that Pillow can read")
    assert not (tmp_path / "ran").exists()


def test_a_pipe_does_not_block(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes on this system")
    os.mkfifo(tmp_path / "a.jpg")
    done = []
    ask = lambda: done.append(refused(tmp_path / "a.jpg", "not a file"))
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(20)
    assert done == [None]


def test_a_folder_with_a_pictures_name(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    opened = pathlib.Path("/proc/self/fd")
    before = len(list(opened.iterdir())) if opened.exists() else None
    for _ in range(5):
        refused(tmp_path / "a.jpg", "not a file")
    assert before is None or len(list(opened.iterdir())) == before


def test_links_are_not_followed(tmp_path):
    saved(tmp_path / "a.png", noise(8, 8))
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("link.png", "loop.png"):
        refused(tmp_path / name, "a link; links are not followed")


def test_errors_of_the_system_are_not_called_damage(tmp_path, monkeypatch):
    refused(tmp_path / "none.png", "cannot be read: No such file or directory")
    path = saved(tmp_path / "a.png", noise(8, 8))
    for error, reason in ((OSError(errno.EIO, "x"), os.strerror(errno.EIO)), (MemoryError(), "out of memory")):
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "load", lambda self: None)
            patch.setattr(Image, "open", lambda *_, e=error, **__: (_ for _ in ()).throw(e))
            refused(path, f"cannot be read: {reason}")


def test_no_permission():
    with reachable_folder() as folder:
        path = saved(folder / "a.png", noise(8, 8))
        assert check_picture(path)[:2] == (8, 8)
        path.chmod(0)
        with without_rights():
            refused(path, "no permission to read it")


# Real pictures


def test_real_photographs_are_what_pillow_makes_of_them():
    photographs = sorted(shared("data", "afhq_samples").glob("*/*.jpg"))[::7]
    assert photographs
    for path in photographs:
        with Image.open(path) as picture:
            side = min(picture.size)
            assert picture.size == (side, side)
            wanted = np.asarray(picture.convert("RGB").resize((64, 64), LANCZOS))
        np.testing.assert_array_equal(read_picture(path, (64, 64, 3)), wanted)
        assert check_picture(path)[:2] == (side, side)


def test_a_truncated_photograph_is_refused(tmp_path):
    path = sorted(shared("data", "afhq_samples", "cat").glob("*.jpg"))[0]
    (tmp_path / "a.jpg").write_bytes(path.read_bytes()[:-5000])
    refused(tmp_path / "a.jpg", "damaged: image file is truncated")
