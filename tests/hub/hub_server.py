"""A small hub on loopback that speaks the API of the Hugging Face Hub, as far as downloads and uploads need it.

Repositories with branches and commits; info at a revision; the tree of a commit, page by page; files with ETag,
X-Repo-Commit and ranges; private and gated repositories; commits with regular files and files of git LFS.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 50
"""Entries on one page of a tree."""
LFS_ABOVE = 10_000
"""Larger files are kept by git LFS."""


@dataclass
class Repo:
    """A repository: its commits by hash, its branches and tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit with exactly these files, on a branch; gives its hash."""
        known = "".join(f"{name}\0{hashlib.sha1(data).hexdigest()}\0" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{len(self.commits)}{known}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        return commit


class Hub:
    """The hub: `url` is what HF_ENDPOINT has to be."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens = {"good-token"}
        self.asked: list[str] = []
        """`METHOD path` of every request."""
        self.sent: Counter[str] = Counter()
        """Bytes of content sent, by file name."""
        self.cut_after: dict[str, int] = {}
        """{file name: bytes after which the connection is cut, once}."""
        self.headers: dict[str, str] = {}
        """Headers that replace those of files."""
        self.rename: Callable[[str], str] = lambda name: name
        """What a name is called in a tree."""
        self.uploaded: dict[str, bytes] = {}
        self.stopped = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        """No answer any more, on connections that are open neither."""
        self.stopped = True
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes], kind: str = "dataset", **fields: bool) -> str:
        """A commit on main of a repository, which is made if it is new; gives the hash."""
        return self.repos.setdefault((kind, name), Repo(**fields)).commit(files)

    def add_folder(self, name: str, folder: Path, kind: str = "dataset", below: str = "", **more: bytes) -> str:
        """`add`, with the files of a folder."""
        files = {f"{below}{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.add(name, {**files, **{key.replace("__", "."): value for key, value in more.items()}}, kind)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = url.path
        self.hub.asked.append(f"{self.command} {unquote(path)}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.stopped:
            self.close_connection = True
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            for pattern, method in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found is not None:
                    method(self, *map(unquote, found.groups("")), query=parse_qs(url.query), body=body)
                    return
            self._json({"error": f"no route {path}"}, 404)

    def _json(self, content: object, status: int = 200, **headers: str) -> None:
        self._bytes(json.dumps(content).encode(), status, **{"Content-Type": "application/json", **headers})

    def _bytes(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, code: str, text: str) -> None:
        self._json({"error": text}, status, **{"X-Error-Code": code, "X-Error-Message": text})

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get((kind, name))
        known = self._token in self.hub.tokens
        if repo is None or (repo.private and not known):
            self._error(404 if known else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.gated and not known:
            self._error(403, "GatedRepo", "Access to this repository is restricted")
            return None
        return repo

    def _commit(self, repo: Repo, revision: str) -> str | None:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def info(self, kinds: str, name: str, revision: str, **_: object) -> None:
        kind = kinds.removesuffix("s")
        repo = self._repo(kind, name)
        commit = self._commit(repo, revision or "main") if repo is not None else None
        if repo is not None and commit is not None:
            siblings = [{"rfilename": each} for each in repo.commits[commit]]
            facts = {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []}
            self._json({**facts, "downloads": 0, "likes": 0, "gated": repo.gated, "disabled": False})

    def refs(self, kinds: str, name: str, **_: object) -> None:
        repo = self._repo(kinds.removesuffix("s"), name)
        if repo is not None:
            refs = [{"name": each, "ref": f"refs/{each}", "targetCommit": commit} for each, commit in repo.refs.items()]
            branches, tags = ([ref for ref in refs if (ref["name"] in repo.tags) is tag] for tag in (False, True))
            self._json({"branches": branches, "converts": [], "tags": tags})

    def tag(self, kinds: str, name: str, revision: str, body: bytes, **_: object) -> None:
        repo = self._repo(kinds.removesuffix("s"), name) if self._may_write() else None
        if repo is None:
            return
        if self.command == "DELETE":
            repo.tags.discard(revision)
            del repo.refs[revision]
        else:
            made = json.loads(body)["tag"]
            if made in repo.tags:
                self._error(409, "", "Tag reference exists already")
                return
            repo.refs[made] = repo.refs.get(revision, revision)
            repo.tags.add(made)
        self._json({})

    def tree(self, kinds: str, name: str, revision: str, query: dict[str, list[str]], **_: object) -> None:
        repo = self._repo(kinds.removesuffix("s"), name)
        commit = self._commit(repo, revision) if repo is not None else None
        if repo is None or commit is None:
            return
        files = list(repo.commits[commit].items())
        start = int(query.get("cursor", ["0"])[0])
        entries = [self._entry(each, data) for each, data in files[start : start + PAGE]]
        more = start + PAGE < len(files)
        url = f"{self.hub.url}/api/{kinds}/{name}/tree/{revision}?recursive=True&cursor={start + PAGE}"
        self._json(entries, **({"Link": f'<{url}>; rel="next"'} if more else {}))

    def _entry(self, name: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": self.hub.rename(name), "size": len(data)}
        entry["oid"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        if len(data) > LFS_ABOVE:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def resolve(self, kinds: str, name: str, revision: str, file: str, **_: object) -> None:
        repo = self._repo("dataset" if kinds else "model", name)
        commit = self._commit(repo, revision) if repo is not None else None
        if repo is None or commit is None:
            return
        data = repo.commits[commit].get(file)
        if data is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        large = len(data) > LFS_ABOVE
        etag = hashlib.sha256(data).hexdigest() if large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        given = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes", **self.hub.headers}
        if large:
            given = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data)), **given}
        begin = self.headers.get("Range", "")
        if not begin:
            self._content(file, data, 200, given)
            return
        first = int(begin.removeprefix("bytes=").split("-")[0])
        given["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self._content(file, data[first:], 206, given)

    def _content(self, file: str, data: bytes, status: int, headers: dict[str, str]) -> None:
        cut = self.hub.cut_after.pop(file, None) if self.command == "GET" else None
        if self.command == "GET":
            self.hub.sent[file] += len(data if cut is None else data[:cut])
        if cut is None:
            self._bytes(data, status, **headers)
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])
        self.wfile.flush()
        self.close_connection = True

    def _may_write(self) -> bool:
        if self._token not in self.hub.tokens:
            self._error(401, "", "Invalid username or password.")
            return False
        return True

    def create(self, body: bytes, **_: object) -> None:
        if not self._may_write():
            return
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        kind = asked.get("type", "model")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        self.hub.repos[kind, name] = Repo(private=bool(asked.get("private")) or asked.get("visibility") == "private")
        self.hub.add(name, {".gitattributes": b"* text\n"}, kind)
        self._json({"url": url, "name": name})

    def validate_yaml(self, **_: object) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kinds: str, name: str, revision: str, body: bytes, **_: object) -> None:
        if not self._may_write() or self._repo(kinds.removesuffix("s"), name) is None:
            return
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] > LFS_ABOVE else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for each in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def lfs_batch(self, kinds: str, name: str, body: bytes, **_: object) -> None:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "authenticated": True,
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}},
            }
            for each in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects}, **{"Content-Type": "application/vnd.git-lfs+json"})

    def lfs_put(self, oid: str, body: bytes, **_: object) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.uploaded[oid] = body
        self._json({})

    def commit(self, kinds: str, name: str, revision: str, body: bytes, **_: object) -> None:
        repo = self._repo(kinds.removesuffix("s"), name) if self._may_write() else None
        if repo is None:
            return
        files = dict(repo.commits.get(repo.refs.get(revision, ""), {}))
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repo.commit(files, revision)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (rf"/api/(models|datasets)/{_REPO}/refs", _Handler.refs),
    (rf"/api/(models|datasets)/{_REPO}/preupload/([^/]+)", _Handler.preupload),
    (rf"/api/(models|datasets)/{_REPO}/commit/([^/]+)", _Handler.commit),
    (rf"/api/(models|datasets)/{_REPO}/tree/([^/]+)", _Handler.tree),
    (rf"/api/(models|datasets)/{_REPO}/tag/([^/]+)", _Handler.tag),
    (rf"/api/(models|datasets)/{_REPO}(?:/revision/([^/]+))?", _Handler.info),
    (rf"/(datasets/)?{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/lfs/([0-9a-f]{64})", _Handler.lfs_put),
    (rf"/(datasets/)?{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
)
