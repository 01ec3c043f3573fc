"""What data.train may say."""

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.locations import DATA_SUFFIXES, DOCUMENT_SUFFIXES, check_data_source
from sft_app.data.read.read_files import read_file
from sft_app.data.read.read_hub import read_hub
from sft_app.data.read.record import Record
from sft_app.data.read.sources import Source, resolve_sources


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.json.gz", "sub/c.parquet", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def resolve(value):
    return resolve_sources(value, "data.train")


def names(source, folder):
    return [str(file.relative_to(folder)) for file in source.files]


def test_a_file(folder):
    path = folder / "b.jsonl"
    assert resolve(str(path)) == [Source(str(path), (path,))]


def test_a_folder_gives_every_readable_file_below_it_in_order(folder):
    assert names(resolve(str(folder))[0], folder) == ["a.json.gz", "b.jsonl", "sub/c.parquet"]


def test_a_folder_of_documents_is_what_its_glob_is(folder):
    (folder / "code.py").touch()
    (folder / "scan.png").touch()

    def documents(value):
        return resolve_sources(value, "evaluation.documents", suffixes=DOCUMENT_SUFFIXES)[0].files

    for name in ("notes.md", "code.py"):
        assert folder / name in documents(str(folder))
        assert folder / name in documents(f"{folder}/*")
    assert folder / "scan.png" not in documents(str(folder))


def test_a_glob(folder):
    assert names(resolve(f"{folder}/*.json*")[0], folder) == ["a.json.gz", "b.jsonl"]


def test_a_list_with_weights(folder):
    one, other = resolve([str(folder / "b.jsonl"), {"path": str(folder / "sub"), "weight": 2}])
    assert (one.weight, other.weight) == (1.0, 2.0)


def test_linked_folders_are_read_and_each_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "d.jsonl").touch()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "sub" / "again").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(folder)
    found = names(resolve(str(folder))[0], folder)
    assert found == ["a.json.gz", "b.jsonl", "linked/d.jsonl", "sub/c.parquet"]


@pytest.mark.parametrize("pattern", ["", "/*", "/*.jsonl"])
def test_a_link_to_data_that_are_gone_is_refused(folder, pattern):
    (folder / "gone.jsonl").symlink_to(folder / "nowhere" / "gone.jsonl")
    with pytest.raises(ConfigError, match=r"has gone.jsonl, a link to .*nowhere.* not there"):
        resolve(f"{folder}{pattern}")
    (folder / "gone.jsonl").rename(folder / ".gone.jsonl")
    assert folder / "b.jsonl" in resolve(f"{folder}{pattern}")[0].files


def test_folders_that_a_glob_matches_are_counted(folder):
    (source,) = resolve(f"{folder}/*")
    assert names(source, folder) == ["a.json.gz", "b.jsonl"]
    assert source.ignored == {"folder": 1, "other_kind": 1}
    assert "folder" not in resolve(f"{folder}/**")[0].ignored


def test_a_file_in_an_installed_package():
    (source,) = resolve("pkg://pytest/py.typed")
    assert source.files[0].name == "py.typed"


def test_a_hub_dataset_has_no_files_here():
    assert resolve("org/name:test") == [Source("org/name:test", ())]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/no/such/chats.json", "data.train=/no/such/chats.json does not exist"),
        ("folder/chats.json", "does not exist"),
        ("pkg://no_such_package/x.json", "'no_such_package' is not installed"),
        ([], "data.train is an empty list"),
        ([{"paths": "x"}], "expected a path or"),
        ([{"path": "x", "weight": -1}], "has weight -1"),
        (3, "data.train=3 is not a path"),
    ],
)
def test_what_cannot_be_found_is_a_sentence(value, message):
    with pytest.raises(ConfigError, match=message):
        resolve(value)


def test_a_folder_without_data(tmp_path):
    with pytest.raises(ConfigError, match="has no readable file"):
        resolve(str(tmp_path))


def test_hub_rows_come_through_the_datasets_library(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    records = list(read_hub("org/name:test"))
    assert [r.value for r in records if isinstance(r, Record)] == [{"text": "a"}, {"text": "b"}]
    assert asked == [("org/name", None, "test")]


def test_hub_rows_have_no_key_that_they_did_not_have(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [
        {"messages": [{"role": "user", "content": "Q", "call": {"city": "Oslo"}}]},
        {"messages": [{"role": "user", "content": "Q", "call": {"ticker": "X"}}]},
    ]
    dataset = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: dataset)
    found = [r.value for r in read_hub("org/name") if isinstance(r, Record)]
    assert found == rows and dataset[0]["messages"][0]["call"] == {"city": "Oslo", "ticker": None}


def test_a_hub_dataset_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'sft-app\[hub\]'"):
        list(read_hub("org/name"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".hidden.jsonl", "hidden"),
        ("._chat.jsonl", "hidden"),
        (".ipynb_checkpoints/chat-checkpoint.jsonl", "hidden"),
        (".git/objects/x.txt", "hidden"),
        ("LICENSE.txt", "licence_or_readme"),
        ("sub/README.txt", "licence_or_readme"),
        ("dataset_infos.json", "metadata"),
        ("notes.md", "other_kind"),
    ],
)
def test_files_that_are_no_data_are_left_out_and_counted(folder, name, kind):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    (source,) = resolve(str(folder))
    assert names(source, folder) == ["a.json.gz", "b.jsonl", "sub/c.parquet"]
    assert source.ignored.pop("other_kind") == 1
    assert source.ignored == ({} if kind == "other_kind" else {kind: 1})
    if not name.startswith("."):
        assert resolve(str(folder / name))[0].files == (folder / name,)


def test_a_data_folder_in_a_hidden_place_is_data(tmp_path):
    hidden = tmp_path / ".cache" / "chats"
    hidden.mkdir(parents=True)
    (hidden / "a.jsonl").touch()
    assert names(resolve(str(hidden))[0], hidden) == ["a.jsonl"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_that_save_to_disk_wrote(tmp_path, split):
    datasets = pytest.importorskip("datasets")
    rows = {name: [{"text": f"{name} {n}"} for n in range(3)] for name in ("train", "test")}
    parts = {name: datasets.Dataset.from_list(rows[name]) for name in rows}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    parts[split].save_to_disk(tmp_path / "one")
    named = [tmp_path / "one", f"{tmp_path}/saved:{split}"]
    for reference in map(str, [*named, tmp_path / "saved"] if split == "train" else named):
        check_data_source("data.train", reference, DATA_SUFFIXES)
        (source,) = resolve(reference)
        records = [record for file in source.files for record in read_file(file)]
        assert [r.value for r in records if isinstance(r, Record)] == rows[split]
    with pytest.raises(ConfigError, match=r"no split dev: name one of its own, .*saved:train"):
        resolve(f"{tmp_path}/saved:dev")
