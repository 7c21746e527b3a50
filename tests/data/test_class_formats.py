"""Classification sets on disk: every format gives the same images and labels, or a message."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from labeled_sets import CLASSES, contents, tiny, write_cifar_10, write_cifar_100
from PIL import Image

from dhp_sr.data.class_formats import format_of, read_labeled, splits_in
from dhp_sr.data.class_writers import WRITERS, make_classes
from dhp_sr.data.labeled import first_of_each_class
from dhp_sr.data.labeled_tables import read_table, table_text
from dhp_sr.utils.errors import UserError

RECORD = 1 + 3072


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10's own layout, with both splits."""
    folder = write_cifar_10(tmp_path / "published", tiny())
    return write_cifar_10(folder, tiny(5, seed=1), "test")


@pytest.fixture
def made(cifar, tmp_path):
    """Make the set in another form."""

    def make(form):
        target = tmp_path / (f"{form}.lmdb" if form == "lmdb" else form)
        assert make_classes(cifar, target, form) == 12
        return target

    return make


def refusal(folder, split="train", **more):
    with pytest.raises(UserError) as caught:
        read_labeled(folder, split, **more)
    return str(caught.value)


def test_cifar_10_is_read_as_it_was_published(cifar):
    labeled, expected = read_labeled(cifar, "train"), tiny()
    assert np.array_equal(labeled.images_NHWC, expected.images_NHWC)
    assert np.array_equal(labeled.labels, expected.labels) and labeled.labels.dtype == np.int64
    assert labeled.classes == CLASSES and splits_in(cifar) == ["train", "test"]


def test_cifar_100_has_both_kinds_of_labels(tmp_path):
    folder = write_cifar_100(tmp_path / "cifar", tiny())
    fine, coarse = read_labeled(folder, "train"), read_labeled(folder, "train", labels="coarse")
    assert np.array_equal(fine.labels, tiny().labels) and fine.classes == CLASSES
    assert np.array_equal(coarse.labels, np.minimum(fine.labels, 1)) and coarse.classes == (
        "first",
        "other",
    )
    assert np.array_equal(fine.images_NHWC, coarse.images_NHWC)


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
def test_every_form_is_made_from_every_other(first, second, made, tmp_path):
    source = made(first)
    assert format_of(source) == first
    target = tmp_path / ("again.lmdb" if second == "lmdb" else "again")
    make_classes(source, target, second)
    assert splits_in(target) == ["train", "test"]
    for split, expected in (("train", tiny()), ("test", tiny(5, seed=1))):
        assert contents(read_labeled(target, split)) == contents(expected)


def test_made_again_there_is_nothing_to_do(cifar, tmp_path):
    assert make_classes(cifar, tmp_path / "sheets", "sheets") == 12
    assert make_classes(cifar, tmp_path / "sheets", "sheets") == 0
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(UserError, match="sheets: exists"):
        make_classes(cifar, tmp_path / "sheets", "folders")


def test_larger_images_are_resized_and_cut_in_the_middle(tmp_path):
    (tmp_path / "set" / "ant").mkdir(parents=True)
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "set" / "ant" / "a.png")
    Image.fromarray(wide[:, 20:40]).save(tmp_path / "set" / "ant" / "b.png")
    assert "20x20" in (text := refusal(tmp_path / "set")) and "20x60" in text and "`size`" in text
    for side in (10, 20):
        labeled = read_labeled(tmp_path / "set", "train", side=side)
        assert labeled.images_NHWC.shape == (2, side, side, 3)
        assert (labeled.images_NHWC[:, :, 2:-2] == 200).all()


def test_sheets_and_cifar_are_resized_too(cifar, made):
    for folder in (cifar, made("sheets")):
        assert read_labeled(folder, "test", side=16).images_NHWC.shape == (5, 16, 16, 3)


def test_the_first_of_each_class():
    labeled = first_of_each_class(tiny(30), 2)
    assert sorted(labeled.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    first = [np.flatnonzero(tiny(30).labels == label)[:2] for label in range(3)]
    assert np.array_equal(labeled.images_NHWC, tiny(30).images_NHWC[np.sort(np.concatenate(first))])


def test_a_truncated_binary_file_is_refused(cifar):
    path = cifar / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-100])
    text = refusal(cifar)
    assert "data_batch_1.bin: " in text and str(RECORD) in text and str(7 * RECORD - 100) in text
    path.write_bytes(b"")
    assert "data_batch_1.bin: " in refusal(cifar)


def test_labels_out_of_range_are_refused(cifar):
    path = cifar / "data_batch_1.bin"
    data = bytearray(path.read_bytes())
    data[2 * RECORD] = 7
    path.write_bytes(bytes(data))
    text = refusal(cifar)
    assert "3 classes" in text and "7 at image 2" in text


def test_a_missing_batch_in_the_middle_is_refused(cifar):
    shutil.copy(cifar / "data_batch_1.bin", cifar / "data_batch_3.bin")
    assert "data_batch_2.bin" in refusal(cifar)


