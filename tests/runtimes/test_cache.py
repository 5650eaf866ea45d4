from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icf_deploy.errors import UsageError
from icf_deploy.runtimes import cache as module
from icf_deploy.runtimes.cache import EngineCache, default_cache
from icf_deploy.runtimes.cache_entry import EngineKey
from icf_deploy.runtimes.cache_folder import default_folder, refusal

FIELDS = {
    "runtime": "fake",
    "engine": "fake 1.0",
    "graph": "5e" * 32,
    "recipe": "fp32",
    "option tf32": "False",
    "device": "Abacus 9000",
    "capability": "sm89",
    "driver": "580.95",
    "os": "debian 13",
    "machine": "x86_64",
    "code": "0123456789abcdef",
}
KEY = EngineKey("engine", FIELDS)
CONTENT = bytes(range(256)) * 40

# A process that asks for an engine whose build takes a while, and says when it builds.
REPEATED = 2_000_000  # times: an engine of 20 MB
ASK = f"""
REPEATED = {REPEATED}
import sys, time
from pathlib import Path
from icf_deploy.runtimes.cache import EngineCache
from icf_deploy.runtimes.cache_entry import EngineKey

def build():
    print("building", flush=True)
    time.sleep(float(sys.argv[3]))
    return sys.argv[2].encode() * REPEATED

found = EngineCache(Path(sys.argv[1])).get_or_build(EngineKey("engine", {{"runtime": "slow", "graph": sys.argv[2]}}), build)
assert found == sys.argv[2].encode() * REPEATED
print("done", flush=True)
"""


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def changed(**fields: str) -> EngineKey:
    return EngineKey("engine", {**FIELDS, **{name.replace("_", " "): value for name, value in fields.items()}})


def never() -> bytes:
    raise AssertionError("it was built again")


def ask(folder: Path, name: str, seconds: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASK, str(folder), name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate()[0]
    assert process.returncode == 0
    return output


def entry_of(cache: EngineCache) -> Path:
    (found,) = cache.folder.glob("*.entry")  # type: ignore[union-attr]
    return found


def test_what_was_built_once_is_not_built_again(cache: EngineCache) -> None:
    assert cache.get(KEY) is None
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert cache.get_or_build(KEY, never) == CONTENT
    assert EngineCache(cache.folder).get(KEY) == CONTENT


@pytest.mark.parametrize("name", FIELDS)
def test_a_change_of_any_field_of_the_key_builds_again(cache: EngineCache, name: str) -> None:
    cache.get_or_build(KEY, lambda: CONTENT)
    other = EngineKey("engine", {**FIELDS, name: FIELDS[name] + "x"})
    assert cache.get(other) is None
    assert cache.get_or_build(other, lambda: b"another") == b"another"
    assert cache.get(KEY) == CONTENT


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("runtime", "graph")])
def test_why_an_engine_is_built_again_names_the_field_that_changed_and_both_values(cache: EngineCache, name: str) -> None:
    cache.get_or_build(KEY, lambda: CONTENT)
    other = EngineKey("engine", {**FIELDS, name: "something else"})
    assert cache.explain(other) == f"{name} was {FIELDS[name]}, is something else"
    cache.get_or_build(other, lambda: b"another")
    assert cache.explain(other) == ""
    kept = {entry.header.key.fields[name]: entry.header.why for entry in cache.entries()}
    assert kept["something else"] == f"{name} was {FIELDS[name]}, is something else"


def test_the_reason_compares_with_the_nearest_entry_of_the_same_graph(cache: EngineCache) -> None:
    cache.put(changed(driver="550.54", os="debian 12"), b"old")
    cache.put(changed(driver="570.10"), b"new")
    cache.put(changed(graph="77" * 32), b"of another graph")
    assert cache.explain(KEY) == "driver was 570.10, is 580.95"


def test_the_first_engine_of_a_graph_says_that_it_is_the_first(cache: EngineCache) -> None:
    cache.put(changed(graph="77" * 32), b"of another graph")
    cache.put(changed(runtime="other"), b"of another runtime")
    assert cache.explain(KEY) == "nothing for this graph is in the cache yet"


def truncated(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    return content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:]


def longer(content: bytes) -> bytes:
    return content + b"x"


def headless(content: bytes) -> bytes:
    return content.replace(b'"bytes"', b'"bites"')


def without_magic(content: bytes) -> bytes:
    return content[1:]


