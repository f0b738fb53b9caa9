"""Build zmsd_VERSION_ARCHITECTURE.deb: ``python packaging/deb.py``, on the Debian release for which the package is.

The package has an environment of its own in /opt/zmsd, because Debian's pymongo is older than zmsd needs. It uses
Debian's python3, of the same minor version as the interpreter that runs this script.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "packaging/debian"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

ENTRY = """\
#!/opt/zmsd/bin/python3
from zmsd.cli import main

main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where to write the package (%(default)s)")
    parser.add_argument("--suffix", default="", help="appended to the version, for tests of an upgrade")
    options = parser.parse_args()
    version = re.search(r'__version__ = "(.+)"', (ROOT / "zmsd/__init__.py").read_text())
    assert version
    print(build(options.out, version[1] + options.suffix))


def build(out: Path, version: str) -> Path:
    """Return the package, made in ``out``."""
    work = ROOT / "build/deb"
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "tree"
    architecture = run("dpkg", "--print-architecture").strip()
    environment(work, tree / "opt/zmsd", version)
    files(tree)
    pages(tree)
    document(tree / "usr/share/doc/zmsd", version)
    control(tree, version, architecture)
    out.mkdir(parents=True, exist_ok=True)
    package = out / f"zmsd_{version}_{architecture}.deb"
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(package))
    return package


def environment(work: Path, prefix: Path, version: str) -> None:
    """Make /opt/zmsd: what ``python3 -m venv`` makes, with zmsd and what it needs, without pip."""
    source = work / "source"
    source.mkdir(parents=True)
    for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "zmsd", source / "zmsd", ignore=shutil.ignore_patterns("__pycache__"))
    init = source / "zmsd/__init__.py"
    init.write_text(re.sub('__version__ = ".+"', f'__version__ = "{version}"', init.read_text()))
    packages = prefix / f"lib/python{PYTHON}/site-packages"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile"]
    run(*pip, "--constraint", str(ROOT / "tests/constraints.txt"), "--target", str(packages), f"{source}[nats]")
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for file in packages.glob("zmsd-*/direct_url.json"):  # names a directory of this machine
        file.unlink()
    for shared in packages.rglob("*.so*"):
        run("strip", "--strip-unneeded", str(shared))
    (prefix / "bin").mkdir()
    for name, target in (("python3", "/usr/bin/python3"), ("python", "python3")):
        (prefix / "bin" / name).symlink_to(target)
    script = prefix / "bin/zmsd"
    script.write_text(ENTRY)
    script.chmod(0o755)
    (prefix / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")


def files(tree: Path) -> None:
    """Put the units, the settings and the examples where Debian has them."""
    for name, target in (
        ("zmsd.service", "usr/lib/systemd/system"),
        ("zmsd@.service", "usr/lib/systemd/system"),
        ("zmsd-verify.service", "usr/lib/systemd/system"),
        ("zmsd-verify.timer", "usr/lib/systemd/system"),
        ("254.conf", "usr/share/zmsd"),
        ("zero-cache.service", "usr/share/doc/zmsd/examples"),
    ):
        install(ROOT / "systemd" / name, tree / target / name)
    for file in sorted((ROOT / "etc").iterdir()):
        configures = file.name in ("zmsd.yaml", "schema.json", "mappings.json")
        install(file, tree / ("etc/zmsd" if configures else "usr/share/doc/zmsd/examples") / file.name)
    install(ROOT / "systemd/zmsd.sysusers", tree / "usr/lib/sysusers.d/zmsd.conf")
    install(FOLDER / "lintian-overrides", tree / "usr/share/lintian/overrides/zmsd")
    for shell, target in (
        ("bash", "usr/share/bash-completion/completions/zmsd"),
        ("zsh", "usr/share/zsh/vendor-completions/_zmsd"),
        ("fish", "usr/share/fish/vendor_completions.d/zmsd.fish"),
    ):
        file = tree / target
        file.parent.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            [sys.executable, "-m", "zmsd", "completion", shell], cwd=ROOT, capture_output=True, check=True
        )
        file.write_bytes(made.stdout)
        file.chmod(0o644)
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/zmsd").symlink_to("/opt/zmsd/bin/zmsd")


def pages(tree: Path) -> None:
    """Make the manual pages."""
    rst2man = Path(sys.executable).with_name("rst2man")
    for page in sorted((ROOT / "docs/man").glob("*.rst")):
        target = tree / f"usr/share/man/man{page.stem[-1]}/{page.stem}.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_gzip(target, run(str(rst2man), str(page)))


def document(folder: Path, version: str) -> None:
    install(FOLDER / "copyright", folder / "copyright")
    date = run("date", "--rfc-email", f"--date=@{os.environ.get('SOURCE_DATE_EPOCH', '1767225600')}").strip()
    entry = f"zmsd ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.rst.\n\n -- {maintainer()}  {date}\n"
    write_gzip(folder / "changelog.gz", entry)
    install(ROOT / "CHANGELOG.rst", folder / "CHANGELOG.rst")


def control(tree: Path, version: str, architecture: str) -> None:
    folder = tree / "DEBIAN"
    folder.mkdir()
    everything = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in everything) // 1024
    major, minor = sys.version_info[:2]
    python = f"python3 (>= {major}.{minor}~), python3 (<< {major}.{minor + 1})"
    text = (FOLDER / "control").read_text()
    for name, value in (("version", version), ("architecture", architecture), ("size", str(size)), ("python", python)):
        text = text.replace(f"@{name}@", value)
    (folder / "control").write_text(text)
    conffiles = [path for path in everything if path.is_relative_to(tree / "etc")]
    (folder / "conffiles").write_text("".join(f"/{path.relative_to(tree)}\n" for path in conffiles))
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in everything)
    (folder / "md5sums").write_text("".join(sums))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(FOLDER / name, folder)
        (folder / name).chmod(0o755)
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or (path.parent.name in ("bin", "DEBIAN") and path.stat().st_mode & 0o100)
            path.chmod(0o755 if executable else 0o644)


def maintainer() -> str:
    found = re.search("^Maintainer: (.+)$", (FOLDER / "control").read_text(), re.MULTILINE)
    assert found
    return found[1]


def install(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write_gzip(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def run(*command: str) -> str:
    """Run a command and return what it prints. Raises subprocess.CalledProcessError."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
