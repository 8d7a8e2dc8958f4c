"""Sets as .npy lists of images and right answers; files written by numpy, answers worked out by hand."""

import os

import numpy as np
import pytest

from datasets import read_file_lists

DATABASE = ["cph/db/a.jpg", "cph/db/b.jpg", "sf/db/c.jpg", "sf/db/d.jpg"]
QUERIES = ["cph/q/0.jpg", "cph/q/1.jpg", "sf/q/2.jpg"]


def objects(*rows):
    """A one-dimensional object array, whatever the rows are."""
    return np.fromiter(rows, object, len(rows))


GT = objects(np.array([0, 1]), np.array([3]))


@pytest.fixture
def lists(tmp_path):
    """A function that writes a set "tiny", of whose queries 0 and 2 are used, with any of its files changed or None."""
    for name in (*DATABASE, *QUERIES):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    folder = tmp_path / "lists"
    folder.mkdir()

    def write(**changed):
        files = {"tiny_dbImages": np.array(DATABASE), "tiny_qImages": np.array(QUERIES), "tiny_qIdx": np.array([0, 2]),
                 "tiny_gt": GT} | changed
        for name, array in files.items():
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        return folder, tmp_path / "images"

    return write


def positives(files, **options):
    return [ids.tolist() for ids in read_file_lists(*files, **{"name": "tiny", **options}).positives]


def test_a_set(lists):
    folder, root = lists()
    listing = read_file_lists(folder, root, name="msls_val_740")
    assert listing.names("database") == DATABASE and listing.names("query") == [QUERIES[0], QUERIES[2]]
    assert listing.database_paths[0] == root / DATABASE[0]
    assert [ids.tolist() for ids in listing.positives] == [[0, 1], [3]]
    assert all(ids.dtype == np.int64 for ids in listing.positives)
    assert (listing.name, listing.folder, listing.rule, listing.threshold_m) == ("msls_val_740", root, "listed", None)
    assert listing.database_utm is None and listing.split is None
    assert listing.warnings == (f"{folder}/tiny_qIdx.npy: 2 of 3 listed queries are used",)
    assert len(listing.fingerprint()) == 64


@pytest.mark.parametrize("names", [
    np.array([f"./{name}" for name in DATABASE]), np.array(DATABASE, object), np.array(DATABASE).astype("S"),
    objects(*map(np.str_, DATABASE)), np.array(DATABASE)[::-1][::-1], np.array(DATABASE).astype(">U12"),
], ids=["./", "objects", "bytes", "numpy text", "view", "big endian"])
def test_names_of_every_kind(lists, names):
    assert read_file_lists(*lists(tiny_dbImages=names), name="tiny").names("database") == DATABASE


@pytest.mark.parametrize("truth, expected", [
    (objects([1, 0, 1], [3]), [[0, 1], [3]]),
    (objects(np.array([2, 0], np.uint16), (1,)), [[0, 2], [1]]),
    (objects(np.array([0, 1, 2], ">i4"), np.array([])), [[0, 1, 2], []]),  # an empty one is of floats
    (objects([], [np.int64(2), 1]), [[], [1, 2]]),
    (objects(3, np.int32(0)), [[3], [0]]),
    (objects(objects(1, 2), np.array([[0]])), [[1, 2], [0]]),
    (np.array([3, 1]), [[3], [1]]), (np.array([[3], [1]]), [[3], [1]]), (np.array([[3, 1], [1, 1]]), [[1, 3], [1]]),
    (np.array([[3, 0, 1], [1, 2, 0]], np.int32, order="F"), [[0, 1, 3], [0, 1, 2]]),
    (np.array([[0, np.array([1, 2])], [2, np.array([3])]], object), [[1, 2], [3]]),  # numbers of qIdx
    (np.array([[2, [3]], [0, [1, 2]]], object), [[1, 2], [3]]),
    (np.array([[0, np.array([1])], [1, np.array([3, 0])]], object), [[1], [0, 3]]),  # ranks in qIdx
    (np.array([[1, [3]], [0, [1, 2]]], object, order="F"), [[1, 2], [3]]),
    (objects([0, np.array([2])], (2, 1)), [[2], [1]]),
])
def test_right_answers_of_every_kind(lists, truth, expected):
    assert positives(lists(tiny_gt=truth)) == expected


