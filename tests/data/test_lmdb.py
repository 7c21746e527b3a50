"""Databases: BasicSR's layout, round trip, size, damage."""

import sys

import cv2
import lmdb
import numpy as np
import pytest

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
            np.testing.assert_array_equal(
                pixels, cv2.imread(str(folder / f"{key}.png"), cv2.IMREAD_UNCHANGED)
            )


def test_round_trip(folder, database):
    assert verify_database(database, find_images(folder)) == []
    for ours, original in zip(find_images(database), find_images(folder), strict=True):
        assert (ours.key, ours.size()) == (original.key, original.size())
        np.testing.assert_array_equal(ours.read(), original.read())


def test_database_of_basicsr_is_read(tmp_path, picture):
    """As its `make_lmdb_from_imgs` writes it, names with spaces included."""
    image = picture(20, 30)
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


def test_written_in_two_goes(folder, tmp_path):
    target = tmp_path / "hr.lmdb"
    images = find_images(folder)
    with pytest.raises(KeyboardInterrupt):
        write_database(images, target, progress=interrupt)
    assert not (target / "meta_info.txt").exists()
    write_database(images, target)
    assert verify_database(target, images) == []


def interrupt() -> None:
    raise KeyboardInterrupt


def test_map_size_fits_noise_that_does_not_compress(tmp_path, folder_of):
    images = find_images(folder_of("noise", a=(1, 1), **{f"b{i}": (400, 500) for i in range(4)}))
    write_database(images, tmp_path / "x.lmdb")
    assert (tmp_path / "x.lmdb" / "data.mdb").stat().st_size < map_size(
        [image.size() for image in images]
    )


def test_two_sets_may_share_a_database(database):
    first, second = find_images(database), find_images(database)
    np.testing.assert_array_equal(first[1].read(), second[1].read())


def test_faults_are_listed(folder, database):
    with (
        lmdb.open(str(database), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"a", transaction.get(b"a")[:-20])
        transaction.put(b"b", transaction.get(b"c"))
        transaction.put(b"extra", transaction.get(b"c"))
        transaction.delete(b"c")
    faults = "\n".join(verify_database(database, find_images(folder)))
    for fault in (
        "extra: in the database, not in meta_info.txt",
        "extra: in the database, not among the originals",
        "c: among the originals, not in the database",
        "key a: expected a whole image",
        "b: meta_info.txt says (60, 50, 3), the image is (300, 400, 3)",
        "lists 'c', the database does not hold it",
    ):
        assert fault in faults


def test_other_pixels_are_a_fault(folder, database, folder_of):
    others = find_images(folder_of("others", c=(300, 400)))
    assert any(fault.startswith("c: differs from") for fault in verify_database(database, others))


def test_size_other_than_in_the_meta_file(database):
    meta = database / "meta_info.txt"
    meta.write_text(meta.read_text().replace("60,50", "50,60"))
    with pytest.raises(
        UserError, match=r"key b: expected the meta file's size \(50, 60, 3\), found \(60, 50, 3\)"
    ):
        find_images(database)[1].read()


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (
            lambda folder: (folder / "meta_info.txt").unlink(),
            r"expected the file meta_info\.txt .*unfinished",
        ),
        (lambda folder: (folder / "data.mdb").unlink(), r"expected the file data\.mdb"),
        (
            lambda folder: (folder / "meta_info.txt").write_text("a.png\n"),
            r"line 1: expected a line such as .*'a\.png'",
        ),
        (lambda folder: (folder / "meta_info.txt").write_text(""), "found an empty meta file"),
    ],
)
def test_incomplete_folders(database, break_it, match):
    break_it(database)
    with pytest.raises(UserError, match=match):
        find_images(database)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="expected an LMDB folder, found none"):
        Database(tmp_path / "x.lmdb")


def test_damaged_database(database):
    (database / "data.mdb").write_bytes(b"\0" * 20000)
    with pytest.raises(UserError, match="cannot read the database"):
        find_images(database)[0].read()


def test_a_database_cut_short(database):
    """Reading beyond the end of the file would kill the process (SIGBUS)."""
    content = (database / "data.mdb").read_bytes()
    (database / "data.mdb").write_bytes(content[:9000])
    with pytest.raises(
        UserError, match=r"hr\.lmdb: expected \d+ bytes in data\.mdb, found 9000: it is cut short"
    ):
        find_images(database)[0].read()


def test_unusable_names(tmp_path, folder_of):
    with pytest.raises(UserError, match="has to be ASCII"):
        write_database(find_images(folder_of("hr", **{"grün": (8, 8)})), tmp_path / "x.lmdb")
    twice = folder_of("twice", a=(8, 8))
    (twice / "a.bmp").write_bytes((twice / "a.png").read_bytes())
    with pytest.raises(UserError, match=r"a\.png and \S+a\.bmp have the same name"):
        write_database(find_images(twice), tmp_path / "y.lmdb")
    assert not (tmp_path / "x.lmdb").exists() and not (tmp_path / "y.lmdb").exists()


def test_without_the_package(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(
        UserError, match="needs the package lmdb, which is not installed: `pip install lmdb`"
    ):
        find_images(database)[0].read()