def test_pickles_are_not_read(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x00.")
    text = refusal(tmp_path)
    assert "data_batch_1:" in text and "pickle" in text and "cifar-10-binary" in text


def test_a_class_without_images_is_refused(made):
    folder = made("folders")
    (folder / "train" / "dog").mkdir()
    assert "dog: " in refusal(folder)


def test_a_split_that_is_not_there_is_refused(made):
    shutil.rmtree((folders := made("folders")) / "train")
    assert "'train'" in (text := refusal(folders)) and "test" in text
    assert "'val'" in (text := refusal(made("sheets"), "val")) and "train, test" in text
    assert "'val'" in (text := refusal(made("lmdb"), "val")) and "train, test" in text
    assert "'val'" in refusal(made("cifar"), "val")


def test_sheets_without_their_index_are_refused(made):
    folder = made("sheets")
    (folder / "INDEX.tsv").unlink()
    text = refusal(folder)
    assert "test_000.webp" in text and "INDEX.tsv" in text


def without_second_sheet(old):
    return "\n".join(line for line in old.splitlines() if "train_001" not in line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: old.replace("train_000.webp", "train_009.webp"), "train_009.webp"),
        (without_second_sheet, "train_001.webp"),
        (lambda old: old.replace("row\tcol", "col\trow"), "line 1: "),
        (lambda old: old.replace("ant\t0", "ant\tzero", 1), "line 2: "),
        (lambda old: old.replace("ant\t0", "ant\t1", 1), "class 'ant'"),
        (lambda old: old.replace("cow\t2", "cow\t5"), "[0, 1, 5]"),
        (lambda old: old + "train_000.webp\t4\t0\tant\t0\n", "train_000.webp: "),
        (lambda old: old.replace("train_000.webp", "../train_000.webp"), "'../train_000.webp'"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_refused(made, change, message):
    index = made("sheets") / "INDEX.tsv"
    index.write_text(change(index.read_text()))
    assert message in refusal(index.parent)


def test_a_truncated_sheet_is_refused(made):
    sheet = next(made("sheets").glob("train_*.webp"))
    sheet.write_bytes(sheet.read_bytes()[: sheet.stat().st_size // 2])
    assert f"{sheet}: " in refusal(sheet.parent)


def test_a_database_without_labels_is_refused(made):
    folder = made("lmdb")
    (folder / "labels.tsv").write_text(
        (folder / "labels.tsv").read_text().replace("train_000_000000", "nosuch")
    )
    assert "'nosuch'" in refusal(folder)
    (folder / "labels.tsv").unlink()
    assert "labels.tsv" in refusal(folder)


def test_what_is_no_set_is_refused(tmp_path):
    assert "nothing" in refusal(tmp_path)
    assert "nosuch: " in refusal(tmp_path / "nosuch")
    (tmp_path / "ant").mkdir()
    assert "labels: coarse" in refusal(tmp_path, labels="coarse")


def test_a_form_that_cannot_hold_the_images_is_refused(tmp_path):
    folder = tmp_path / "set" / "ant"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(folder / "a.png")
    with pytest.raises(UserError, match=r"32x32.*12x10x3.*--size 32"):
        make_classes(tmp_path / "set", tmp_path / "cifar", "cifar")
    with pytest.raises(UserError, match="1 of 12x10"):
        make_classes(tmp_path / "set", tmp_path / "sheets", "sheets")
    with pytest.raises(UserError, match=r"database: .*\.lmdb"):
        make_classes(tmp_path / "set", tmp_path / "database", "lmdb")


def test_links_to_nothing_among_the_images_of_a_class(made):
    folder = made("folders")
    (folder / "train" / "ant" / "x.png").symlink_to(folder / "gone.png")
    assert "x.png: " in (text := refusal(folder)) and "gone.png" in text


def test_class_names_that_are_not_utf_8(made):
    folder = made("folders")
    (folder / "train" / "ant").rename(folder / "train" / os.fsdecode(b"gr\xfcn"))
    assert "UTF-8" in refusal(folder)


def test_tables_that_went_through_an_editor(made):
    """A byte-order mark and empty lines are no rows."""
    for form, name in (("sheets", "INDEX.tsv"), ("lmdb", "labels.tsv")):
        folder = made(form)
        text = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n")
        assert contents(read_labeled(folder, "train")) == contents(tiny())


@pytest.mark.parametrize("name", ['"big" dog', 'a "big" dog', '"dog', "a\tdog", "a\ndog", "dog "])
def test_tables_hold_every_name_that_a_folder_can_have(tmp_path, name):
    path = tmp_path / "x.tsv"
    rows = [["a.webp", "0", name, "1"], ["b.webp", "1", "cat", "0"]]
    path.write_text(table_text(("a", "b", "c", "d"), rows))
    assert read_table(path, ("a", "b", "c", "d"), "a table") == rows
    assert table_text(("a", "b"), [("x", 1)]) == "a\tb\nx\t1\n"


@pytest.mark.parametrize("name", [" dog", "dog ", "a\ndog", "a\x1ddog", ""])
def test_names_that_are_no_line_are_not_written_as_cifar(tmp_path, name):
    labeled = replace(tiny(), classes=("cat", name, "cow"))
    with pytest.raises(UserError, match=r"class .* batches\.meta\.txt"):
        WRITERS["cifar"]({"train": labeled}, tmp_path)
    assert not list(tmp_path.iterdir())