def test_as_the_published_sets_are(lists):
    """Nordland's first rows, [0, 1] and [0, 1, 2], without qIdx; pairs in VPR-Bench's ground_truth_new.npy."""
    truth = objects(np.array([0, 1]), np.array([0, 1, 2]), np.array([1, 2, 3]))
    files = lists(tiny_qIdx=None, tiny_gt=truth)
    assert positives(files) == [[0, 1], [0, 1, 2], [1, 2, 3]]
    assert read_file_lists(*files, name="tiny").warnings == ()
    (files[0] / "tiny_gt.npy").unlink()
    np.save(files[0] / "ground_truth_new.npy", np.array([[i, row] for i, row in enumerate(truth)], object))
    assert positives(files) == [[0, 1], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("name", ["tiny_pIdx", "TINY_GT", "tiny_gt_25m", "tiny_GroundTruth", "GroundTruth_tiny",
                                  "ground_truth_new"])
def test_names_of_the_right_answers(lists, name):
    assert positives(lists(tiny_gt=None, **{name: GT})) == [[0, 1], [3]]


def test_upper_and_lower_case_count_alike(lists):
    array = {"tiny_dbImages": DATABASE, "tiny_qImages": QUERIES, "tiny_qIdx": [0, 2]}
    changed = dict.fromkeys(array) | {name.upper(): np.array(value) for name, value in array.items()}
    assert positives(lists(**changed)) == [[0, 1], [3]]


def test_one_of_several_sets_in_a_folder(lists):
    other = {"Other_dbImages": np.array(DATABASE[:2]), "Other_qImages": np.array(QUERIES[:1]), "Other_gt": objects([1])}
    files = lists(**other)
    assert positives(files, name="tiny") == [[0, 1], [3]]
    assert positives(files, name="other") == [[1]]  # which has no qIdx: the other set's is not taken
    with pytest.raises(ValueError, match=r"2 lists \*_dbImages\.npy; expected one, or one called sped_dbImages\.npy.*"
                                         r"there: Other_dbImages\.npy, Other_gt\.npy"):
        positives(files, name="sped")
    (files[0] / "tiny_gt.npy").rename(files[0] / "tiny_GroundTruth.npy")
    (files[0] / "Other_gt.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no list of right answers"):
        positives(files, name="other")


@pytest.mark.parametrize("changed, kind, said", [
    ({"tiny_dbImages": None}, FileNotFoundError, "0 lists *_dbImages.npy"),
    ({"tiny_qImages": None}, FileNotFoundError, "no tiny_qImages.npy"),
    ({"tiny_gt": None}, FileNotFoundError, "no list of right answers"),
    ({"tiny_pIdx": GT}, ValueError, "2 list of right answers"),
    ({"tiny_gt": None, "tiny_GroundTruth": GT, "tiny_ground_truth": GT}, ValueError, "2 list of right answers"),
])
def test_lists_that_are_missing_or_too_many(lists, changed, kind, said):
    folder, root = lists(**changed)
    with pytest.raises(kind) as error:
        read_file_lists(folder, root, name="tiny")
    there = ", ".join(sorted(path.name for path in folder.iterdir()))
    assert said in str(error.value) and str(error.value).endswith(f".npy files there: {there}")
    assert "*_pIdx.npy" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("changed, said", [
    ({"tiny_qIdx": np.array([0, 3])}, "tiny_qIdx.npy, row 1: 3; tiny_qImages.npy has the rows 0 to 2"),
    ({"tiny_qIdx": np.array([-1, 0])}, "row 0: -1"), ({"tiny_qIdx": np.array([0, 0])}, "1 numbers repeat another one"),
    ({"tiny_qIdx": np.array([0.0, 2.0])}, "expected a one-dimensional array of whole numbers"),
    ({"tiny_qIdx": np.array([[0, 2]])}, "one-dimensional"), ({"tiny_qIdx": np.array([], int)}, "at least one"),
    ({"tiny_qIdx": np.array([True, False, True])}, "whole numbers"), ({"tiny_qIdx": objects("0", "2")}, "whole"),
    ({"tiny_gt": objects([0])}, "tiny_gt.npy: 1 rows; expected one for each of the 2 queries of tiny_qIdx.npy"),
    ({"tiny_gt": objects([0], [1], [2])}, "tiny_gt.npy: 3 rows; expected one for each of the 2 queries"),
    ({"tiny_qIdx": None}, "tiny_gt.npy: 2 rows; expected one for each of the 3 queries of tiny_qImages.npy"),
    ({"tiny_gt": objects([0], [1, 4])}, "tiny_gt.npy, row 1: database id 4; expected 0 to 3, as 4 images are listed"),
    ({"tiny_gt": objects([-1, 0], [1])}, "row 0: database id -1"),
    ({"tiny_gt": objects([10**30], [1])}, f"database id {10**30}"),
    ({"tiny_gt": objects(np.array([1.0]), [1])}, "row 0: [1.0]; expected database ids"),
    ({"tiny_gt": np.array([1.0, 2.0])}, "row 0: [1.0]"), ({"tiny_gt": objects("a", [1])}, "row 0: ['a']"),
    ({"tiny_gt": objects(np.array([True]), [1])}, "row 0: [True]"),
    ({"tiny_gt": np.array(3, object)}, "a single int; expected an array with rows"),
    ({"tiny_gt": np.zeros((2, 1, 1), int)}, "no rows"), ({"tiny_gt": np.array(3)}, "no rows"),
    ({"tiny_gt": np.array([[0, 3], [2, 1]])}, "rows like [0, 3], two ids or a query's number and its one id"),
    ({"tiny_gt": np.array([[0, 3], [1, 1]])}, "two ids or a query's number"),
    ({"tiny_gt": objects([1, 3], [0, 1])}, "two ids or a query's number"),
    ({"tiny_gt": np.array([[0, [1]], [0, [2]]], object)}, "the queries' numbers repeat [0]"),
    ({"tiny_gt": np.array([[1, [1]], [2, [2]]], object)}, "the queries' numbers begin with [1, 2]"),
    ({"tiny_dbImages": np.array([DATABASE])}, "tiny_dbImages.npy: expected a one-dimensional array of paths"),
    ({"tiny_dbImages": np.arange(4)}, "array of paths"), ({"tiny_qImages": np.array([], str)}, "at least one"),
    ({"tiny_qImages": np.array(["", "a", "b"])}, "array of paths"), ({"tiny_qImages": objects("a", 1)}, "of paths"),
    ({"tiny_qImages": np.array(["a", "../b.jpg", "c"])}, "row 1: ../b.jpg lies outside of the images' folder"),
    ({"tiny_qImages": np.array(["/etc/x.jpg", "a", "b"])}, "row 0: /etc/x.jpg lies outside"),
    ({"tiny_qImages": np.array(["a/../../b", "a", "b"])}, "row 0: ../b lies outside"),
])
def test_lists_that_do_not_fit(lists, changed, said):
    with pytest.raises(ValueError) as error:
        positives(lists(**changed))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_images_that_are_not_there(lists):
    folder, root = lists(tiny_dbImages=np.array([*DATABASE, "sf/e.jpg", "sf/f.jpg"]))
    with pytest.raises(FileNotFoundError, match=r"images/sf/e\.jpg: not there \(and 1 more like it\); listed in .*tiny_"
                                                rf"dbImages\.npy, below {root}$"):
        read_file_lists(folder, root, name="tiny")
    folder, root = lists()
    (root / QUERIES[1]).unlink()  # a query that is not used
    assert len(positives((folder, root))) == 2
    (root / QUERIES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"q/2\.jpg: not there; .*tiny_qImages\.npy"):
        positives((folder, root))
    for missing in ((folder / "no", root), (folder, root / "no")):
        with pytest.raises(FileNotFoundError, match="no: no such folder; expected the"):
            positives(missing)


def test_repeated_images_are_counted(lists):
    files = lists(tiny_dbImages=np.array([*DATABASE, DATABASE[0], "./" + DATABASE[0]]))
    assert read_file_lists(*files, name="tiny").warnings[-1].endswith(
        f"2 of 6 paths repeat another one, first {DATABASE[0]}")


def test_drawn_images_say_so(lists):
    folder, root = lists()
    (root.parent / "TOY_CITY.json").write_text("{}")
    assert read_file_lists(folder, root, name="tiny").name == "toy_city/tiny"


def test_no_fifo_is_read_or_listed(lists):
    folder, root = lists()
    (root / DATABASE[1]).unlink()
    os.mkfifo(root / DATABASE[1])
    with pytest.raises(ValueError, match=r"cph/db/b\.jpg: a FIFO, socket or device; expected a regular file"):
        read_file_lists(folder, root, name="tiny")
    (folder / "tiny_gt.npy").unlink()
    os.mkfifo(folder / "tiny_gt.npy")
    with pytest.raises(ValueError, match=r"tiny_gt\.npy: a FIFO, socket or device; expected a regular file"):
        read_file_lists(folder, root, name="tiny")
