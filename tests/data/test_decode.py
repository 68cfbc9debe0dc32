import importlib
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siftlens.data import ImageRef, Preprocessing, Unreadable, decode, open_images

DECODING = importlib.import_module("siftlens.data.decode")  # whose name the function of the package takes
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (41, 53, 3), np.uint8)
AS_IS = Preprocessing(41, 53)


def read(path: Path, preprocessing: Preprocessing = AS_IS) -> np.ndarray:
    return decode(ImageRef(path.name, "", path), preprocessing)


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(RGB)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "tga", "ppm"])
def test_lossless_files_come_back_exactly(tmp_path: Path, kind: str):
    Image.fromarray(RGB).save(tmp_path / f"x.{kind}")
    np.testing.assert_array_equal(read(tmp_path / f"x.{kind}"), RGB)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_lossy_files_come_back_nearly_whatever_their_name(tmp_path: Path, kind: str):
    smooth = Image.fromarray(RGB[:5, :5]).resize((53, 41), Image.Resampling.BICUBIC)
    (tmp_path / "photo").write_bytes(encoded(kind, smooth))
    assert np.abs(read(tmp_path / "photo").astype(int) - np.asarray(smooth)).mean() < 16


def test_the_pixels_are_those_of_the_preprocessing(tmp_path: Path):
    Image.fromarray(RGB).save(tmp_path / "x.png")
    preprocessing = Preprocessing(29, 31, resize_to=37)
    np.testing.assert_array_equal(read(tmp_path / "x.png", preprocessing), preprocessing.apply(Image.fromarray(RGB)))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, kind: str):
    values = RNG.integers(0, 2**16, (41, 53)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{kind}")
    expected = np.rint(values / 65535 * 255)
    np.testing.assert_array_equal(read(tmp_path / f"x.{kind}"), np.dstack([expected] * 3))


def test_sixteen_bit_colour_is_scaled(tmp_path: Path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB.astype(np.uint16) * 257)
    (tmp_path / "x.png").write_bytes(png(53, 41, 16, 2, rows))
    np.testing.assert_array_equal(read(tmp_path / "x.png"), RGB)


def test_float_and_wide_integer_files_need_a_known_scale(tmp_path: Path):
    grey = RGB[:, :, 0]
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "unit.tiff")
    np.testing.assert_array_equal(read(tmp_path / "unit.tiff"), np.dstack([grey] * 3))
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(Unreadable, match=r"expected float pixels in \[0, 1\], got \[0, 255\]"):
        read(tmp_path / "float.tiff")
    Image.fromarray(grey.astype(np.int32) * 1000).save(tmp_path / "wide.tiff")
    with pytest.raises(Unreadable, match="8 or 16 bits, got 32-bit integers"):
        read(tmp_path / "wide.tiff")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "dark.tiff")  # 8 bits, or dark ones of 16?
    with pytest.raises(Unreadable, match=r"got 32-bit integers in \[0, 255\]: the scale is not known; convert"):
        read(tmp_path / "dark.tiff")


