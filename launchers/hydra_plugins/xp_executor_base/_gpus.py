"""GPUs of a machine: which may be used, whether somebody uses them, and a lock on each that all accounts see.

Standard library of Python 3.8+: the ssh launcher sends this file to its nodes. Where nvidia-smi is missing or fails,
nothing is known of memory and processes, and only the locks decide.
"""

import collections
import contextlib
import csv
import errno
import fcntl
import os
import pwd
import re
import shutil
import stat
import subprocess

USED_MAX = 0.1
"""Share of a GPU's memory that others may use on one that is taken."""
CONTEXT_MB = 200
"""Memory of a process that computes, at least: a CUDA context takes more, idle daemons of the driver less."""
LIMIT_S = 20.0
LOCK_PLACES = ("/run/lock", "/tmp")
"""Where all accounts may write and none may remove another's files; the first that is so."""

Device = collections.namedtuple("Device", "name uuid")
"""`name` is what CUDA_VISIBLE_DEVICES gets (an index of nvidia-smi, or a UUID); `uuid` is empty where not known."""


def nvidia_smi(arguments, path=None):
    """Lines of nvidia-smi's answer; none where it is missing or fails."""
    command = shutil.which("nvidia-smi", path=path)
    if command is None and path is None and os.path.exists("/usr/bin/nvidia-smi"):
        command = "/usr/bin/nvidia-smi"
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode(errors="replace").splitlines()


def parse_list(lines):
    """[(device, its MIG devices)] from the lines of `nvidia-smi --list-gpus`."""
    found = []
    for line in lines:
        uuid = re.search(r"\(UUID: ([^)]+)\)", line)
        if line.startswith("GPU "):
            found.append((Device(str(len(found)), uuid.group(1) if uuid else ""), []))
        elif line.lstrip().startswith("MIG ") and uuid and found:
            found[-1][1].append(Device(uuid.group(1), uuid.group(1)))
    return found


def visible(there, given):
    """The devices that a process may use: those of CUDA_VISIBLE_DEVICES if it is set, in its order, as CUDA reads it.

    Args:
        there: [(device, its MIG devices)] of the machine; a GPU that is divided stands for its parts.
        given: the variable's text, or None. What it names and `there` does not have is taken by its word.
    """
    whole = {device.name: parts or [device] for device, parts in there}
    every = [device for device, _ in there] + [part for _, parts in there for part in parts]
    if given is None:
        return [each for parts in whole.values() for each in parts]
    found = []
    for word in (each.strip() for each in given.split(",")):
        if word in ("", "-1") or word.lower() in ("nodevfiles", "none", "void"):
            break  # CUDA stops at the first entry that is no device
        known = [device for device in every if device.uuid and device.uuid.startswith(word)]
        if word.isdigit():
            chosen = whole.get(word, [Device(word, "")])[:1]
        else:
            chosen = [Device(word, known[0].uuid)] if len(known) == 1 else [Device(word, "")]
        found += [each for each in chosen if each not in found]
    return found


def devices(environment=None):
    """The devices that this process may use."""
    path = None if environment is None else environment.get("PATH", "")
    given = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    return visible(parse_list(nvidia_smi(["--list-gpus"], path)), given)


def usage(path=None):
    """{index and UUID of each GPU: (MB used, MB there)} and {UUID: [(pid, MB, name)]}; empty where nobody can tell."""
    memory, processes = {}, {}
    form = "--format=csv,noheader,nounits"
    for row in csv.reader(nvidia_smi(["--query-gpu=index,uuid,memory.used,memory.total", form], path)):
        with contextlib.suppress(ValueError):
            index, uuid, used, total = (each.strip() for each in row)
            memory[index] = memory[uuid] = (float(used), float(total))
    question = "--query-compute-apps=gpu_uuid,pid,used_memory,process_name"
    for row in csv.reader(nvidia_smi([question, form], path)):
        if len(row) >= 4 and row[1].strip().isdigit():
            number = row[2].strip()
            held = float(number) if re.fullmatch(r"[0-9.]+", number) else None
            name = os.path.basename(",".join(row[3:]).strip().split(" ")[0])[:40]
            processes.setdefault(row[0].strip(), []).append((int(row[1]), held, name))
    return memory, processes


