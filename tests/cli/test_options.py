"""What each mount option means, and what is said of those that mean nothing here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.cli import options
from unionfs.cli.errors import UsageError
from unionfs.cli.options import (
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
    MountOptions,
    apply,
)
from unionfs.cli.optstring import escape, join_layers
from unionfs.union.config import Config


def read(text: bytes) -> tuple[Config, MountOptions]:
    config, mount = Config(lower=[]), MountOptions()
    apply(text, config, mount)
    return config, mount


def fields(value: Config | MountOptions) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


def changed(text: bytes) -> dict[str, object]:
    """The fields that an option string sets to something else than their default."""
    config, mount = read(text)
    default = fields(Config(lower=[])) | fields(MountOptions())
    return {name: v for name, v in (fields(config) | fields(mount)).items() if v != default[name]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"lowerdir=/a:b,upperdir=/u,workdir=w", {"lower": [b"/a", b"b"], "upper": b"/u", "work": b"w"}),
        (rb"lowerdir=/a\:x:/b\,y,upperdir=/u\:\,\\", {"lower": [b"/a:x", b"/b,y"], "upper": b"/u:,\\"}),
        (b'lowerdir="/a,b:/c"', {"lower": [b"/a,b", b"/c"]}),
        (b"lowerdir=l1::d1::d2", {"lower": [b"l1"], "data": [b"d1", b"d2"]}),
        (b"lowerdir+=/a,lowerdir+=/b,datadir+=/d", {"lower": [b"/a", b"/b"], "data": [b"/d"]}),
        (b"lowerdir=/a:/b,lowerdir+=/c", {"lower": [b"/a", b"/b", b"/c"]}),
        (b"lowerdir=/a,lowerdir=/b::/d", {"lower": [b"/b"], "data": [b"/d"]}),
        (b"lowerdir=/a,lowerdir=", {}),
        (b"redirect_dir=off", {"redirect_dir": "off"}),
        (b"redirect_dir=follow", {"redirect_dir": "follow"}),
        (b"metacopy=on", {"metacopy": True}),
        (b"index=off,xino=off", {"index": False, "xino": False}),
        (b"index=on,xino=auto,metacopy=off", {}),
        (b"userxattr", {"userxattr": True}),
        (b"whiteout=aufs", {"whiteout": "aufs"}),
        (b"fsync=0", {"sync": False}),
        (b"fsync=1", {}),
        (b"volatile", {"volatile": True, "sync": False}),
        (b"uuid=on,nfs_export=off,verity=off,subtype=unionfs", {}),
        (b"uidmapping=:0:1000:1:1:100000:65536", {"uid_map": [(0, 1000, 1), (1, 100000, 65536)]}),
        (b"gidmapping=0:1000:1", {"gid_map": [(0, 1000, 1)]}),
        (b"squash_to_root", {"squash_uid": 0, "squash_gid": 0}),
        (b"squash_to_uid=1000,squash_to_gid=100", {"squash_uid": 1000, "squash_gid": 100}),
        (b"xattr_permissions=2", {"xattr_permissions": 2}),
        (b"noacl", {"acl": False}),
        (b"noxattrs", {"xattr": False}),
        (b"noxattrs=1", {"xattr": False}),
        (b"noxattrs=0", {}),
        (b"allow_other", {"allow_other": True}),
        (b"allow_root", {"allow_root": True}),
        (b"timeout=1.5", {"timeout": 1.5}),
        (b"timeout=0", {"timeout": 0.0}),
        (b"max_write=131072", {"max_write": 131072}),
        (b"passthrough=off,pacing=off", {"passthrough": False, "pacing": False}),
        (b"fsname=my\\,image", {"source": b"my,image"}),
        (b"private", {"private": True}),
        (b"nonempty,debug,foreground", {"nonempty": True, "debug": True, "foreground": True}),
        (b"log=/var/log/u,frontend=fusepy", {"log": b"/var/log/u", "frontend": "fusepy"}),
        (b'context="s0:c1,c2"', {"labels": [b'context="s0:c1,c2"']}),
        (b"ro", {"flags": MS_RDONLY, "readonly": True}),
        (b"ro,rw", {}),
        (b"nosuid,nodev,noexec", {"flags": MS_NOSUID | MS_NODEV | MS_NOEXEC}),
        (b"nosuid,suid,nodev,dev,noexec,exec,atime", {}),
        (b"noatime", {"flags": MS_NOATIME}),
        (b"noatime,relatime", {"flags": MS_RELATIME}),
        (b"relatime,strictatime", {"flags": MS_STRICTATIME}),
        (b"ro,nosuid,defaults", {}),
        # what Podman, Buildah and fstab pass without meaning anything to a union
        (b"work,,volatile".replace(b"work", b"default_permissions"), {"volatile": True, "sync": False}),
        (b"threaded=1,writeback=0,static_nlink,threaded", {}),
        (b"x-systemd.requires=/a,X-mount.mkdir,noauto,nofail,_netdev,comment=hello", {}),
        (b"", {}),
    ],
)
def test_meaning(text: bytes, expected: dict[str, object]) -> None:
    assert changed(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"lowrdir=/a", r"unknown option 'lowrdir'; did you mean 'lowerdir'\?"),
        (b"volatle", r"unknown option 'volatle'; did you mean 'volatile'\?"),
        (b"zzzz=1", r"unknown option 'zzzz'$"),
        (b"\xff\x01", r"unknown option '\\xff\\x01'$"),
        (b"=x", "unknown option ''"),
        (b"upperdir", "option upperdir needs a value: upperdir="),
        (b"upperdir=", "option upperdir: the path is empty"),
        (b"lowerdir=/a::", "option lowerdir: empty entry at position 4"),
        (b"lowerdir=/a::/d:/b", "option lowerdir: a layer .* below data-only layers"),
        (b"lowerdir=/a::/d,lowerdir+=/b", r"option lowerdir\+: a layer cannot come below data-only layers"),
        (b"datadir+=/d", r"option datadir\+: a data-only layer needs a layer above it"),
        (b"volatile=1", "option volatile takes no value"),
        (b"metacopy=maybe", "option metacopy: must be on or off, not 'maybe'"),
        (b"redirect_dir=yes", "option redirect_dir: must be on, follow, nofollow or off, not 'yes'"),
        (b"whiteout=x", "option whiteout: must be auto, device, xattr or aufs"),
        (b"xattr_permissions=1", "option xattr_permissions: must be 0 or 2"),
        (b"nfs_export=on", "option nfs_export: 'on' is not supported"),
        (b"verity=require", "option verity: 'require' is not supported"),
        (b"uidmapping=0:1", "option uidmapping: must be CONTAINER:HOST:LENGTH"),
        (b"uidmapping=0:1:x", "option uidmapping: must be CONTAINER:HOST:LENGTH"),
        (b"uidmapping=0:1:0", "option uidmapping: a range is empty"),
        (b"gidmapping=0:4294967295:2", "option gidmapping: a range .* ends beyond"),
        (b"squash_to_uid=-1", "option squash_to_uid: must be a number from 0"),
        (b"squash_to_uid=4294967296", "option squash_to_uid: must be a number from 0"),
        (b"timeout=nan", "option timeout: must be a number of seconds"),
        (b"timeout=", "option timeout: must be a number of seconds"),
        (b"frontend=c", "option frontend: must be auto, kernel or fusepy"),
        (b"remount", "option remount is not supported: unmount and mount again"),
        (b"plugins=/x", "option plugins is not supported"),
        (b'context="s0', "never closed"),
    ],
)
def test_mistakes_are_named(text: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@given(st.binary())
def test_no_string_does_worse_than_a_usage_error(text: bytes) -> None:
    message = ""
    try:
        read(text)
    except UsageError as error:
        message = str(error)
    assert message.isprintable()


names = st.text(min_size=1).map(str.encode)


@given(st.lists(names, min_size=1), st.lists(names), names)
def test_any_paths_can_be_spelled(lower: list[bytes], data: list[bytes], upper: bytes) -> None:
    config, _ = read(b"ro,lowerdir=" + join_layers(lower, data) + b",upperdir=" + escape(upper) + b",noacl")
    assert (config.lower, config.data, config.upper, config.acl) == (lower, data, upper, False)


def test_500_layers() -> None:
    lower = [b"/var/lib/containers/storage/overlay/l/" + b"%026d" % i for i in range(500)]
    assert read(b"lowerdir=" + b":".join(lower))[0].lower == lower


def documented() -> set[str]:
    """The options in docs/options.md: the code spans in the first cell of each row, without values."""
    text = (Path(__file__).parents[2] / "docs" / "options.md").read_text()
    cells = re.findall(r"^\| (`(?:[^|]|\\\|)*) \|", text, re.MULTILINE)
    return {re.split(r"(?<!\+)=|\+=", span)[0] + ("+" if "+=" in span else "")
            for cell in cells for span in re.findall(r"`([^`]+)`", cell)}  # fmt: skip


def test_the_documentation_lists_exactly_the_options_that_there_are() -> None:
    known = {name.decode() for name in (*options.OPTIONS, *options.REFUSED)}
    assert documented() - {"x-*", "X-*"} == known
