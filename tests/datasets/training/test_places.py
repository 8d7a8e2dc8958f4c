"""Training places: reader, drawing, batches, and the city lists."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from datasets import (
    GSV_CITIES,
    TRAINING_SETS,
    UNIFIED_CITIES,
    CityBatchSampler,
    PlaceDataset,
    collate_places,
    training_transform,
)
from datasets.prepare.categories import Rule, class_ids, divide

HEADER = "place_id,year,month,northdeg,city_id,lat,lon,panoid"


def write_table(root, city, rows, header=HEADER):
    (root / "Dataframes").mkdir(parents=True, exist_ok=True)
    (root / "Images" / city).mkdir(parents=True, exist_ok=True)
    (root / "Dataframes" / f"{city}.csv").write_text("\n".join([header, *rows]) + "\n")


def write_city(root, city, counts, shade=0):
    """A city whose place i has counts[i] images, of colour (shade, place, number of the image).

    The rows of the places are interleaved, as a table need not be sorted.
    """
    rows = []
    for number in range(max(counts)):
        for place, count in enumerate(counts):
            if number < count:
                rows.append(f"{place},2014,{number + 1},7,{city},40.50,-3.0,pano{place}_{number}")
    write_table(root, city, rows)
    for row in rows:
        place, _, month, *_, pano = row.split(",")
        name = f"{city}_{int(place):07d}_2014_{int(month):02d}_007_40.5_-3.0_{pano}.jpg"
        colour = (shade, int(place), int(month) - 1)
        # PNG content keeps the colours exactly; Pillow goes by content, not by the file's ending.
        Image.new("RGB", (8, 6), colour).save(root / "Images" / city / name, "PNG")


@pytest.fixture
def root(tmp_path):
    write_city(tmp_path, "Rome", [4, 6, 3, 5, 4, 9, 1], shade=1)
    write_city(tmp_path, "Oslo", [5, 4, 4], shade=2)
    write_city(tmp_path, "Lima", [4, 4, 4, 4], shade=3)
    return tmp_path


CITIES = ("Rome", "Oslo", "Lima")


def load(root, cities=CITIES, transform=pil_to_tensor, **options):
    return PlaceDataset(root, cities=cities, transform=transform, **options)


def colours(images):
    return [tuple(image[:, 0, 0].tolist()) for image in images]


def test_city_lists():
    assert len(GSV_CITIES) == len(set(GSV_CITIES)) == 23
    assert (GSV_CITIES[0], GSV_CITIES[11], GSV_CITIES[22]) == ("Bangkok", "TRT", "PRS")
    assert len(UNIFIED_CITIES) == len(set(UNIFIED_CITIES)) == 436
    assert UNIFIED_CITIES[0] == "SFXL" and UNIFIED_CITIES[1:24] == GSV_CITIES
    assert UNIFIED_CITIES[24:27] == ("Trondheim0", "Amsterdam0", "Helsinki0")
    assert UNIFIED_CITIES[46:48] == ("Pitts30k0", "Trondheim1") and UNIFIED_CITIES[-1] == "Pitts30k17"
    assert {"Amman16", "Nairobi16", "bangkok17"} < set(UNIFIED_CITIES)
    assert not {"Amman17", "Nairobi17"} & set(UNIFIED_CITIES)
    assert TRAINING_SETS == {"gsv_cities": GSV_CITIES, "unified_dataset": UNIFIED_CITIES}


def test_places_images_and_dropped_places_are_counted(root):
    data = load(root, ("Rome", "Atlantis", "Oslo", "Lima", "Troy"))
    assert data.cities == list(CITIES) and data.missing_cities == ["Atlantis", "Troy"]
    assert len(data) == data.n_places == 5 + 3 + 4
    assert data.n_images == (4 + 6 + 5 + 4 + 9) + (5 + 4 + 4) + 16
    assert data.dropped_places == 2
    assert data.city_places == [range(5), range(5, 8), range(8, 12)]
    assert load(root, images_per_place=1).dropped_places == 0


def test_every_item_shows_different_images_of_its_own_place(root):
    data = load(root, images_per_place=3)
    kept = [(shade, place) for shade, count in ((1, 6), (2, 3), (3, 4)) for place in range(count)]
    seen = {place: set() for place in range(len(kept))}
    for epoch in range(30):
        for place, expected in enumerate(kept):
            images, labels = data[epoch, place]
            assert images.shape == (3, 3, 6, 8)
            assert labels.tolist() == [place] * 3 and labels.dtype == torch.int64
            shown = colours(images)
            assert {colour[:2] for colour in shown} == {expected} and len(set(shown)) == 3
            seen[place] |= {colour[2] for colour in shown}
    counts = [4, 6, 3, 5, 4, 9, 5, 4, 4, 4, 4, 4, 4]
    assert [len(seen[place]) for place in range(len(kept))] == counts  # every image gets drawn some time


def test_file_names_are_composed_as_specified(tmp_path):
    """Values in the table are not written as in the file name: 5 -> 05, 13.50 -> 13.5, 1e-5 -> 1e-05."""
    rows = {
        "123456,987,5,0,Rome,13.50,100,a-b_C": "Rome_0123456_0987_05_000_13.5_100.0_a-b_C",
        "7,2014,12,359,Rome,-34.6037220,0.00001,x": "Rome_0000007_2014_12_359_-34.603722_1e-05_x",
        "100007,2014,12,45,Rome,40.712776000000001,-74.0059728,y": (
            "Rome_0100007_2014_12_045_40.712776_-74.0059728_y"
        ),
    }
    write_table(tmp_path, "Rome", rows)
    data = load(tmp_path, ["Rome"], images_per_place=1)
    assert data.n_places == 3  # 7 and 100007 are two places
    for name in rows.values():
        Image.new("RGB", (4, 4)).save(tmp_path / "Images" / "Rome" / f"{name}.jpg")
    for place in range(3):
        data[0, place]


def test_columns_are_found_by_name(tmp_path):
    header = "panoid,extra,lat,city_id,northdeg,month,year,lon,place_id"
    write_table(tmp_path, "Rome", ["p,x,41.5,Rome,3,2,2014,0,7", "", "p,x,41.5,Rome,3,2,2014,0,7"], header)
    Image.new("RGB", (4, 4)).save(tmp_path / "Images" / "Rome" / "Rome_0000007_2014_02_003_41.5_0.0_p.jpg")
    assert load(tmp_path, ["Rome"], images_per_place=1)[0, 0][0].shape == (1, 3, 4, 4)


@pytest.mark.slow
def test_place_numbers_of_big_cities_do_not_collide(tmp_path):
    n = 100_500
    for city in CITIES[:2]:
        write_table(tmp_path, city, [f"{place},2014,1,0,{city},1.5,2.5,p" for place in range(n)])
    data = load(tmp_path, CITIES[:2], images_per_place=1)
    assert data.n_places == 2 * n and data.city_places == [range(n), range(n, 2 * n)]
    with pytest.raises(FileNotFoundError, match="Rome_0100001_2014_01_000"):
        data[0, 100_001]
    with pytest.raises(FileNotFoundError, match="Oslo_0000001_2014_01_000"):
        data[0, n + 1]


def test_an_item_depends_on_seed_epoch_and_place_alone(root):
    transform = training_transform((14, 14))
    data = load(root, transform=transform)
    torch.manual_seed(98)
    state = torch.random.get_rng_state()
    first, _ = data[3, 5]
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's generator is left alone
    torch.manual_seed(99)
    data[0, 0]
    assert torch.equal(first, data[3, 5][0]) and torch.equal(first, load(root, transform=transform)[3, 5][0])
    assert not torch.equal(first, data[4, 5][0])
    assert not torch.equal(first, load(root, transform=transform, seed=1)[3, 5][0])
    plain = load(root, ["Lima"])  # each place has 4 images; the order in which they come tells the draws apart
    draws = {tuple(colour[2] for colour in colours(plain[0, place][0])) for place in range(4)}
    assert len(draws) > 1


def batches(data, *, epoch=0, seed=0, size=2, processes=1):
    sampler = CityBatchSampler(data, places_per_batch=size, seed=seed, processes=processes)
    sampler.set_epoch(epoch)
    result = list(sampler)
    assert len(sampler) == len(result)
    return result


@pytest.mark.parametrize("size", [1, 2, 5, 12, 50])
def test_batches_hold_every_place_once_city_by_city(root, size):
    data = load(root)
    city_of = {place: city for city, places in enumerate(data.city_places) for place in places}
    for epoch in range(5):
        result = batches(data, epoch=epoch, size=size)
        assert all(len(batch) == size for batch in result[:-1]) and 0 < len(result[-1]) <= size
        sequence = [place for batch in result for _, place in batch]
        assert {e for batch in result for e, _ in batch} == {epoch}
        assert sorted(sequence) == list(range(data.n_places))
        changes = sum(city_of[a] != city_of[b] for a, b in zip(sequence[:-1], sequence[1:], strict=True))
        assert changes == len(data.cities) - 1


def test_batches_change_with_epoch_and_seed_only(root):
    data = load(root)

    def places(data, **options):
        return [place for batch in batches(data, **options) for _, place in batch]

    assert places(data) == places(load(root, seed=7))
    orders = [tuple(places(data, epoch=epoch)) for epoch in range(8)]
    assert len(set(orders)) == 8
    assert len({next(city for city in data.city_places if order[0] in city) for order in orders}) > 1
    rome = [tuple(place for place in order if place in data.city_places[0]) for order in orders]
    assert len(set(rome)) > 1
    assert places(data, seed=1) != places(data, seed=0)


# --- groups of one city (equation 17)

class Groups:
    """What the sampler needs of a PlaceDataset: names and numbers of places of each "city"."""

    def __init__(self, sizes: dict[str, int]):
        starts = np.concatenate([[0], np.cumsum(list(sizes.values()))]).tolist()
        self.cities = list(sizes)
        self.city_places = [range(*ends) for ends in itertools.pairwise(starts)]
        self.n_places = starts[-1]


MIXED = {"Rome": 7, "Goa0": 5, "Goa1": 9, "Goa2": 1, "Pitts30k0": 6, "Pitts30k1": 4, "Goa10": 3, "Oslo": 2}


@pytest.mark.parametrize("size", [2, 3, 4, 7, 100])
@pytest.mark.parametrize("sizes", [MIXED, {"Goa0": 5, "Goa1": 9, "Goa2": 1}], ids=["mixed", "one city alone"])
def test_no_batch_straddles_two_groups_of_one_city(sizes, size):
    data = Groups(sizes)
    city_of = {place: city for city, places in zip(data.cities, data.city_places, strict=True) for place in places}
    for epoch in range(20):
        result = batches(data, epoch=epoch, size=size)
        assert sorted(place for batch in result for _, place in batch) == list(range(data.n_places))
        for batch, behind in zip(result, [*result[1:], None], strict=True):
            cities = {city_of[place] for _, place in batch}
            whole = [city.rstrip("0123456789") for city in cities]
            assert len(set(whole)) == len(whole)
            assert 0 < len(batch) <= size
            if behind and len(batch) < size:  # a short batch has a reason: what comes next would straddle
                assert city_of[behind[0][1]].rstrip("0123456789") in whole
                assert city_of[behind[0][1]] not in cities


def test_a_city_of_two_data_sets_is_one():
    """Places of GSV-Cities and of MSLS in one city may be the same ones, under two labels."""
    same = [{"Bangkok", "bangkok0", "bangkok1"}, {"PRS", "Paris0"}, {"TRT", "Toronto3"}, {"London", "london2"},
            {"Rome"}]
    data = Groups({name: 5 for names in same for name in sorted(names)})
    city_of = {place: city for city, places in zip(data.cities, data.city_places, strict=True) for place in places}
    met = set()
    for epoch in range(40):
        for batch in batches(data, epoch=epoch, size=8):
            cities = {city_of[place] for _, place in batch}
            assert all(len(cities & names) <= 1 for names in same)
            met.add(len(cities))
    assert 2 in met  # of other cities a batch may have several


def test_groups_are_used_one_after_the_other():
    data = Groups({f"Goa{group}": 10 for group in range(4)})
    sequence = [place // 10 for batch in batches(data, size=4) for _, place in batch]
    assert len([group for group, _ in itertools.groupby(sequence)]) == 4


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_groups_are_whole_and_never_empty(processes):
    data = Groups({"Goa0": 7, "Goa1": 8, "Goa2": 4, "Rome": 5})
    for epoch in range(20):
        samplers = [CityBatchSampler(data, places_per_batch=3, process=process, processes=processes)
                    for process in range(processes)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        assert len({len(share) for share in shares}) == 1
        assert all(batch for share in shares for batch in share)
        assert sorted(place for share in shares for batch in share for _, place in batch) == list(range(24))
        for parts in zip(*shares, strict=True):
            groups = {place for part in parts for _, place in part}
            assert sum(any(start <= place < stop for place in groups)
                       for start, stop in ((0, 7), (7, 15), (15, 19))) <= 1


def test_a_group_that_is_too_small_for_the_processes_is_an_error():
    data = Groups({"Goa0": 2, "Goa1": 9, "Goa2": 8})
    with pytest.raises(ValueError, match="3 processes: one of Goa., Goa. has too few places for a batch of its own"):
        for epoch in range(3):
            batches(data, epoch=epoch, size=3, processes=3)


def test_places_of_a_batch_do_not_touch():
    """One city's groups alone, cut from images on 300 x 300 m: images of two places in one batch are two cells
    apart, or face ways that differ by a sector."""
    rng = np.random.default_rng(0)
    rule = Rule(M=15, alpha=60, N=3, L=2)
    east, north, heading = rng.uniform(0, 300, 9000), rng.uniform(0, 300, 9000), rng.uniform(0, 360, 9000)
    division = divide(class_ids(east, north, heading, rule), rule)
    sizes = {f"Goa{group}": len(set(division.place[division.group == group])) for group in set(division.group)}
    data = Groups(sizes)
    images_of = {}
    for image, group, place in zip(division.image, division.group, division.place, strict=True):
        images_of.setdefault((int(group), int(place)), []).append(int(image))
    keys = [key for group in range(len(sizes)) for key in sorted(key for key in images_of if key[0] == group)]
    touching = 0
    for batch in batches(data, size=12):
        for first, second in itertools.combinations([place for _, place in batch], 2):
            a, b = images_of[keys[first]], images_of[keys[second]]
            metres = np.hypot(east[a][:, None] - east[b], north[a][:, None] - north[b]).min()
            turned = np.abs(heading[a][:, None] - heading[b]).min()
            touching += metres < 30 and turned < 60
    assert touching == 0
    # What the batches of one sequence without regard to groups would hold.
    straddling = [keys[place] for city in data.city_places for place in city]
    cut = [straddling[start:start + 12] for start in range(0, len(straddling), 12)]
    assert any(len({group for group, _ in batch}) > 1 for batch in cut)


# --- loading

def test_batches_are_bit_equal_with_and_without_workers(root):
    data = load(root, transform=training_transform((14, 14)))
    sampler = CityBatchSampler(data, places_per_batch=5)

    def epochs(n_workers):
        loader = DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=collate_places,
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
        )
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            yield from loader

    alone, with_workers = list(epochs(0)), list(epochs(2))
    assert [len(images) for images, _ in alone] == [20, 20, 8] * 2 and alone[0][0].shape[1:] == (3, 14, 14)
    for (images, labels), (other_images, other_labels) in zip(alone, with_workers, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    assert sorted(torch.cat([labels for _, labels in alone[:3]]).tolist()) == sorted(list(range(12)) * 4)


def test_collate_keeps_the_images_of_a_place_together():
    samples = [(torch.full((2, 3, 1, 1), i, dtype=torch.uint8), torch.tensor([i, i])) for i in (4, 9)]
    images, labels = collate_places(samples)
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [4, 4, 9, 9] and labels.tolist() == [4, 4, 9, 9]


def test_no_city_present_names_the_layout(root):
    with pytest.raises(FileNotFoundError, match=r"none of the 2 .*Dataframes/<City>\.csv.*Lima, Oslo, Rome"):
        load(root, ["Atlantis", "Troy"])
    with pytest.raises(FileNotFoundError, match=r"expected <folder>/Dataframes/<City>\.csv"):
        load(root / "nowhere")


def test_a_city_whose_places_are_all_dropped_changes_no_batch(root):
    write_city(root, "Rome2", [3, 1])
    data = load(root, ("Rome", "Rome2", "Lima"))
    assert (data.cities[1], data.city_places[1]) == ("Rome2", range(5, 5)) and data.dropped_places == 4
    assert data.empty_cities == ["Rome2"] and load(root).empty_cities == []
    for epoch in range(6):
        result = batches(data, epoch=epoch)
        assert [len(batch) for batch in result] == [2, 2, 2, 2, 1]
        assert len([data[pair] for batch in result for pair in batch]) == 9


def test_a_city_without_image_folder_is_an_error(root):
    (root / "Images" / "Oslo").rename(root / "Images" / "Christiania")
    with pytest.raises(FileNotFoundError, match="Oslo: no such folder"):
        load(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_place": 0}, "images_per_place 0"),
        ({"images_per_place": 50}, "none of the 14 places .* 50 images"),
        ({"seed": -1}, "seed -1"),
        ({"cities": []}, "cities"),
        ({"cities": ["Rome", "Rome"]}, "each named once"),
    ],
)
def test_bad_arguments(root, options, message):
    with pytest.raises(ValueError, match=message):
        load(root, **options)
    data = load(root)
    with pytest.raises(ValueError, match="places_per_batch 0"):
        CityBatchSampler(data, places_per_batch=0)
    with pytest.raises(IndexError):
        data[0, data.n_places]


GOOD = "0,2014,1,7,Rome,40.5,-3.0,a"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,2014,1,7,Rome,40.5,-3.0", "7 fields under a header of 8"),
        ("0,2014,1,7,Rome,40.5,-3.0,a,b", "9 fields"),
        ("x,2014,1,7,Rome,40.5,-3.0,a", "'x'"),
        ("-1,2014,1,7,Rome,40.5,-3.0,a", "place_id -1"),
        ("99999999999999999999,2014,1,7,Rome,40.5,-3.0,a", "place_id 9999"),
        ("0,2014,,7,Rome,40.5,-3.0,a", "''"),
        ("0,2014,1,7,Rome,north,-3.0,a", "'north'"),
        ("0,2014,1,7,Rome,nan,-3.0,a", "lat 'nan'"),
        ("0,2014,1,7,,40.5,-3.0,a", "city_id ''"),
        ("0,2014,1,7,Rome,40.5,-3.0,", "panoid ''"),
    ],
)
def test_a_malformed_row_is_located(tmp_path, row, message):
    write_table(tmp_path, "Rome", [GOOD, row, GOOD])
    with pytest.raises(ValueError) as error:
        load(tmp_path, ["Rome"])
    text = str(error.value)
    assert str(tmp_path / "Dataframes" / "Rome.csv") + ", line 3: " in text
    assert message in text and "\n" not in text


def test_missing_columns_and_empty_tables(tmp_path):
    write_table(tmp_path, "Rome", [GOOD], HEADER.replace("lat", "latitude"))
    with pytest.raises(ValueError, match=r"Rome\.csv, line 1: no column lat; found place_id, .*; expected columns"):
        load(tmp_path, ["Rome"])
    write_table(tmp_path, "Rome", [])
    with pytest.raises(ValueError, match=r"Rome\.csv: no image listed"):
        load(tmp_path, ["Rome"])
    (tmp_path / "Dataframes" / "Rome.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"Rome\.csv, line 1: "):
        load(tmp_path, ["Rome"])


@pytest.mark.parametrize("n_workers", [0, 1])
def test_absent_and_unreadable_images_are_named(root, n_workers):
    data = load(root, ["Lima"])
    loader = DataLoader(
        data,
        batch_sampler=CityBatchSampler(data, places_per_batch=4),
        collate_fn=collate_places,
        num_workers=n_workers,
    )
    path = root / "Images" / "Lima" / "Lima_0000002_2014_03_007_40.5_-3.0_pano2_2.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=path.name):
        list(loader)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        list(loader)


# --- tables that are not what they should be

@pytest.mark.parametrize("city, panorama", [("../../outside", "p"), ("..", "p"), (".", "p"), ("/tmp", "p"),
                                            ("a/b", "p"), ("Rome", "../../../outside/p"), ("Rome", "a/b")])
def test_no_image_outside_of_the_data_set(tmp_path, city, panorama):
    root = tmp_path / "sets" / "set"
    write_table(root, "Rome", [f"1,2014,{month},7,Rome,40.5,-3.0,p" for month in range(1, 5)])
    (tmp_path / "outside").mkdir()
    with (root / "Dataframes" / "Rome.csv").open("a") as table:
        table.write(f"2,2014,1,7,{city},40.5,-3.0,{panorama}\n")
    with pytest.raises(ValueError) as error:
        load(root, ("Rome",))
    assert str(error.value).startswith(f"{root / 'Dataframes' / 'Rome.csv'}, line 6: city_id '{city}', panoid "
                                       f"'{panorama}': a path; images lie in Images/<city_id> (which may be a link)")


def test_a_city_that_is_a_link_to_another_disk(root):
    (root / "Images" / "Oslo").rename(root.parent / f"{root.name} elsewhere")
    (root / "Images" / "Oslo").symlink_to(root.parent / f"{root.name} elsewhere")
    assert colours(load(root, ("Oslo",))[0, 0][0])[0][0] == 2


def test_rows_that_repeat_an_image_are_counted_and_passed_over(root):
    whole, table = load(root), root / "Dataframes" / "Oslo.csv"
    assert whole.repeated == []
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows, *rows, rows[2].replace("40.50", "40.5")]) + "\n")
    twice = load(root)
    assert twice.repeated == [f"{table}: 14 of 27 rows repeat another one's image, which is used once; the first is "
                              "Oslo/Oslo_0000000_2014_01_007_40.5_-3.0_pano0_0.jpg"]
    assert (twice.n_places, twice.n_images, twice.city_places) == (whole.n_places, whole.n_images, whole.city_places)
    for place in range(whole.n_places):
        assert torch.equal(twice[1, place][0], whole[1, place][0])


def test_a_place_of_one_image_listed_four_times_is_no_place(tmp_path):
    write_city(tmp_path, "Rome", [4, 1])
    table = tmp_path / "Dataframes" / "Rome.csv"
    table.write_text(table.read_text() + 3 * (table.read_text().splitlines()[2] + "\n"))
    dataset = load(tmp_path, ("Rome",))
    assert (dataset.n_places, dataset.dropped_places) == (1, 1) and "3 of 8 rows" in dataset.repeated[0]


# --- hard places: batches of places that look alike

def test_places_lie_where_their_images_were_taken(tmp_path):
    """The mean of a place's images, in metres: a degree of latitude is 111.3 km on this globe, one of longitude at
    60 degrees half of it."""
    rows = [f"{place},2014,{month},7,Rome,{60 + north},{10 + east},pano{place}_{month}"
            for place, images in ((3, [(0, 0), (0, 0.002)]), (1, [(0.001, 0), (0.003, 0)]), (2, [(9, 9)]))
            for month, (north, east) in enumerate(images, 1)]
    write_table(tmp_path, "Rome", rows)
    data = load(tmp_path, cities=["Rome"], images_per_place=2)
    assert data.n_places == 2 and data.positions.shape == (2, 3)  # place 2 is dropped; 1 comes before 3
    degree = np.pi * 6_378_137 / 180
    assert np.linalg.norm(data.positions[0] - data.positions[1]) == pytest.approx(
        np.hypot(0.002, 0.001 * 0.5) * degree, rel=1e-4)
    assert np.linalg.norm(data.positions, axis=1) == pytest.approx(6_378_137, rel=1e-6)


class Streets(Groups):
    """Cities whose places lie along a street, `apart` metres from one to the next, and look like every `kinds`-th."""

    def __init__(self, sizes: dict[str, int], *, kinds: int = 10, apart: float = 30.0):
        super().__init__(sizes)
        self.city_of = np.repeat(np.arange(len(sizes)), list(sizes.values()))
        number = np.concatenate([np.arange(count) for count in sizes.values()])
        self.kind = number % kinds
        self.positions = np.stack([apart * number, 0 * number, 0 * number], axis=1)
        like = [np.flatnonzero(self.kind == kind) for kind in self.kind]  # of all cities, as no mining would have it
        self.look_alikes = np.full((self.n_places, max(map(len, like))), -1)
        for place, others in enumerate(like):
            others = others[np.argsort(abs(others - place), kind="stable")]
            self.look_alikes[place, :len(others)] = others

    def metres(self, places):
        at = self.positions[places]
        return np.linalg.norm(at[:, None] - at, axis=2)[np.triu_indices(len(places), 1)]


def hard_and_papers(data, *, size, epoch=1, processes=1, look_alikes=None):
    sampler = CityBatchSampler(data, places_per_batch=size, processes=processes)
    return sampler.batches(epoch, data.look_alikes if look_alikes is None else look_alikes), sampler.batches(epoch)


def families(data, batch, count):
    """Of the first `count` places of a batch: runs of one city's look-alikes."""
    return [list(places) for _, places in itertools.groupby(
        batch[:count], key=lambda place: (data.city_of[place], data.kind[place]))]