def in_use(device, known, used_max=USED_MAX):
    """Why a device counts as taken by somebody else, in words; empty if it does not, or nobody can tell.

    Args:
        device: one whose lock this process holds: no job of xp is on it.
        known: what `usage` gave.
        used_max: share of its memory that others may use; from 1 on nothing is looked at.
    """
    if used_max >= 1:
        return ""
    memory, processes = known
    there = processes.get(device.uuid, [])
    heavy = [each for each in there if each[1] is None or each[1] >= CONTEXT_MB]
    used, total = memory.get(device.uuid) or memory.get(device.name) or (0.0, 0.0)
    if not heavy and used <= used_max * total:
        return ""
    who = ", ".join(_who(pid, name) for pid, _, name in (heavy or there)[:3]) or "somebody"
    much = f"{used / 1024:.1f} of {total / 1024:.1f} GB" if total else "it"
    return f"GPU {device.name}: {much} in use by {who}"


def _who(pid, name):
    try:
        user = pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
    except (OSError, KeyError):
        return f"process {pid} ({name})"
    return f"process {pid} ({name}) of {user}"


def lock_folder():
    """A folder in which all accounts of the machine see the same locks; the home's where there is none."""
    for place in LOCK_PLACES:
        with contextlib.suppress(OSError):
            there = os.lstat(place)
            if stat.S_ISDIR(there.st_mode) and there.st_mode & 0o1002 == 0o1002:
                return place
    folder = os.path.expanduser("~/.xp/locks")
    os.makedirs(folder, exist_ok=True)
    return folder


def lock(device):
    """A descriptor that holds the device for this process and all that inherit it, and words why there is none."""
    name = re.sub(r"[^A-Za-z0-9-]", "_", device.uuid or f"index-{device.name}")[:100]
    path = os.path.join(lock_folder(), f"xp-gpu-{name}.lock")
    while True:
        try:
            descriptor = _open_lock(path)
        except OSError as error:
            return None, f"GPU {device.name}: its lock {path} cannot be opened ({error.strerror})"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None, f"GPU {device.name}: another job of xp has it"
        try:
            there, here = os.lstat(path), os.fstat(descriptor)
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                return descriptor, ""
        except OSError:
            pass
        os.close(descriptor)  # somebody removed the file meanwhile: that lock excludes nobody


def _open_lock(path):
    """Open a file that anybody may have put there: no link is followed, nothing but a plain file is taken.

    A file of another account is opened without O_CREAT, which the kernel refuses in such folders
    (fs.protected_regular), and for reading if need be: that is enough for a lock.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags | os.O_RDWR)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)
        except PermissionError:
            descriptor = os.open(path, flags | os.O_RDONLY)
    except FileExistsError:
        return _open_lock(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file")
    return descriptor


def take(chosen, number, used_max=USED_MAX, path=None):
    """Lock `number` of the given devices that nobody uses.

    Returns:
        ({device: descriptor}, lines): the dict is empty if there are too few; a line for each that could not be had.
    """
    held, lines, known = {}, [], None
    for device in chosen:
        if len(held) == number:
            break
        descriptor, why = lock(device)
        if descriptor is not None and used_max < 1:
            known = usage(path) if known is None else known
            why = in_use(device, known, used_max)
            if why:
                os.close(descriptor)
                descriptor = None
        if descriptor is None:
            lines.append(why)
        else:
            held[device] = descriptor
    if len(held) == number:
        return held, lines
    for descriptor in held.values():
        os.close(descriptor)
    return {}, lines


def settings_for(chosen):
    """Environment variables that show a process these devices and no others.

    nvidia-smi counts GPUs by their place on the bus; CUDA does so only where it is told.
    """
    names = [device.name for device in chosen]
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if any(name.isdigit() for name in names) else {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), **order}
