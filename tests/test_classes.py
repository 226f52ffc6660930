"""A data set's classes and a model's are compared by name; labels that are none are refused or left out in words."""

import inspect
import json

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import zoo
from zoo import cli, hub, registry
from zoo.data.classes import check_labels, compare, find, match, read_map
from zoo.data.readers import read
from zoo.hub import make
from zoo.hub.places import open_source
from zoo.nn.protocols import Classifies, Samples, can
from zoo.report import figures as report
from zoo.report.inputs import opened
from zoo.report.probing import separation

DIGITS = [str(i) for i in range(10)]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MAP = ",".join(f"{word}={i}" for i, word in enumerate(WORDS))
IMAGENET = registry.class_list("imagenet1k")


@pytest.mark.parametrize(
    ("known", "given", "order", "said"),
    [
        (["cat", "dog"], ["dog", "cat"], (1, 0), "2 of 2 classes matched by name"),
        (["Cat", "golden_retriever"], ["golden retriever"], (1,), "1 of 1 classes matched by name; the data lacks 1"),
        (DIGITS, ["0 - zero", "7 - seven"], (0, 7), "matched by name; the data lacks 8 of the model's 10"),
        (DIGITS, ["07", "3"], (7, 3), "by name"),
        (["T-shirt/top", "Shirt"], ["T - shirt / top"], (0,), "by name"),
        (IMAGENET.names, IMAGENET.wnids, tuple(range(1000)), "1000 of 1000 classes matched by wnid"),
        (IMAGENET.names, ["n03126707", "n02012849"], (517, 134), "by wnid; the data lacks 998"),
        (IMAGENET.names, ["Tinca tinca", "golden_retriever"], (0, 207), "by name"),
        (IMAGENET.names, ["cardigan", "Cardigan"], (474, 264), "by name"),  # the garment and the dog
        (IMAGENET.wnids, ["tench, Tinca tinca"], (0,), "by name"),
        (["goldfish", "tench"], ["n01440764"], (1,), "by wnid"),  # a model of some of ImageNet's classes
    ],
)
def test_classes_are_found_by_name_synonym_or_wnid(known, given, order, said):
    found = match(known, given)
    assert found.order == order
    assert said in found.said


@pytest.mark.parametrize(
    ("known", "given", "targets", "message"),
    [
        (DIGITS, WORDS, None, r"10 of the data's 10 classes, zero, one, .*\(10\), are none of the model's, 0, 1, .*"),
        (DIGITS, ["0", "cat"], None, r"1 of the data's 2 classes, cat, .*--class-map cat=CLASS,… or a JSON file"),
        (IMAGENET.names, ["crawfish"], None, "1 of the data's 1 classes, crawfish, are none"),  # two classes have it
        (["cat", "dog"], ["3", "5"], None, "take them in their order with --by-number"),
        (["cat, pussy"], ["cat", "pussy"], None, "'cat' and 'pussy' of the data are both 'cat, pussy' of the model"),
        (DIGITS, ["zero"], {"zero": "null"}, "takes 'zero' for 'null'; the model has 0, 1, .*or 0 to 9"),
        (DIGITS, ["zero"], {"zero": 10}, "takes 'zero' for 10"),
        (DIGITS, ["zero"], {"nil": 0}, "says what 'nil' is, which the data has not: it has zero"),
    ],
)
def test_what_cannot_be_found_is_refused_with_both_lists(known, given, targets, message):
    with pytest.raises(ValueError, match=message):
        match(known, given, targets)


def test_a_class_map_is_a_mapping_a_file_or_a_line(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(dict(zip(WORDS, range(10)))))
    for given in (MAP, tmp_path / "map.json", dict(zip(WORDS, DIGITS))):
        found = match(DIGITS, WORDS[::-1], read_map(given))
        assert found.order == tuple(range(10))[::-1]
        assert found.said == "10 of 10 classes matched by the class map"
    merged = match(["cat", "dog"], ["kitten", "tom", "dog"], {"kitten": "cat", "tom": 0})
    assert (merged.order, merged.said) == ((0, 0, 1), "3 of 3 classes matched by name, 2 of them by the class map")
    for wrong, error in (("map.yaml", FileNotFoundError), (tmp_path / "list.json", ValueError)):
        (tmp_path / "list.json").write_text("[1]")
        with pytest.raises(error, match="class map"):
            read_map(wrong)


def test_labels_become_the_models_and_no_label_stays_none():
    found = match(["a", "b", "c"], ["c", "a"])
    assert found.labels(torch.tensor([0, 1, -1])).tolist() == [2, 0, -1]


