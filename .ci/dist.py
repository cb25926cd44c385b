"""Builds the sdist, the wheel and the SBOM into dist/, twice, and checks them; see RELEASING.md."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
LIMIT = 25e6  # bytes of the wheel


def call(*command: str, cwd: Path = ROOT) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def build(target: Path, epoch: str) -> None:
    """Sdist and wheel of the committed files, from a fresh copy of them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        archive = Path(folder) / "head.tar"
        call("git", "archive", "--output", str(archive), "HEAD")
        with tarfile.open(archive) as files:
            files.extractall(source, filter="data")
        os.environ["SOURCE_DATE_EPOCH"] = epoch
        call(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), cwd=source)
    (sdist,) = target.glob("*.tar.gz")
    sdist.write_bytes(settled(sdist.read_bytes(), int(epoch)))


def settled(sdist: bytes, epoch: int) -> bytes:
    """The same files in their order, without what differs between two builds: times and owners."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(sdist)) as old,
        gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime, member.pax_headers = epoch, {}
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return out.getvalue()


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def main() -> int:
    epoch = call("git", "log", "-1", "--format=%ct").strip()
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        build(DIST, epoch)
        build(Path(folder), epoch)
        if digests(DIST) != digests(Path(folder)):
            print(f"two builds differ: {digests(DIST)} {digests(Path(folder))}", file=sys.stderr)
            return 1
    (wheel,) = DIST.glob("*.whl")
    if wheel.stat().st_size >= LIMIT:
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, the limit is {LIMIT:,.0f}")
        return 1
    files = [str(path) for path in DIST.iterdir()]
    print(call(sys.executable, "-m", "twine", "check", "--strict", *files), end="")
    sbom = ("cyclonedx_py", "requirements", "--output-reproducible", "--of", "JSON")
    call(sys.executable, "-m", *sbom, "-o", str(DIST / "sbom.cdx.json"), "constraints.txt")
    for name, digest in digests(DIST).items():
        print(f"{digest}  {name}  {(DIST / name).stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