def test_cmyk_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", (53, 41), (0, 255, 255, 0)).save(tmp_path / "x.tiff")
    assert read(tmp_path / "x.tiff")[20, 20].tolist() == [255, 0, 0]
    Image.new("CMYK", (53, 41), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    red, green, blue = read(tmp_path / "x.jpg")[20, 20].tolist()
    assert red > 245 > 10 > max(green, blue)


def test_palette_grey_and_two_tones_become_rgb(tmp_path: Path):
    palette = Image.new("P", (53, 41), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "p.png")
    assert read(tmp_path / "p.png")[7, 9].tolist() == [10, 200, 30]
    Image.new("L", (53, 41), 77).save(tmp_path / "l.png")
    assert read(tmp_path / "l.png")[7, 9].tolist() == [77, 77, 77]
    Image.new("1", (53, 41), 1).save(tmp_path / "1.png")
    assert read(tmp_path / "1.png")[7, 9].tolist() == [255, 255, 255]


def test_transparency_of_every_kind_is_put_on_white(tmp_path: Path):
    Image.new("RGBA", (53, 41), (10, 200, 30, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (53, 41), (10, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (53, 41), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "bytes.png", transparency=b"\xff\x00")
    palette.save(tmp_path / "p.gif", transparency=1)
    Image.new("RGB", (53, 41), (10, 200, 30)).save(tmp_path / "rgb.png", transparency=(10, 200, 30))
    for path in tmp_path.iterdir():
        assert (read(path) == 255).all(), path.name


@pytest.mark.parametrize(("orientation", "turned"), [(3, np.rot90(RGB, 2)), (6, np.rot90(RGB, -1)), (2, RGB[:, ::-1])])
def test_images_are_turned_as_exif_says(tmp_path: Path, orientation: int, turned: np.ndarray):
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "x.png", Preprocessing(*turned.shape[:2])), turned)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff", "mpo"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, kind: str):
    first, second = (Image.new("RGB", (53, 41), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"x.{kind}", save_all=True, append_images=[second])
    red, green, blue = read(tmp_path / f"x.{kind}")[20, 20].tolist()
    assert red > 240 > 10 > max(green, blue)


def test_no_file(tmp_path: Path):
    (tmp_path / "other.png").touch()  # so that not all of them are gone
    with pytest.raises(Unreadable, match="^no such file or directory$"):
        read(tmp_path / "gone.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(Unreadable, match="^no such file or directory$"):
        read(tmp_path / "link.png")
    with pytest.raises(Unreadable, match="^not a file$"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Unreadable, match="^not a file$"):
        read(tmp_path / "pipe.png")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.fromarray(RGB).save(tmp_path / "x.png")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 does not stop the superuser
    with pytest.raises(Unreadable, match="^permission denied$"):
        read(tmp_path / "x.png")


def test_empty_and_foreign_files(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(Unreadable, match=r"^empty file \(0 bytes\)$"):
        read(tmp_path / "empty.jpg")
    for number, data in enumerate([b"hello\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0" * 999]):
        (tmp_path / f"{number}.jpg").write_bytes(data)
        with pytest.raises(Unreadable, match=r"^not an image of a kind that is read \(AVIF, .*, WEBP\)$"):
            read(tmp_path / f"{number}.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_truncated_file(tmp_path: Path, kind: str):
    whole = encoded(kind)
    (tmp_path / "x").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unreadable, match=r"^\S.*\S$"):
        read(tmp_path / "x")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 300), (300, 7)])
def test_too_small(tmp_path: Path, width: int, height: int):
    Image.new("RGB", (width, height)).save(tmp_path / "x.png")
    with pytest.raises(Unreadable, match=rf"^{width}x{height} px: too small, expected at least 8 px"):
        read(tmp_path / "x.png")


def test_too_elongated(tmp_path: Path):
    Image.new("RGB", (20000, 20)).save(tmp_path / "x.png")
    with pytest.raises(Unreadable, match=r"^20000x20 px: too elongated, expected at most 32:1$"):
        read(tmp_path / "x.png")
    Image.new("RGB", (20 * 32, 20)).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png").shape == (41, 53, 3)


@pytest.mark.parametrize("side", [10_000, 20_000, 60_000])  # Pillow warns, refuses, and overflows
def test_a_decompression_bomb(tmp_path: Path, side: int):
    packer = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    packed = b"".join(packer.compress(row) for _ in range(min(side, 20_000))) + packer.flush()
    bomb = png(side, side, 1, 0, b"").replace(
        png(side, side, 1, 0, b"")[33:], b"" + struct.pack(">I", len(packed)) + b"IDAT" + packed
    )
    (tmp_path / "x.png").write_bytes(bomb + struct.pack(">I", zlib.crc32(b"IDAT" + packed)))
    assert (tmp_path / "x.png").stat().st_size < 400_000
    with pytest.raises(Unreadable, match=r"^more than \d+ pixels: a decompression bomb"):
        read(tmp_path / "x.png")


def test_threads_that_overlap_leave_warnings_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("first", "second"):
        Image.new("RGB", (50, 50)).save(tmp_path / f"{name}.png")
    begun, may_end = ({name: threading.Event() for name in ("first", "second")} for _ in range(2))
    usual = DECODING.to_rgb

    def waiting(image: Image.Image) -> Image.Image:
        name = threading.current_thread().name
        begun[name].set()
        assert may_end[name].wait(60)
        warnings.warn_explicit("corrupt", UserWarning, "PngImagePlugin.py", 1, module="PIL.PngImagePlugin")
        return usual(image)

    monkeypatch.setattr(DECODING, "to_rgb", waiting)
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda name=name: shapes.append(read(tmp_path / f"{name}.png").shape), name=name)
        for name in begun
    ]
    shapes: list[tuple[int, ...]] = []
    for thread in threads:
        thread.start()
        assert begun[thread.name].wait(60)
    for thread in threads:  # the first to come is the first to go
        may_end[thread.name].set()
        thread.join()
    assert shapes == [(41, 53, 3)] * 2
    assert list(warnings.filters) == before


def test_decoding_puts_back_no_filters_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (50, 50)).save(tmp_path / "x.png")
    begun, may_end = threading.Event(), threading.Event()
    usual = DECODING.to_rgb

    def waiting(image: Image.Image) -> Image.Image:
        begun.set()
        assert may_end.wait(60)
        return usual(image)

    monkeypatch.setattr(DECODING, "to_rgb", waiting)
    before = list(warnings.filters)
    thread = threading.Thread(target=lambda: read(tmp_path / "x.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread.start()
        assert begun.wait(60)
    may_end.set()
    thread.join()
    assert list(warnings.filters) == before


def test_a_warning_that_was_shown_once_is_not_shown_again_for_decoding(tmp_path: Path):
    Image.new("RGB", (50, 50)).save(tmp_path / "x.png")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            read(tmp_path / "x.png")
            warnings.warn("of the caller's", UserWarning, stacklevel=1)
    assert len(shown) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "TGA", "PPM"])
def test_damaged_bytes_never_do_worse_than_a_reason(tmp_path: Path, kind: str):
    whole = np.frombuffer(encoded(kind), np.uint8)
    random = np.random.default_rng(len(kind))
    for _ in range(60):
        damaged = whole[: random.integers(1, len(whole) + 1)].copy()
        places = random.integers(0, min(len(damaged), 400), random.integers(0, 6))
        damaged[places] = random.integers(0, 256, len(places))
        (tmp_path / "x").write_bytes(damaged.tobytes())
        try:
            assert read(tmp_path / "x").shape == (41, 53, 3)
        except Unreadable as reason:
            assert str(reason).strip()
            assert "\n" not in str(reason)


def test_images_in_memory():
    (ref,) = open_images([RGB])
    np.testing.assert_array_equal(decode(ref, AS_IS), RGB)
    np.testing.assert_array_equal(decode(ref.fetched(), AS_IS), RGB)
    (tiny,) = open_images([RGB[:3]])
    with pytest.raises(Unreadable, match="^53x3 px: too small"):
        decode(tiny, AS_IS)
