"""Files that mean harm, or only look like it, made anew for every test: none of them is kept in the repository."""

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
SCRIPT = b"<script>alert(1)<"
NAMES = (  # of images that can be read; a slash cannot be in a name, so `..` stands alone
    *(b"'single' \"double\".png", b"two\nlines\r.png", SCRIPT + b"!--.png", b"x..%2f..%2f.png", b"x...png"),
    *(b"caf\xe9 \xff\xfe.png", b"-rf.png", b"$(touch owned);`touch owned`.png", b"a" * 240 + b".png"),
    *("\u202egnp.exe\u200b.png".encode(), b"=1+1,@cmd.png", b"{{7*7}}{% raw %}.png", b"\x1b[2J\x07.png", b"NUL.png"),
)


_GIF = struct.pack("<HH3xc4HBB", 65535, 65535, b",", 0, 0, 65535, 65535, 0, 8) + b"\0;"  # claims 4 gigapixels


def picture(seed: int, side: int = SIDE) -> Image.Image:
    """Something with corners in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def readable() -> dict[str, bytes]:
    """Images of odd modes that can be read all the same."""
    rgb, grey = picture(0), picture(1).convert("L")
    values = (np.asarray(grey).astype(np.uint16) * 257).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = rgb.quantize(16)
    return {
        "1.png": encoded(rgb.convert("1"), "PNG"),
        "l.png": encoded(grey, "PNG"),
        "la.png": encoded(Image.merge("LA", (grey, grey)), "PNG"),
        "p-transparent.png": encoded(palette, "PNG", transparency=3),
        "p.gif": encoded(palette, "GIF", transparency=3),
        "animated.gif": encoded(rgb, "GIF", save_all=True, append_images=[picture(2), picture(3)]),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "i16.png": encoded(Image.fromarray(values), "PNG"),
        "i16.tiff": encoded(Image.fromarray(values), "TIFF"),
        "f.tiff": encoded(Image.fromarray((np.asarray(grey) / 255).astype(np.float32)), "TIFF"),
        "rgba.png": encoded(picture(4).convert("RGBA"), "PNG"),
        "turned.jpg": encoded(rgb, "JPEG", exif=turned),
        "jpeg.png": encoded(rgb, "JPEG"),
        "png": encoded(rgb, "PNG"),
        "wide.png": encoded(picture(5).resize((64 * 31, 64)), "PNG"),
    }


def unreadable() -> dict[str, tuple[bytes, str]]:
    """Images that cannot be read, and what the reason must say."""
    png, jpeg = encoded(picture(0), "PNG"), encoded(picture(0), "JPEG")
    grey = np.asarray(picture(1).convert("L"))
    return {
        "zero.jpg": (b"", r"empty file \(0 bytes\)"),
        "cut.png": (png[: len(png) // 2], "truncated|damaged|cannot"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "head.jpg": (jpeg[:40], "."),
        "text.jpg": (b"hello\n", "not an image of a kind that is read"),
        "zeros.png": (bytes(4096), "not an image"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "not an image"),
        "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not an image"),
        "zip.png": (b"PK\x03\x04" + bytes(99), "not an image"),
        "1x1.png": (encoded(picture(0).resize((1, 1)), "PNG"), "1x1 px: too small"),
        "thin.png": (encoded(Image.new("L", (8 * 33, 8)), "PNG"), "too elongated"),
        "bomb.png": (bomb(60_000), "decompression bomb"),
        "bomb.gif": (b"GIF89a" + _GIF, "decompression bomb"),
        "float.tiff": (encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"), "expected float pixels"),
        "i32.tiff": (encoded(Image.fromarray(grey.astype(np.int32) * 1000), "TIFF"), "32-bit integers"),
        "checksum.png": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "."),
    }


def bomb(side: int) -> bytes:
    """A PNG of a few KB that unpacks to gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


def write_images(folder: Path) -> tuple[set[str], dict[str, str]]:
    """All of it in one folder, with links that lead in circles, to nowhere and out.

    Returns:
        Names of what can be read, and of what cannot with the reason's pattern, as siftlens writes them.
    """
    good, bad = set(), {}
    for name, content in readable().items():
        _write(folder / "odd" / name, content)
        good.add(f"odd/{name}")
    for number, name in enumerate(NAMES):
        _write(folder / "named" / os.fsdecode(name), encoded(picture(number + 10), "PNG"))
        good.add("named/" + name.decode("utf-8", "backslashreplace"))
    for name, (content, reason) in unreadable().items():
        _write(folder / "bad" / name, content)
        bad[f"bad/{name}"] = reason
    (folder / "odd" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "bad" / "itself.png").symlink_to("itself.png")
    (folder / "bad" / "nowhere.png").symlink_to(folder / "gone.png")
    bad |= {"bad/itself.png": "too many levels of symbolic links", "bad/nowhere.png": "no such file"}
    os.mkfifo(folder / "bad" / "pipe.png")
    bad["bad/pipe.png"] = "not a file"
    return good, bad


def write_shard(path: Path) -> None:
    """A tar file whose members want to go elsewhere when it is unpacked, which it never is."""
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(
            ("../x.png", "/tmp/siftlens-owned.png", "a/../../y.png", SCRIPT.decode() + ".png")
        ):
            content = encoded(picture(number), "PNG")
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, kind, target in (
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "../x.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("device.png", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
