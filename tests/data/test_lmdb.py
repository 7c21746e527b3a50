"""Databases: BasicSR's layout, round trip, size, damage."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from dhp_sr.data.images import encode_png
from dhp_sr.data.lmdb_pages import LmdbDamageError, LmdbFile
from dhp_sr.data.lmdb_read import Database
from dhp_sr.data.lmdb_write import map_size, verify_database, write_database
from dhp_sr.data.sources import find_images
from dhp_sr.utils.errors import UserError


@pytest.fixture
def folder(folder_of):
    """The first image is by far the smallest."""
    return folder_of("hr", a=(8, 8, 1), b=(60, 50), c=(300, 400))


@pytest.fixture
def database(folder, tmp_path):
    target = tmp_path / "hr.lmdb"
    write_database(find_images(folder), target)
    return target


def test_layout_is_that_of_basicsr(folder, database):
    assert {path.name for path in database.iterdir()} == {"data.mdb", "meta_info.txt"}
    lines = (database / "meta_info.txt").read_text().splitlines()
    assert lines == ["a.png (8,8,1) 1", "b.png (60,50,3) 1", "c.png (300,400,3) 1"]
    with (
        lmdb.open(str(database), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        for line in lines:
            key = line.split(".")[0]
            value = transaction.get(key.encode("ascii"))
            pixels = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED)
            expected = cv2.imread(str(folder / f"{key}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(pixels, expected)


def test_round_trip(folder, database):
    assert verify_database(database, find_images(folder)) == []
    for ours, original in zip(find_images(database), find_images(folder), strict=True):
        assert (ours.key, ours.size()) == (original.key, original.size())
        np.testing.assert_array_equal(ours.read(), original.read())


def test_database_of_basicsr_is_read(tmp_path, make_image):
    """As its `make_lmdb_from_imgs` writes it, names with spaces included."""
    image = make_image(20, 30)
    target = tmp_path / "x.lmdb"
    png = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    with (
        lmdb.open(str(target), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"0001 s1", png.tobytes())
    (target / "meta_info.txt").write_text("0001 s1.png (20,30,3) 1\n")
    (found,) = find_images(target)
    assert found.key == "0001 s1" and found.size() == (20, 30, 3)
    np.testing.assert_array_equal(found.read(), image)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode() + b"\n",
        lambda text: text.encode() + b"   \r\n\n",
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.rstrip("\n").encode(),
    ],
    ids=["byte-order mark", "empty last line", "blank lines", "CRLF", "no last newline"],
)
def test_meta_files_that_went_through_an_editor(database, rewrite):
    meta = database / "meta_info.txt"
    expected = Database(database).sizes()
    meta.write_bytes(rewrite(meta.read_text()))
    assert Database(database).sizes() == expected


@pytest.mark.parametrize("key", [" 0001", "0001 ", "0001\u2028s1", "0001\x1ds1"])
def test_names_with_blanks_and_separators(tmp_path, make_image, key):
    """As BasicSR writes them; ours are printable ASCII, where the first may be a blank."""
    target = tmp_path / "x.lmdb"
    with (
        lmdb.open(str(target), map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(key.encode(), encode_png(make_image(20, 30)))
    meta = f"{key}.png (20,30,3) 1\n"
    (target / "meta_info.txt").write_text(meta, encoding="utf-8")
    assert [image.key for image in find_images(target)] == [key]
    assert verify_database(target) == []


def test_written_in_two_runs(folder, tmp_path):
    target = tmp_path / "hr.lmdb"
    images = find_images(folder)
    with pytest.raises(KeyboardInterrupt):
        write_database(images, target, on_image=interrupt)
    assert not (target / "meta_info.txt").exists()
    write_database(images, target)
    assert verify_database(target, images) == []


def interrupt() -> None:
    raise KeyboardInterrupt


def test_map_size_fits_noise_that_does_not_compress(tmp_path, folder_of):
    images = find_images(folder_of("noise", a=(1, 1), **{f"b{i}": (400, 500) for i in range(4)}))
    write_database(images, tmp_path / "x.lmdb")
    size = (tmp_path / "x.lmdb" / "data.mdb").stat().st_size
    assert size < map_size([image.size() for image in images])


def test_faults_are_listed(folder, database):
    with (
        lmdb.open(str(database), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"a", transaction.get(b"a")[:-20])
        transaction.put(b"b", transaction.get(b"c"))
        transaction.put(b"extra", transaction.get(b"c"))
        transaction.delete(b"c")
    faults = verify_database(database, find_images(folder))
    extra = [fault for fault in faults if "extra" in fault]
    missing = [fault for fault in faults if fault.startswith("c: ") or "'c'" in fault]
    assert len(extra) == 2 and "meta_info.txt" in extra[0] and "originals" in extra[1]
    assert len(missing) == 2
    assert any("key a: " in fault for fault in faults)
    assert any("(60, 50, 3)" in fault and "(300, 400, 3)" in fault for fault in faults)
    assert len(faults) == 6


def test_other_pixels_are_a_fault(folder, database, folder_of):
    others = find_images(folder_of("others", c=(300, 400)))
    faults = verify_database(database, others)
    assert any(fault.startswith("c: ") and "others" in fault for fault in faults)


def test_size_other_than_in_the_meta_file(database):
    meta = database / "meta_info.txt"
    meta.write_text(meta.read_text().replace("60,50", "50,60"))
    with pytest.raises(UserError, match=r"key b: .*\(50, 60, 3\).*\(60, 50, 3\)"):
        find_images(database)[1].read()


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda folder: (folder / "meta_info.txt").unlink(), r"meta_info\.txt"),
        (lambda folder: (folder / "data.mdb").unlink(), r"data\.mdb"),
        (
            lambda folder: (folder / "meta_info.txt").write_text("a.png (1,1,3) 1\na.png\n"),
            r"meta_info\.txt, line 2: .*'a\.png'",
        ),
        (lambda folder: (folder / "meta_info.txt").write_text(""), "empty"),
    ],
)
def test_incomplete_folders(database, break_it, match):
    break_it(database)
    with pytest.raises(UserError, match=match):
        find_images(database)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"x\.lmdb"):
        Database(tmp_path / "x.lmdb")


def test_unusable_names(tmp_path, folder_of):
    with pytest.raises(UserError, match="ASCII"):
        write_database(find_images(folder_of("hr", **{"grün": (8, 8)})), tmp_path / "x.lmdb")
    with pytest.raises(UserError, match="printable"):
        write_database(find_images(folder_of("lines", **{"a\nb": (8, 8)})), tmp_path / "x.lmdb")
    twice = folder_of("twice", a=(8, 8))
    (twice / "a.bmp").write_bytes((twice / "a.png").read_bytes())
    with pytest.raises(UserError, match=r"a\.png and \S+a\.bmp"):
        write_database(find_images(twice), tmp_path / "y.lmdb")
    assert not (tmp_path / "x.lmdb").exists() and not (tmp_path / "y.lmdb").exists()


def test_without_the_package_databases_are_read_and_not_written(database, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert find_images(database)[0].read().shape == (8, 8, 1)
    with pytest.raises(UserError, match="pip install lmdb"):
        write_database(find_images(folder), database.parent / "x.lmdb")


class TestPages:
    """Our reader of LMDB's pages against the library that wrote them."""

    @pytest.fixture(params=[0, 1, 3, 300, 3000])
    def written(self, request, tmp_path):
        draw = np.random.default_rng(request.param)
        entries = {}
        for _ in range(request.param):
            key = draw.bytes(int(draw.integers(1, 60)))
            entries[key] = draw.bytes(int(draw.choice([0, 1, 100, 1900, 2100, 9000])))
        with lmdb.open(str(tmp_path / "x"), map_size=2**26) as environment:
            for part in (list(entries.items())[::2], list(entries.items())[1::2]):
                with environment.begin(write=True) as transaction:
                    for key, value in part:
                        transaction.put(key, value)
            with environment.begin(write=True) as transaction:
                for key in list(entries)[::7]:
                    transaction.delete(key)
                    del entries[key]
        return tmp_path / "x" / "data.mdb", entries

    def test_every_key_and_no_other(self, written):
        path, entries = written
        with open(path, "rb") as file:
            data = LmdbFile(file)
            assert list(data.iterate_keys()) == sorted(entries)
            for key, value in entries.items():
                assert data.get(key) == value
            for absent in (b"", b"\0", b"\xff" * 100, b"no such key"):
                assert data.get(absent) == entries.get(absent)


