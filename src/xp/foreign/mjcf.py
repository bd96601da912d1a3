"""Robots described in MuJoCo's XML (MJCF): of a file from outside only the bodies are read, and only from its folder.

MuJoCo opens no file of it: it is given one text, in which what the file includes stands in its place, and the bytes of
the meshes that the text names. Left out is what is no body: options, sizes, pictures, cameras, lights, actuators,
sensors, keyframes. Refused by name is what else there is: parts that multiply (`replicate`, `composite`, `flexcomp`),
that run code (`plugin`, `extension`), that couple joints (`equality`, `tendon`), or that MuJoCo does not know.
"""

import hashlib
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xp.errors import join_names
from xp.foreign.paths import RefusedError, inside, member, opened
from xp.foreign.text import printable

MOST_TEXT = 8 << 20
"""Bytes of all XML files together."""
MOST_FILES = 64
MOST_MESH, MOST_MESHES = 64 << 20, 256 << 20
"""Bytes of one mesh, and of all."""
MOST_ELEMENTS, DEEPEST = 20_000, 100
MESH_TYPES = (".obj", ".stl")
_DROPPED = "texture hfield light camera"
_IN_BODIES = "body frame geom joint freejoint inertial site"
_CONTROL = "general motor position velocity intvelocity damper cylinder muscle adhesion"
_KEPT: Mapping[str, str] = {
    "mujoco": "compiler default asset worldbody contact",
    "default": "default geom joint site mesh material pair",
    "asset": "mesh material",
    "worldbody": _IN_BODIES,
    "body": _IN_BODIES,
    "frame": _IN_BODIES,
    "contact": "pair exclude",
}
"""{element: the elements inside it that are read}; others than these have none inside."""
_LEFT_OUT: Mapping[str, str] = {
    "mujoco": "option size visual statistic keyframe actuator sensor custom",
    "default": f"{_DROPPED} equality tendon {_CONTROL}",
    "asset": _DROPPED,
    "worldbody": _DROPPED,
    "body": _DROPPED,
    "frame": _DROPPED,
    "material": "layer",
}
_FOLDERS = ("meshdir", "assetdir", "texturedir", "strippath")