def half_a_header(content: bytes) -> bytes:
    return content[:40]


def empty(_: bytes) -> bytes:
    return b""


def nested(content: bytes) -> bytes:
    return content.split(b"\n")[0] + b"\n" + b"[" * 60_000


@pytest.mark.parametrize("damage", [truncated, flipped, longer, headless, without_magic, half_a_header, empty, nested])
def test_a_damaged_entry_is_never_used_and_built_again(cache: EngineCache, damage: Callable[[bytes], bytes]) -> None:
    cache.get_or_build(KEY, lambda: CONTENT)
    path = entry_of(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(KEY) is None
    assert cache.explain(KEY).startswith("the entry is damaged")
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert cache.get_or_build(KEY, never) == CONTENT


def test_an_entry_that_was_put_in_the_place_of_another_is_not_taken_for_it(cache: EngineCache) -> None:
    other = changed(driver="1.0")
    cache.put(other, b"foreign")
    (cache.folder / other.file_name).rename(cache.folder / KEY.file_name)  # type: ignore[operator]
    assert cache.get(KEY) is None


def test_two_processes_that_ask_at_once_build_once(cache: EngineCache, tmp_path: Path) -> None:
    processes = [ask(tmp_path / "engines", "abc", 0.5) for _ in range(4)]
    assert "".join(finish(process) for process in processes).count("building") == 1


def test_threads_that_ask_at_once_build_once(cache: EngineCache) -> None:
    built: list[int] = []

    def build() -> bytes:
        built.append(1)
        time.sleep(0.05)
        return CONTENT

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: cache.get_or_build(KEY, build), range(64)))
    assert len(built) == 1
    assert set(results) == {CONTENT}


def test_builds_of_different_engines_do_not_wait_for_each_other(cache: EngineCache) -> None:
    started, may_end = threading.Event(), threading.Event()
    first, second = KEY, next(key for number in range(100) if (key := changed(driver=str(number))).digest[:2] != KEY.digest[:2])

    def slow() -> bytes:
        started.set()
        assert may_end.wait(30)
        return CONTENT

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get_or_build, first, slow)
        assert started.wait(30)
        assert cache.get_or_build(second, lambda: b"quick") == b"quick"
        may_end.set()
        assert waiting.result() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
@pytest.mark.parametrize("moment", ["building", "writing"])
def test_killing_a_build_twenty_times_leaves_nothing_that_is_used_and_no_lock(tmp_path: Path, moment: str) -> None:
    cache, chance = EngineCache(tmp_path / "engines"), random.Random(6)
    killed = unfinished = 0
    for number in range(20):
        name = f"{moment}{number}"
        process = ask(tmp_path / "engines", name, 0.05 if moment == "building" else 0.0)
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        if moment == "building":
            time.sleep(chance.uniform(0, 0.06))
        else:
            while process.poll() is None and not list(tmp_path.glob("engines/*.unfinished")):
                pass
        process.kill()
        process.communicate()
        killed += process.returncode != 0
        unfinished += bool(list(tmp_path.glob("engines/*.unfinished")))
        key, right = EngineKey("engine", {"runtime": "slow", "graph": name}), name.encode() * REPEATED
        assert cache.get(key) in (None, right)
        assert cache.get_or_build(key, lambda right=right: right) == right  # type: ignore[misc]
        assert cache.get_or_build(key, never) == right
        assert cache.clear()[0] == 1
        for path in tmp_path.glob("engines/*.unfinished"):
            path.unlink()
    assert killed >= 10
    assert unfinished >= 1 or moment == "building"


def test_what_a_dead_process_left_is_removed_after_a_day_and_not_before(cache: EngineCache) -> None:
    cache.put(KEY, CONTENT)
    assert cache.folder is not None
    old, young = cache.folder / "engine-a.unfinished", cache.folder / "engine-b.unfinished"
    for path in (old, young):
        path.write_bytes(b"half an engine")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    cache.put(changed(driver="1.0"), CONTENT)
    assert not old.exists()
    assert young.exists()


