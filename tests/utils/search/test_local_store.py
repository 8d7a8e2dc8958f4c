"""Local features on disk, and those that are extracted when they are asked for."""

import os
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT

from utils.search.local import rerank_local
from utils.search.local_store import LocalFeatures, Recomputed, write_local

SHAPE = (3, 4, 8)


def features(n: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((n, *SHAPE)).astype(np.float32)
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


def written(path, made: np.ndarray, batch: int = 3):
    with write_local(path, images=len(made), shape=SHAPE) as write:
        for start in range(0, len(made), batch):
            write(start, made[start:start + batch])
    return LocalFeatures(path)


def test_features_come_back_as_float16(tmp_path):
    made = features(10)
    store = written(tmp_path / "features.npy", made)
    assert (len(store), store.shape, store.bytes_per_image) == (10, SHAPE, 192)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npy"]
    assert 0 < (tmp_path / "features.npy").stat().st_size - 10 * (192 + 4) <= 128  # what numpy puts before
    read = store.read(np.array([7, 0, 7]))
    assert read.dtype == np.float16 and read.flags.writeable
    assert np.array_equal(read, made[[7, 0, 7]].astype(np.float16))
    assert np.array_equal(store[9], made[9].astype(np.float16))
    assert store.read(np.zeros(0, np.int64)).shape == (0, *SHAPE)
    assert np.array_equal(np.load(store.path), made.astype(np.float16))  # for other programs


def test_images_of_one_name_in_several_folders_stay_apart(tmp_path):
    """In the published code a/1.jpg and b/1.jpg overwrite each other: here an image is a number."""
    made = features(6)
    with write_local(tmp_path / "store", images=6, shape=SHAPE) as write:
        for image in (5, 0, 3, 1, 4, 2):
            write(image, made[image:image + 1])
    assert len({LocalFeatures(tmp_path / "store")[image].tobytes() for image in range(6)}) == 6


def test_an_interrupted_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "features"
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), write_local(path, images=4, shape=SHAPE) as write:
            write(0, features(4))
            raise error
        assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match="1 of 4 images have no local features"), \
            write_local(path, images=4, shape=SHAPE) as write:
        write(1, features(3))
    assert not any(tmp_path.iterdir())
    store = written(path, features(4))
    with pytest.raises(RuntimeError), write_local(path, images=2, shape=SHAPE) as write:
        write(0, features(2, seed=1))
        raise RuntimeError
    assert np.array_equal(store.read(np.arange(4)), features(4).astype(np.float16))


@pytest.mark.slow
def test_a_killed_writing_leaves_no_file_of_that_name(tmp_path):
    script = ("import os, sys, numpy as np\nfrom utils.search.local_store import write_local\n"
              "with write_local(sys.argv[1], images=2, shape=(1, 1, 2)) as write:\n"
              "    write(0, np.ones((2, 1, 1, 2), np.float32)); os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "features")], cwd=ROOT, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -9 and not (tmp_path / "features").exists()


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "features"
    bad = features(1)
    bad[0, 1, 2, 3] = np.nan
    for message, start, given in (("NaN or infinity", 0, bad), ("NaN or infinity", 0, features(1) * 1e6),
                                  (r"\(2, 3, 4, 8\) for images from 3 on; expected \(3, 4, 8\) each, for some of 4", 3,
                                   features(2)),
                                  ("images from -1 on", -1, features(1)),
                                  (r"\(1, 3, 4, 7\)", 0, features(1)[..., :7])):
        with pytest.raises(ValueError, match=message), write_local(path, images=4, shape=SHAPE) as write:
            write(start, given)
    for images, shape in ((0, SHAPE), (4, (3, 0, 8))):
        with pytest.raises(ValueError, match="at least one of each"), write_local(path, images=images, shape=shape):
            pass
    store = written(path, features(4))
    for wanted in ([0, 4], [-1]):
        with pytest.raises(ValueError, match="expected some of the 4"):
            store.read(np.array(wanted))


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        LocalFeatures(tmp_path / "missing")
    path = written(tmp_path / "features", features(4)).path
    whole = path.read_bytes()
    np.savez(tmp_path / "several.npz", features(4))
    for content in (whole[:-100], whole[:20], b"", b"no array", (tmp_path / "several.npz").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="features is no file of local features, or torn"):
            LocalFeatures(path)
    for content in (whole[:-4], whole[:-16]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="features is torn: [03] of 4 checksums"):
            LocalFeatures(path)
    with path.open("wb") as file:
        np.save(file, features(4))
    with pytest.raises(ValueError, match=r"float32 \(4, 3, 4, 8\); expected local features, float16"):
        LocalFeatures(path)


def test_one_changed_bit_is_told_when_its_image_is_read(tmp_path):
    path = written(tmp_path / "features", features(4)).path
    whole = bytearray(path.read_bytes())
    whole[-4 * 4 - 192 - 1] ^= 1  # the last of image 2
    path.write_bytes(whole)
    store = LocalFeatures(path)
    assert store.read(np.array([0, 1, 3, 3])).shape == (4, *SHAPE)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged: the features of image 2 do not fit their checksum"):
            store.read(np.array([1, 2]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "features")
    with pytest.raises(ValueError, match="FIFO; expected a regular file"):
        LocalFeatures(tmp_path / "features")


def test_features_are_extracted_once_while_they_are_kept():
    made, asked = features(10), []

    def extract(images):
        asked.append(images.tolist())
        return made[images]

    source = Recomputed(extract, keep=3)
    for wanted, extracted in (([1, 2, 1], [1, 2]), ([2], None), ([3, 2], [3]), ([4], [4]), ([2, 3, 4], None),
                              ([1], [1]), ([2], [2]), ([9, 8, 7, 6, 5], [9, 8, 7, 6, 5]), ([5, 6, 7], None),
                              ([8], [8])):
        asked.clear()
        assert np.array_equal(source.read(np.array(wanted)), made[wanted])
        assert asked == ([extracted] if extracted else [])
    with pytest.raises(ValueError, match="keep is -1"):
        Recomputed(extract, keep=-1)
    with pytest.raises(ValueError, match="extracting 2 images gave the features of 1"):
        Recomputed(lambda images: made[:1]).read(np.array([1, 2]))


def test_reranking_from_the_disk_and_from_the_images_is_the_same(tmp_path):
    database = features(8).astype(np.float16)
    store, queries = written(tmp_path / "database", database), written(tmp_path / "queries", features(2, seed=1))
    candidates = np.array([[3, 1, 7, 0], [2, 3, 4, 5]])
    found = [rerank_local(given, candidates, source.read, depth=3) for given in (queries, queries.read(np.arange(2)))
             for source in (store, Recomputed(database.__getitem__), Recomputed(store.read, keep=0))]
    for ids, scores in found[1:]:
        assert np.array_equal(ids, found[0][0]) and np.array_equal(scores, found[0][1])