def test_labels_out_of_range_are_refused_with_their_place():
    check_labels(torch.tensor([0, 1]), 2, "x")
    check_labels(torch.tensor([0, -1]), 2, "x", needed=False)
    for labels, needed, message in (
        ([0, -1], True, r"sample 1 of x has the label -1, allowed 0 to 1"),
        ([0, 2], False, r"sample 1 of x has the label 2, allowed 0 to 1"),
        ([-1, -1], True, "the samples of x have no labels"),
    ):
        with pytest.raises(ValueError, match=message):
            check_labels(torch.tensor(labels), 2, "x", needed)


def digits(folder, names, skip=()):
    """Some of the shipped test digits in folders of other names."""
    items = read("samples/mnist")["test"]
    for i in range(0, 1000, 5):
        label = int(items.labels[i])
        if label in skip:
            continue
        for split in ("train", "test"):
            place = folder / split / names[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.png").write_bytes(items.images[i])
    return str(folder)


def test_an_evaluation_compares_names_and_says_how(tmp_path, capsys):
    name = "bilinear_d256.mnist"
    plain = report.evaluate(name, digits(tmp_path / "digits", DIGITS))
    assert plain["classes"] == "10 of 10 classes matched by name"
    assert plain["accuracy"] > 0.9
    named = digits(tmp_path / "named", WORDS)
    assert cli.main(["eval", name, named]) == 2
    said = capsys.readouterr().err
    assert "are none of the model's, 0, 1, 2" in said
    assert "--class-map eight=CLASS,five=CLASS,…" in said
    assert said.count("\n") == 1
    mapped = report.evaluate(name, named, class_map=MAP)
    assert mapped["accuracy"] == plain["accuracy"]
    assert cli.main(["eval", name, named, "--by-number"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] < 0.3  # what numbers would have made of it
    few = report.evaluate(name, digits(tmp_path / "few", DIGITS, skip=(0, 4)))
    assert few["classes"] == "8 of 8 classes matched by name; the data lacks 2 of the model's 10"
    assert few["accuracy"] > 0.9


def test_a_model_without_names_is_evaluated_by_number_alone(tmp_path):
    model = zoo.load("bilinear_d256.mnist")
    del model.zoo_config["classes"]
    folder = str(hub.save(model, tmp_path / "nameless"))
    with pytest.raises(ValueError, match=r"has no names of its 10 classes.*--class-map NAME=NUMBER.*--by-number"):
        report.evaluate(folder, "samples/mnist")
    found = report.evaluate(folder, "samples/mnist", by_number=True)
    assert (found["accuracy"], found["classes"]) == (pytest.approx(0.973), "10 classes by number, no names compared")
    with pytest.raises(ValueError, match="exclude one another"):
        compare(model, DIGITS, MAP, by_number=True)
    model.zoo_config["classes"] = ["a", "b"]
    with pytest.raises(ValueError, match="has 10 classes and the names of 2"):
        compare(model, DIGITS)


def test_classes_that_are_called_by_numbers_are_these_numbers(tmp_path):
    """Digits 3 and 5 alone, as folders, as a list that has them as text, and as a column of numbers."""
    name, items = "bilinear_d256.mnist", read("samples/mnist")["test"]
    pictures, labels = [], []
    for i in range(0, 1000, 5):
        if (label := int(items.labels[i])) in (3, 5):
            pictures.append(tmp_path / "folder" / str(label) / f"{i}.png")
            pictures[-1].parent.mkdir(parents=True, exist_ok=True)
            pictures[-1].write_bytes(items.images[i])
            labels.append(label)
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{p},{y}\n" for p, y in zip(pictures, labels)))
    parquet.write_table(pa.table({"path": [str(p) for p in pictures], "label": labels}), tmp_path / "numbers.parquet")
    for source in ("folder", "list.csv", "numbers.parquet"):
        found = report.evaluate(name, str(tmp_path / source), by_number=True)
        assert (found["accuracy"] > 0.9, set(found["per_class"])) == (True, {"3", "5"}), source
    with pytest.raises(ValueError, match=r"the data has the classes 10, 12; \S+ has 0 to 9"):
        compare(zoo.load(name), ["9", "10", "12"], by_number=True)


def test_a_model_without_classes_takes_no_map():
    with pytest.raises(ValueError, match="knows no classes"):
        report.evaluate("vqvae_conv_small.mnist", by_number=True)


def test_what_draws_by_class_is_not_measured_on_other_classes():
    with pytest.raises(ValueError, match="samples/sprites has other classes than this model"):
        report.evaluate("ditdh_tiny.tiny_imagenet")


def outputs(record):
    """How many classes the network of a record tells apart or draws by."""
    kind = make.model_class(record.arch)
    default = inspect.signature(kind).parameters["num_classes"].default
    return record.args.get("num_classes", default)


def test_every_classifier_names_its_classes():
    unnamed = []
    for name, record in registry.records().items():
        kind = make.model_class(record.arch)
        if not can(kind, Classifies) and not (can(kind, Samples) and record.args.get("num_classes", 1)):
            assert not record.class_list, name
        elif not record.classes:
            unnamed.append((name, outputs(record)))
        else:
            assert len(record.classes) == outputs(record), name
            assert len(set(record.classes)) == len(record.classes), name
    assert all(count == 0 for _, count in unnamed), unnamed  # features without a head have no classes


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        (
            "imagenet1k",
            1000,
            {0: "tench, Tinca tinca", 207: "golden retriever", 999: "toilet tissue, toilet paper, bathroom tissue"},
        ),
        ("kinetics400", 400, {0: "abseiling", 325: "somersaulting", 399: "zumba"}),
        ("kinetics710", 710, {0: "riding a bike", 341: "abseiling"}),
        (
            "ssv2",
            174,
            {127: "Showing something on top of something", 140: "Spinning something that quickly stops spinning"},
        ),
    ],
)
def test_lists_of_classes_are_in_the_order_of_the_labels(name, count, some):
    listed = registry.class_list(name)
    assert len(set(listed.names)) == len(listed.names) == count
    assert {i: listed.names[i] for i in some} == some
    assert listed.about
    if name in ("kinetics400", "ssv2"):
        assert list(listed.names) == sorted(listed.names)
    if name == "imagenet1k":
        assert list(listed.wnids) == sorted(set(listed.wnids))
    with pytest.raises(ValueError, match="no list of classes 'imagenet', did you mean imagenet1k"):
        registry.class_list("imagenet")


