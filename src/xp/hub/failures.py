"""What goes wrong with a hub, as one sentence that says what to type next."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from xp.errors import UserError
from xp.foreign.text import printable
from xp.hub.address import DATASET, MODEL, HubAddress


@contextmanager
def told(address: HubAddress, what: str = "") -> Iterator[None]:
    """Errors of huggingface_hub in the block become a `UserError` about the repository.

    Args:
        address: what was asked for.
        what: what the block does, for the message of an error that is not known: "its files".
    """
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(_gated(address)) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(_no_repo(address)) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(_no_revision(address)) from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(_not_here(address, error)) from error
        raise UserError(f"{address}: the hub has lost one of its files ({_brief(error)}). {_AGAIN}") from error
    except (errors.RevisionResolutionError, errors.OfflineModeIsEnabled) as error:
        raise UserError(_not_here(address, error)) from error
    except errors.HfHubHTTPError as error:
        raise UserError(_refused(address, error.response.status_code, _brief(error))) from error
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError) as error:
        raise UserError(_unreachable(address, _brief(error))) from error
    except (ValueError, TypeError, KeyError, AssertionError, errors.FileMetadataError) as error:
        raise UserError(
            f"{address}: {endpoint()} does not answer as a hub does{f' about {what}' if what else ''} "
            f"({_brief(error)}). If HF_ENDPOINT is set, it should name a mirror of the hub: unset HF_ENDPOINT"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{address}: a download broke off ({_brief(error)}). {_AGAIN}") from error


_AGAIN = "Give the same command again: what is here already is kept."


def endpoint() -> str:
    """The hub that is asked: huggingface_hub's own, or what HF_ENDPOINT says."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE says that the hub is not to be asked."""
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _no_repo(address: HubAddress) -> str:
    other = _other_kind(address)
    if other is not None:
        is_a = {MODEL: "a model", DATASET: "a dataset"}
        return (
            f"{address}: {endpoint()} has no {address.kind} of this name, but {is_a[other.kind]}: {other.name}. Where "
            f"a {address.kind} is expected, give the id of one."
        )
    seen = (
        "that your token may see. Look at the spelling; if it is private, ask its owner for access"
        if _has_token()
        else "that anybody may see. Look at the spelling; if it is private, log in: hf auth login (or set HF_TOKEN)"
    )
    return f"{address}: {endpoint()} has no {address.kind} {address.repo} {seen}."


def _other_kind(address: HubAddress) -> HubAddress | None:
    """The repository of this name that is of the other kind, if there is one."""
    import dataclasses

    from huggingface_hub import HfApi

    other = dataclasses.replace(address, kind=MODEL if address.kind == DATASET else DATASET)
    try:
        there = HfApi().repo_exists(address.repo, repo_type=other.kind)
    except Exception:  # noqa: BLE001 - a guess for a message: without an answer there is none
        return None
    return other if there else None


def _gated(address: HubAddress) -> str:
    page = f"{endpoint()}/{'datasets/' if address.kind == DATASET else ''}{address.repo}"
    log_in = "" if _has_token() else " Then log in: hf auth login (or set HF_TOKEN)."
    return f"{address}: its owner gives access on request. Ask for it at {page}.{log_in}"


def _no_revision(address: HubAddress) -> str:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(address.repo, repo_type=address.kind)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # noqa: BLE001 - names for a message: without an answer there are none
        names = []
    known = f" It has {printable(', '.join(names[:8]))}." if names else ""
    step = (
        f" For the step {address.revision} of its policy type {address.name}@main@{address.revision}."
        if address.revision.isdigit()
        else ""
    )
    return (
        f"{address}: there is no revision {printable(address.revision)} (any more).{known}{step} Give a branch, a tag "
        f"or a commit that is there: {address.name}@REVISION"
    )


def _not_here(address: HubAddress, error: BaseException) -> str:
    if is_offline():
        return (
            f"{address}: HF_HUB_OFFLINE is set, and the hub's cache on this machine ({_cache()}) does not hold it (or "
            "not all of it). Give the same command once with network: HF_HUB_OFFLINE=0 xp ..."
        )
    return _unreachable(address, _brief(error.__cause__ or error))


def _unreachable(address: HubAddress, why: str) -> str:
    return (
        f"{address}: {endpoint()} cannot be reached ({why}). Give the command where there is network; or name a mirror "
        "in HF_ENDPOINT; or, with a commit that the hub's cache on this machine holds, set HF_HUB_OFFLINE=1."
    )


def _refused(address: HubAddress, status: int, why: str) -> str:
    if status in (401, 403):
        token = "the token that is set" if _has_token() else "no token is set, and none"
        return (
            f"{address}: {endpoint()} refuses access (HTTP {status}): {token} may not see or change it. Log in with "
            "one that may: hf auth login (or set HF_TOKEN)"
        )
    return f"{address}: {endpoint()} answers with HTTP {status} ({why}). {_AGAIN}"


def _brief(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__, 160)


def _cache() -> str:
    from huggingface_hub import constants

    home = os.path.expanduser("~")  # noqa: PTH111
    return str(constants.HF_HUB_CACHE).replace(home, "~", 1)
