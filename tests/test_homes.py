"""Without a home, a place for caches or for temporary files: elsewhere with one warning, or one
line. Each condition is tried in a process of its own."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from threestudio_asd import homes
from threestudio_asd.cli import upstream
from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError

ROOT = Path(__file__).parent.parent
# Nothing can be made there, not even by root.
NOWHERE = "/proc"
pytestmark = pytest.mark.skipif(not Path(NOWHERE).is_dir(), reason="needs Linux")

HOMELESS = {"HOME": "/proc/1"}
CONDITIONS = {
    "a home that nobody can write to": HOMELESS,
    "a file as home": {"HOME": "/etc/passwd"},
    "no home": {"HOME": None},
    "a cache elsewhere that nobody can write to": {"XDG_CACHE_HOME": "/proc/1"},
    "no such temporary folder": {**HOMELESS, "TMPDIR": "/nonexistent", "TEMP": "{tmp}"},
}
UNKNOWN_USER = """
import pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
"""
KERNEL = """
import torch
from threestudio_asd.kernels._warp import warp
from threestudio_asd.kernels.interpolate import interpolate
corners, rast = torch.rand(1, 3, 2), torch.zeros(1, 2, 2, 4)
print(interpolate(corners, rast, torch.arange(3, dtype=torch.int32)[None])[0].shape)
print("CACHE", warp().config.kernel_cache_dir)
"""
PLACE = """
from threestudio_asd import homes
homes.settle_kernels()
print("CACHE", homes.kernels().usual)
"""
COMMAND = "import sys; from threestudio_asd.cli.main import main; sys.exit(main(sys.argv[1:]))"
VARIABLES = ("XDG_CACHE_HOME", "WARP_CACHE_PATH", "HF_HOME", "HF_HUB_CACHE", "MPLCONFIGDIR")


def child(tmp_path, code, *arguments, cwd=None, **variables):
    """Runs ``code`` in an environment without caches; None unsets a variable."""
    tmp, here = tmp_path / "tmp", tmp_path / "here"
    for folder in (tmp, here):
        folder.mkdir(exist_ok=True)
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp), "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    changed = {**dict.fromkeys(VARIABLES), **home, **variables}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, value in changed.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value.format(tmp=tmp)
    if changed["HOME"] is None:
        code = UNKNOWN_USER + code
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=cwd or here, env=environment, capture_output=True, text=True, timeout=300
    )


def private(tmp_path):
    return tmp_path / "tmp" / f"threestudio-asd-{os.getuid()}"


def told(done):
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if " are kept in " in line]


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_kernels_are_to_lie_elsewhere_with_one_warning(tmp_path, condition):
    done = child(tmp_path, PLACE, **condition)
    (warning,) = told(done)
    assert done.returncode == 0
    assert f"kept in {private(tmp_path) / 'warp'}, because" in warning
    assert "set WARP_CACHE_PATH" in warning
    assert f"CACHE {private(tmp_path) / 'warp'}" in done.stdout
    assert list((tmp_path / "here").iterdir()) == []  # no folder named "~" either
    assert private(tmp_path).stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/proc/1", None])
def test_kernels_are_compiled_elsewhere(tmp_path, home):
    done = child(tmp_path, KERNEL, HOME=home)
    assert (done.returncode, len(told(done))) == (0, 1)
    assert f"CACHE {private(tmp_path) / 'warp'}" in done.stdout
    assert list((private(tmp_path) / "warp").glob("*/*/*.o"))
    assert list((tmp_path / "here").iterdir()) == []


def test_the_variable_that_the_warning_names_is_obeyed(tmp_path):
    done = child(tmp_path, PLACE, **HOMELESS, WARP_CACHE_PATH=str(tmp_path / "mine"))
    assert (done.returncode, told(done)) == (0, [])
    assert f"CACHE {tmp_path / 'mine'}" in done.stdout
    assert not private(tmp_path).exists()


def test_a_whole_home_is_used_as_always(tmp_path):
    done = child(tmp_path, PLACE)
    assert (done.returncode, told(done)) == (0, [])
    assert f"CACHE {tmp_path / '.cache/warp'}" in done.stdout


@pytest.mark.slow
def test_where_nothing_can_be_written_text_embeddings_are_kept_elsewhere(tmp_path):
    embeddings = private(tmp_path) / "text_embeddings"
    launch = ("launch", "--config", "tiny/asd-2d", "--train", "trainer.max_steps=1")
    where = (f"exp_root_dir={tmp_path}/out", "use_timestamp=false", "tag=run")
    prompt = "system.prompt_processor.prompt=a red mug"
    done = child(tmp_path, COMMAND, *launch, *where, prompt, cwd=NOWHERE, **HOMELESS)
    (warning,) = told(done)
    assert done.returncode == 0
    assert f"kept in {embeddings}, because /proc/.threestudio_cache" in warning
    assert len(list(embeddings.iterdir())) == 6
    assert (tmp_path / "out/asd-2d-tiny/run/ckpts/last.ckpt").is_file()


@pytest.mark.slow
def test_doctor_shows_the_places(tmp_path):
    done = child(tmp_path, COMMAND, "doctor", "--offline", cwd=NOWHERE, **HOMELESS)
    assert (done.returncode, told(done)) == (0, [])
    found = {line[4:].split("  ")[0]: line for line in done.stdout.splitlines() if line[4:]}
    for name, variable in {"kernels": "WARP_CACHE_PATH", "models": "HF_HOME"}.items():
        assert found[name].startswith("- ")
        assert str(private(tmp_path)) in found[name] and f"set {variable}" in found[name]
    assert found["home"].startswith("- ") and "/proc/1" in found["home"]
    assert found["outputs"].startswith("- ") and "exp_root_dir" in found["outputs"]
    assert found["temporary files"].startswith("ok") and f"{tmp_path}/tmp" in found[name]


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_private_folder_that_may_be_anothers_is_refused(tmp_path, kind):
    place = private(tmp_path)
    place.parent.mkdir()
    if kind == "open":
        place.mkdir()
        place.chmod(0o777)
    elif kind == "link":
        place.symlink_to(tmp_path)
    else:
        place.touch()
    done = child(tmp_path, PLACE, **HOMELESS)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("threestudio_asd.errors.UserError: There is no place for compiled")
    assert "TMPDIR" in last and "set WARP_CACHE_PATH" in last


def test_without_a_temporary_folder_every_command_says_so(monkeypatch, capsys):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert main(["doctor", "--offline"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "set TMPDIR" in line
    with pytest.raises(UserError, match="set TMPDIR"), homes.scratch():
        pass


def test_a_deleted_working_folder_is_told(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); {COMMAND}"
    done = child(tmp_path, code, "doctor", cwd=gone)
    assert (done.returncode, done.stderr) == (
        2,
        "error: The working folder has been deleted: go to another one.\n",
    )


def test_a_tilde_without_a_home_is_told():
    with pytest.raises(UserError, match=r"'~nobody-here/model'.*HOME"):
        homes.expanded("~nobody-here/model")


def test_upstream_gives_threestudios_libraries_a_place(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("THREESTUDIO_ASD_TOLD", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert upstream._environment("0")["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/1")
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    environment = upstream._environment("0")
    assert Path(environment["XDG_CACHE_HOME"]).is_relative_to(tmp_path)
    assert environment["MPLCONFIGDIR"] == "/mine"
    assert "set XDG_CACHE_HOME" in caplog.text


class Hub(BaseHTTPRequestHandler):
    """One model: a file that is read, and one that is not."""

    FILE, UNREAD = "scheduler/scheduler_config.json", "README.md"
    TEXT = b'{"num_train_timesteps": 1000}'

    def do_GET(self):
        if "/tree/" in self.path:
            same = {"type": "file", "size": len(self.TEXT), "oid": "b"}
            files = [same | {"path": name} for name in (self.FILE, self.UNREAD)]
            return self._send(json.dumps(files).encode())
        if self.path.startswith("/api/models/"):
            files = [{"rfilename": name} for name in (self.FILE, self.UNREAD)]
            answer = {"id": "some/one", "sha": "a" * 40, "siblings": files}
            return self._send(json.dumps(answer).encode())
        return self._send(self.TEXT)

    do_HEAD = do_GET

    def _send(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"b"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FIND = """