@pytest.mark.parametrize("size", [4, 7, 16])
@pytest.mark.parametrize("processes", [1, 3])
def test_hard_batches_take_nothing_but_other_places_of_the_same_cities(size, processes):
    data = Streets({"Rome": 61, "Goa0": 23, "Goa1": 30, "Goa2": 3, "Oslo": 40})
    for epoch in range(5):
        hard, papers = hard_and_papers(data, size=size, epoch=epoch, processes=processes)
        assert sorted(itertools.chain(*hard)) == list(range(data.n_places))
        assert [sorted(data.city_of[batch]) for batch in hard] == [sorted(data.city_of[batch]) for batch in papers]
        assert [set(batch) for batch in hard] != [set(batch) for batch in papers]


def test_half_of_a_hard_batch_are_families_of_one_city_apart():
    """Look-alikes here lie 300 m from each other, and those of other cities are listed before most of one's own."""
    data = Streets({"Rome": 120, "Oslo": 80})
    alone = others = 0
    for epoch in range(5):
        for batch in hard_and_papers(data, size=16, epoch=epoch)[0][:-4]:  # at the end few are left to choose from
            if len(set(data.city_of[batch])) > 1:
                continue
            found = families(data, batch, 8)
            assert sum(map(len, found)) == 8
            for family in found:
                alone += len(family) == 1
                assert len(family) == 1 or data.metres(family).min() > 100
            others += sum(map(len, found))
    assert others > 100 and alone < 0.1 * others