def test_a_record_of_a_list_gives_its_names_to_the_model():
    assert open_source("mae_vit_base_classifier.in1k").config["classes"] == list(IMAGENET.names)  # fetches no tensors
    record = registry.weights_info("ditdh_xl.imagenet256")
    assert find("golden_retriever", record.classes) == find("n02099601", record.classes) == 207
    assert report._label("golden retriever", list(record.classes), 1000) == 207
    assert find("crane", ["crane, bird", "crane, machine"]) is None


def test_no_sample_is_its_own_neighbour():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(400, 32, generator=draw)
    labels = torch.randint(0, 4, (400,), generator=draw)  # nothing to be learned
    found = separation(None, features, labels)
    assert found["bank"] == 200
    assert max(found["knn"], found["linear"]) < 0.4
    same = separation((features, labels), features, labels)
    assert same["knn"] > 0.9  # what a bank that holds its queries would claim


def test_figures_that_need_labels_are_left_out_in_words():
    features, none = torch.randn(40, 8), torch.full((40,), -1)
    some = torch.arange(40) % 4
    for bank, asked, which in ((some, none, "test"), (none, some, "training")):
        found = separation((features, bank), features, asked)
        assert found["knn"] is found["linear"] is None
        assert found["notes"] == dict.fromkeys(("knn", "linear"), f"left out: the {which} samples have no labels")


def test_pictures_without_a_training_set_are_a_bank_for_one_another(tmp_path, capsys):
    for kind, grey in (("dark", 0), ("light", 255)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (32, 32), (grey, grey, 8 * k)).save(tmp_path / "photos" / kind / f"{k}.png")
    model = str(hub.save(zoo.create("mae_vit_tiny", image_size=32, patch_size=8), tmp_path / "model"))
    (tmp_path / "mine").mkdir()
    for folder, split in (("photos", "all"), ("mine", "test")):
        assert cli.main(["eval", model, str(tmp_path / folder)]) == 0
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (figures["bank"], figures["images"], figures["split"]) == (4, 8, split)
        assert "4 of the samples were asked about, the other 4 are the bank" in figures["notes"]["knn"]
        if folder == "photos":
            (tmp_path / "photos").rename(tmp_path / "mine" / "test")


@pytest.mark.parametrize("size", ["0", "-3"])
def test_a_batch_of_nothing_is_refused(capsys, size):
    assert cli.main(["eval", "bilinear_d256.mnist", "--batch-size", size]) == 2
    assert f"--batch-size: {size}, expected a whole number of at least 1" in capsys.readouterr().err


def test_a_source_is_read_once_and_knows_its_classes():
    data = opened(zoo.load("bilinear_d256.mnist"), "samples/mnist")
    assert data.classes == DIGITS
    videos = opened(zoo.load("videomae_vit_tiny.sprites"), "sprites")
    assert (videos.served["train"], "train" in videos.splits) == ("train", False)  # composed once it is needed
