"""The profile's functions from the module that THREADLEDGER_TOOLS names: bound by their names, or one clear sentence."""

import asyncio
import sys
from pathlib import Path

import pytest

from threadledger.adapters import load_settings
from threadledger.adapters.tool_loading import load_tools
from threadledger.domain.conversation import Profile, parse_profile
from threadledger.domain.errors import InvalidSettings

ROOT = Path(__file__).resolve().parents[2]
PROFILE = parse_profile({"tools": [{"name": "look"}, {"name": "open_page"}, {"type": "web_search"}]}, "a profile")
BOTH = "def look(query):\n    return query\n\nasync def open_page(url):\n    return url.upper()\n"
in_the_tree = pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="the tests run against the wheel")


@pytest.fixture(autouse=True)
def _import_nothing_for_good(monkeypatch):
    """What a test imports is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["my_tools", "my_tools.py", "./my_tools.py"])
def test_the_profiles_functions_are_taken_from_a_module_or_a_file_by_their_names(name):
    Path("my_tools.py").write_text(BOTH + "def delete_everything():\n    pass\n")
    tools = load_tools(name, PROFILE)
    assert sorted(tools) == ["look", "open_page"]
    assert tools["look"](query="x") == "x"


def test_an_async_function_is_a_function_too():
    Path("my_tools.py").write_text(BOTH)
    assert asyncio.run(load_tools("my_tools.py", PROFILE)["open_page"](url="x")) == "X"


def test_a_module_of_a_package_is_found_and_a_file_may_import_its_neighbours():
    Path("inner").mkdir()
    Path("inner/__init__.py").write_text("")
    Path("inner/neighbour.py").write_text("def look():\n    return 'found'\n")
    Path("inner/mine.py").write_text("from neighbour import look\nopen_page = look\n")
    Path("inner/whole.py").write_text("from inner.neighbour import look\nopen_page = look\n")
    assert load_tools("inner/mine.py", PROFILE)["open_page"]() == "found"
    assert load_tools("inner.whole", PROFILE)["open_page"]() == "found"


def test_a_file_with_the_name_of_a_library_does_not_stand_in_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "symtable", raising=False)
    Path("symtable.py").write_text(BOTH)
    assert load_tools("symtable.py", PROFILE)["look"](query="x") == "x"
    import symtable

    assert Path(symtable.__file__).parent != Path.cwd()


def test_what_the_app_has_bound_already_is_not_asked_of_the_module():
    Path("my_tools.py").write_text("def look():\n    pass\n")
    assert sorted(load_tools("my_tools", PROFILE, bound={"open_page"})) == ["look"]


def test_a_profile_without_functions_has_nothing_bound():
    Path("my_tools.py").write_text(BOTH)
    assert load_tools("my_tools", Profile()) == {}


REFUSED = {
    "no such module": ("nowhere_at_all", None, "there is no module 'nowhere_at_all'"),
    "no such package": ("nowhere_at_all.tools", None, "there is no module 'nowhere_at_all.tools'"),
    "no such file": ("nowhere.py", None, "there is no file nowhere.py"),
    "a folder": ("folder.py", "", "there is no file folder.py"),
    "a function that is not there": ("mine.py", "def look():\n    pass\n", "mine.py has no function 'open_page', which"),
    "not a function": ("mine.py", "look = 1\n", "something other than a function named 'look'"),
    "not Python": ("mine.py", "def look(:\n", r"mine.py cannot be imported \(SyntaxError"),
    "not text": ("mine.py", b"\xff\xfe\x00", r"mine.py cannot be imported \("),
    "a module that raises": ("mine", "raise ValueError('one\\ntwo')\n", r"mine cannot be imported \(ValueError: one two\)"),
    "a file that ends the program": ("mine.py", "raise SystemExit(3)\n", r"mine.py cannot be imported \(SystemExit: 3\)"),
    "a library that is missing": ("mine", "import nowhere_at_all\n", r"mine cannot be imported \(ModuleNotFoundError"),
    "a secret in what it raises": (
        "mine.py", "raise ValueError('sk-proj-0123456789abcdef')\n", r"\(ValueError: \[redacted\]\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said"), REFUSED.values(), ids=REFUSED)
def test_tools_that_cannot_be_bound_are_refused_in_one_sentence(name, text, said):
    if text == "":
        Path(name).mkdir()
    elif text is not None:
        path = Path(name if name.endswith(".py") else f"{name}.py")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidSettings, match=said) as refused:
        load_tools(name, PROFILE)
    assert str(refused.value).startswith("THREADLEDGER_TOOLS: ")
    assert "\n" not in str(refused.value)


@in_the_tree
def test_the_example_has_the_functions_of_the_example_profile():
    profile = load_settings(profile=ROOT / "profiles" / "john.toml").load_profile()
    tools = load_tools(str(ROOT / "examples" / "web_tools.py"), profile)
    found = tools["web_search"](query="What does a parcel to Norway cost?").splitlines()
    assert found[0] == "Prices: https://parcels.example/prices"
    assert "14.50 to Norway" in tools["web_open"](url="https://parcels.example/prices")
    assert tools["web_search"](query="zebra") == "Nothing was found for 'zebra'."
    with pytest.raises(LookupError, match="there is no page"):
        tools["web_open"](url="https://elsewhere.example")