from threestudio_asd import homes
from threestudio_asd.pretrained.resolve import resolve_model
homes.ensure_home()  # as every command does
print("MODEL", resolve_model("some/one", ("scheduler",)))
"""


def test_a_downloaded_model_is_found_without_the_hub(tmp_path, hub):
    first = child(tmp_path, FIND, HF_ENDPOINT=hub, HF_HUB_OFFLINE=None, no_proxy="*")
    assert (first.returncode, told(first)) == (0, [])
    model = Path(first.stdout.split("MODEL ")[1].strip())
    assert model.is_relative_to(tmp_path / ".cache/huggingface")
    assert [file.name for file in model.rglob("*.*")] == [Path(Hub.FILE).name]
    assert child(tmp_path, FIND, HF_HUB_OFFLINE="1").stdout == first.stdout


@pytest.mark.parametrize(
    ("home", "variable"),
    [(HOMELESS, "HF_HOME"), ({"HOME": None}, "HOME")],
    ids=["not writable", "none"],
)
def test_models_are_downloaded_elsewhere_and_found_again(tmp_path, hub, home, variable):
    first = child(tmp_path, FIND, **home, HF_ENDPOINT=hub, HF_HUB_OFFLINE=None, no_proxy="*")
    (warning,) = told(first)
    assert first.returncode == 0 and f", set {variable}" in warning
    model = Path(first.stdout.split("MODEL ")[1].strip())
    assert model.is_relative_to(private(tmp_path))
    assert (model / Hub.FILE).read_bytes() == Hub.TEXT
    again = child(tmp_path, FIND, **home, HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout
    assert list((tmp_path / "here").iterdir()) == []