def read_everything(folder) -> None:
    database = Database(folder)
    database.keys()
    for image in find_images(folder):
        image.read()


def test_a_database_cut_short(database):
    content = (database / "data.mdb").read_bytes()
    for length in (0, 100, 5000, 9000, len(content) - 4096):
        (database / "data.mdb").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"hr\.lmdb: .*data\.mdb"):
            read_everything(database)
    (database / "data.mdb").write_bytes(b"\0" * 20000)
    with pytest.raises(UserError, match="meta page"):
        read_everything(database)


def test_damaged_pages_give_a_message(tmp_path, folder_of):
    """The library would end the process (SIGBUS), or read other memory; this test would not end."""
    names = {f"image{number:03d}": (8, 9) for number in range(150)}
    target = tmp_path / "x.lmdb"
    write_database(find_images(folder_of("many", **names)), target)
    content = (target / "data.mdb").read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        start = int(draw.integers(0, len(content) - 64))
        damaged[start : start + 16] = draw.bytes(16)
        (target / "data.mdb").write_bytes(damaged)
        try:
            read_everything(target)
        except UserError:
            refused += 1
    assert refused > 20  # other places are not in use any more, or padding


@pytest.mark.parametrize("field", ["child", "overflow", "length", "loop"])
def test_numbers_that_lead_out_of_the_file(tmp_path, field):
    """Each field of the format that a reader follows, set to nonsense."""
    path = tmp_path / "x"
    with lmdb.open(str(path), map_size=2**24) as environment:
        with environment.begin(write=True) as transaction:
            for number in range(200):
                transaction.put(b"key%05d" % number, bytes(9000 if number == 100 else 50))
        with environment.begin() as transaction:
            assert transaction.stat()["depth"] == 2
    content = bytearray((path / "data.mdb").read_bytes())
    pages = range(2, len(content) // 4096)

    def number_at(start, length):
        return int.from_bytes(content[start : start + length], "little")

    root_page = next(page for page in pages if number_at(page * 4096 + 10, 2) == 1)
    first_child = root_page * 4096 + number_at(root_page * 4096 + 16, 2)
    overflow_node = content.index(b"key00100") - 8
    if field == "child":
        content[first_child : first_child + 4] = b"\xff\xff\xff\x7f"
    elif field == "loop":
        content[first_child : first_child + 4] = root_page.to_bytes(4, "little")
    elif field == "overflow":
        content[overflow_node + 16 : overflow_node + 24] = (2**40).to_bytes(8, "little")
    else:
        content[overflow_node : overflow_node + 4] = b"\xff\xff\xff\x7f"
    (path / "data.mdb").write_bytes(content)
    with open(path / "data.mdb", "rb") as file:
        data = LmdbFile(file)
        with pytest.raises(LmdbDamageError):
            list(data.iterate_keys())
            data.get(b"key00000")
            data.get(b"key00100")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # as a full disk: writing fails
sys.path.insert(0, "scripts")
from prepare_data import main
sys.exit(main(["lmdb", *sys.argv[1:]]))
"""


def test_a_full_disk_gives_a_message(tmp_path, folder):
    root = Path(__file__).resolve().parents[2]
    target = tmp_path / "full.lmdb"
    command = [sys.executable, "-c", LIMITED, str(folder), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "data.mdb" in done.stderr
    assert "again" in done.stderr  # how to go on
    assert not target.exists()