@dataclass(frozen=True)
class Mjcf:
    """The bodies of an MJCF."""

    path: Path
    """The file that was asked for."""
    text: str
    """One XML text without includes; meshes are named relative to the folder of `path`."""
    texts: tuple[Path, ...]
    """`path` and what it includes."""
    meshes: tuple[str, ...]
    """The files of meshes, by the names that `text` has for them."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is made of."""
        return (*self.texts, *(self.path.parent / name for name in self.meshes))

    def assets(self) -> dict[str, bytes]:
        """{name in `text`: content} of the meshes.

        Raises:
            RefusedError: a file is missing, too large, no file, or its header does not fit its size.
        """
        found, total = {}, 0
        for name in self.meshes:
            found[name] = _mesh(self.path.parent / name)
            total += len(found[name])
            if total > MOST_MESHES:
                raise RefusedError(f"{self.path} names meshes of more than {MOST_MESHES >> 20} MiB in all.")
        return found

    def digest(self) -> str:
        """The sha256 of what it is made of: the text that is read, and each mesh."""
        digest = hashlib.sha256(self.text.encode())
        for name, content in sorted(self.assets().items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()


def read_mjcf(path: Path) -> Mjcf:
    """The bodies that a file describes.

    Raises:
        RefusedError: the file is missing, no XML, too large or too deep; it names a file outside its folder, a mesh
            that is not there or of another kind than STL and OBJ; or it has parts that are not read (module's text).
    """
    reader = _Reader(path)
    root = reader.root()
    _keep_bodies(root, path)
    return Mjcf(path, ET.tostring(root, encoding="unicode"), tuple(reader.read), _meshes(root, path, reader.folders))


class _Reader:
    """Reads a file and what it includes, each once, as MuJoCo does."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, MOST_TEXT
        self.read: list[Path] = []
        self.folders: dict[str, str] = {}
        """What the compiler's elements say of folders; the last word counts, in whichever file it is."""

    def root(self) -> ET.Element:
        """The element `mujoco` with what is included in its place."""
        root = self._parsed(self._path)
        if root.tag != "mujoco":
            raise RefusedError(
                f"{self._path} is no MJCF: its root is <{printable(root.tag, 40)}>, not <mujoco>. Of a URDF MuJoCo "
                "makes one: mujoco.MjModel.from_xml_path, then mujoco.mj_saveLastXML."
            )
        self._include(root, 0)
        return root

    def _include(self, parent: ET.Element, depth: int) -> None:
        if depth > DEEPEST:
            raise RefusedError(f"{self._path} is nested more than {DEEPEST} elements deep.")
        children, waiting = list[ET.Element](), list(parent)[::-1]
        while waiting:
            child = waiting.pop()
            if child.tag == "include":
                waiting += self._included(child)[::-1]
            else:
                children.append(child)
        parent[:] = children
        for child in children:
            if child.tag == "compiler":
                self.folders |= {key: child.attrib.pop(key) for key in _FOLDERS if key in child.attrib}
            self._include(child, depth + 1)

    def _included(self, element: ET.Element) -> list[ET.Element]:
        what = f"{self._path}: <include file=...>"
        file = member(self._path.parent, element.get("file", ""), what)
        if file in self.read:
            raise RefusedError(f"{self._path} includes {printable(file)} twice: MuJoCo takes a file once.")
        if len(self.read) >= MOST_FILES:
            raise RefusedError(f"{self._path} is made of more than {MOST_FILES} XML files.")
        return list(self._parsed(file))

    def _parsed(self, file: Path) -> ET.Element:
        with opened(file, "a robot's description in MuJoCo's XML") as handle:
            content = handle.read(self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise RefusedError(f"{self._path} has more than {MOST_TEXT >> 20} MiB of XML, what it includes among it.")
        self.read.append(file)
        try:
            text = content.decode("utf-8-sig")
            if "<!DOCTYPE" in text or "<!ENTITY" in text:
                raise RefusedError(f"{file} declares a document type or entities, which an MJCF does not have.")
            return ET.fromstring(text)
        except (ET.ParseError, UnicodeDecodeError, ValueError) as error:
            raise RefusedError(f"{file} is no XML ({printable(error, 100)}).") from error


def _keep_bodies(root: ET.Element, path: Path) -> None:
    """Take out of the tree what is left out, and refuse what is not known."""
    count, waiting = 0, [root]
    while waiting:
        element = waiting.pop()
        kept, left_out = (table.get(element.tag, "").split() for table in (_KEPT, _LEFT_OUT))
        children = [child for child in element if child.tag not in left_out]
        for child in children:
            if child.tag not in kept:
                raise RefusedError(
                    f"{path}: <{printable(child.tag, 40)}> inside <{element.tag}> is not taken over. Of an MJCF "
                    f"{join_names(kept)} are read there; write the bodies out without it."
                )
        count += len(children)
        if count > MOST_ELEMENTS:
            raise RefusedError(f"{path} has more than {MOST_ELEMENTS} elements: a robot has some hundreds.")
        element[:] = children
        _keep_attributes(element, path)
        waiting += children


def _keep_attributes(element: ET.Element, path: Path) -> None:
    if element.tag == "material":
        element.attrib.pop("texture", None)
    if element.tag == "mesh" and ("builtin" in element.attrib or "params" in element.attrib):
        raise RefusedError(f"{path}: a mesh with `builtin` is made by MuJoCo and not read here: give a file.")
    if element.tag == "geom" and element.get("type") in ("hfield", "sdf"):
        raise RefusedError(f"{path}: a geom of type {element.get('type')} is not read; a robot has meshes and shapes.")


def _meshes(root: ET.Element, path: Path, folders: Mapping[str, str]) -> tuple[str, ...]:
    """Writes each mesh's file relative to the folder of `path` into the tree, and gives their names."""
    found: dict[str, None] = {}
    strip = folders.get("strippath") == "true"
    folder = folders.get("meshdir", folders.get("assetdir", ""))
    for element in _mesh_elements(root, path):
        given = element.get("file", "")
        name = str(PurePosixPath(folder) / (PurePosixPath(given).name if strip else given))
        file = inside(path.parent, name, f"{path}: the file of a mesh")
        if file.suffix.lower() not in MESH_TYPES:
            raise RefusedError(
                f"{path}: the mesh {printable(given, 80)} is of another kind than {join_names(MESH_TYPES)}: write it "
                "as one of them."
            )
        member(path.parent, name, f"a mesh that {path.name} names")
        element.set("file", name)
        found[name] = None
    return tuple(found)


def _mesh_elements(root: ET.Element, path: Path) -> Iterator[ET.Element]:
    for asset in root.findall("asset"):
        for element in asset.findall("mesh"):
            if element.get("content_type", "model/obj") not in ("model/obj", "model/stl", "model/vnd.obj"):
                given = printable(element.get("content_type"), 40)
                raise RefusedError(f"{path}: a mesh has the content_type {given}: expected model/obj or model/stl.")
            if "file" in element.attrib:
                yield element


def _mesh(file: Path) -> bytes:
    with opened(file, "a robot's mesh") as handle:
        content = handle.read(MOST_MESH + 1)
    if len(content) > MOST_MESH:
        raise RefusedError(f"{printable(file)} is larger than {MOST_MESH >> 20} MiB, the most that a mesh may have.")
    if file.suffix.lower() == ".stl":
        faces = struct.unpack_from("<I", content, 80)[0] if len(content) >= 84 else -1
        if len(content) != 84 + 50 * faces:
            raise RefusedError(
                f"{printable(file)} is no binary STL: {len(content)} bytes do not fit the {faces} triangles that its "
                "header announces (84 bytes and 50 for each)."
            )
    return content