def test_members_of_a_family_are_the_nearest_look_alikes_that_are_left():
    data = Streets({"Rome": 400}, kinds=40, apart=30.0)  # ten look-alikes each, 1200 m apart
    first = hard_and_papers(data, size=12)[0][0]
    seed, *members = first[:4]
    assert members == [place for place in data.look_alikes[seed].tolist() if place != seed][:3]
    assert data.metres(first).min() > 100  # of the whole batch, where that can be had


def test_places_close_by_are_no_family_though_they_look_alike():
    near = Streets({"Rome": 60}, kinds=1, apart=1.0)
    hard, papers = hard_and_papers(near, size=12)
    assert hard == papers
    wide = Streets({"Rome": 60}, kinds=1, apart=60.0)
    for batch in hard_and_papers(wide, size=12)[0][:3]:
        assert wide.metres(batch).min() == 120  # the next but one
    narrow = Streets({"Rome": 60}, kinds=1, apart=15.0)  # no batch of 12 finds room 100 m apart on these 900 m
    for batch in hard_and_papers(narrow, size=12)[0][:3]:
        assert narrow.metres(batch[:4]).min() == 105 > narrow.metres(batch).min()


def test_without_look_alikes_places_of_a_batch_are_apart():
    data = Streets({"Rome": 60, "Oslo": 33})
    hard, papers = hard_and_papers(data, size=12, look_alikes=np.full((93, 3), -1))
    assert sorted(itertools.chain(*hard)) == list(range(93))
    assert min(data.metres(batch).min() for batch in hard[:2]) > 100 > min(data.metres(batch).min() for batch in papers)


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_hard_batches_are_the_batches_of_one_process(processes):
    data = Streets({"Rome": 61, "Goa0": 23, "Goa1": 30})
    whole, _ = hard_and_papers(data, size=8, epoch=2, processes=processes)
    shares = []
    for process in range(processes):
        sampler = CityBatchSampler(data, places_per_batch=8, process=process, processes=processes)
        sampler.set_epoch(2, done=3, look_alikes=data.look_alikes)
        assert len(sampler) == len(whole) - 3
        shares.append([[place for _, place in share] for share in sampler])
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole[3:]