def test_the_least_recently_used_entries_go_when_the_limit_is_reached(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", limit=35_000)
    keys = [changed(driver=str(number)) for number in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.put(key, CONTENT)
        os.utime(tmp_path / "engines" / key.file_name, (1000 + age,) * 2)
    assert cache.get(keys[0]) == CONTENT  # used now: the oldest one is keys[1]
    cache.put(keys[3], CONTENT)
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]


def test_an_engine_larger_than_the_limit_is_used_and_everything_else_goes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", limit=100)
    cache.put(changed(driver="1.0"), CONTENT)
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert [entry.header.key for entry in cache.entries()] == [KEY]


def test_what_a_build_raises_reaches_the_caller_and_the_next_one_may_build(cache: EngineCache) -> None:
    def fail() -> bytes:
        raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        cache.get_or_build(KEY, fail)
    assert cache.entries() == []
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT


def test_entries_say_what_they_are_when_they_were_built_and_how_long_it_took(cache: EngineCache) -> None:
    cache.put(changed(driver="1.0"), b"1")
    before = time.time()
    cache.get_or_build(KEY, lambda: CONTENT)
    newest = max(cache.entries(), key=lambda entry: entry.header.created)
    assert newest.header.key == KEY
    assert newest.header.length == len(CONTENT)
    assert newest.size > len(CONTENT)
    assert before - 1 <= newest.header.created <= time.time() + 1
    assert newest.header.seconds >= 0


def test_clearing_removes_every_entry_of_the_kinds_that_are_named(cache: EngineCache) -> None:
    cache.put(KEY, CONTENT)
    cache.put(EngineKey("timing", FIELDS), CONTENT)
    (cache.folder / "engine-damaged.entry").write_bytes(b"")  # type: ignore[operator]
    count, size = cache.clear(frozenset({"engine"}))
    assert count == 2
    assert size > len(CONTENT)
    assert [entry.header.key.kind for entry in cache.entries()] == ["timing"]
    assert cache.clear()[0] == 1
    assert cache.entries() == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nobody refuses root a folder")
def test_a_folder_that_cannot_be_written_costs_a_build_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "read only").mkdir(mode=0o500)
    cache = EngineCache(tmp_path / "read only" / "engines")
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert "cannot be used" in caplog.text


def test_a_folder_that_cannot_be_made_costs_a_build_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = EngineCache(tmp_path / "file" / "engines")
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert "engines are not kept" in caplog.text
    with pytest.raises(UsageError, match="cannot be used"):
        cache.entries()


def test_a_full_disk_costs_a_warning_and_leaves_nothing_behind(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def encode(self) -> bytes:
            raise OSError(28, "No space left on device")

    cache.put(changed(driver="1.0"), CONTENT)
    monkeypatch.setattr(module, "header_for", lambda *_, **__: Full())
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert "No space left on device" in caplog.text
    assert len(list(cache.folder.glob("*.*"))) == 2  # type: ignore[union-attr]  # the other entry, and the lock


@pytest.mark.skipif(sys.platform == "win32", reason="permission bits mean nothing there")
def test_a_folder_in_which_others_may_write_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path / "engines")
    cache.put(KEY, CONTENT)
    assert (tmp_path / "engines").stat().st_mode & 0o777 == 0o700
    (tmp_path / "engines").chmod(0o777)
    assert cache.get(KEY) is None
    assert cache.get_or_build(KEY, lambda: b"built") == b"built"
    assert "chmod go-w" in caplog.text
    assert "chmod go-w" in refusal(tmp_path / "engines")


def test_a_cache_that_is_off_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", "off")
    cache = default_cache()
    assert cache.get_or_build(KEY, lambda: CONTENT) == CONTENT
    assert cache.get_or_build(KEY, lambda: b"again") == b"again"
    assert cache.explain(KEY) == "nothing is kept"
    with pytest.raises(UsageError, match="ICF_DEPLOY_CACHE=off"):
        cache.clear()


def test_the_environment_names_folder_and_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ICF_DEPLOY_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ICF_DEPLOY_CACHE_LIMIT", "2")
    assert (default_cache().folder, default_cache().limit) == (tmp_path / "elsewhere", 2 * 2**20)
    monkeypatch.setenv("ICF_DEPLOY_CACHE_LIMIT", "2 GiB")
    with pytest.raises(UsageError, match="2 GiB"):
        default_cache()


@pytest.mark.skipif(sys.platform != "linux", reason="the place is another one there")
def test_by_default_the_cache_is_where_the_desktop_standard_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ICF_DEPLOY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == tmp_path / ".cache" / "icf-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    assert default_folder() == tmp_path / "kept" / "icf-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: to be ignored
    assert default_folder() == tmp_path / ".cache" / "icf-deploy"
