"""Upload of an exported policy to the Hugging Face hub, through `huggingface_hub` (extra `hub`)."""

from __future__ import annotations

from pathlib import Path

from mtrl.errors import BadInput, StorageFailure
from mtrl.export.folder import FILES


def push(folder: Path, repo_id: str, *, private: bool = False, message: str = "policy of mtrl-suite") -> str:
    """Uploads what `export` wrote, in one commit, to a repository that is made if it is missing; returns its address.

    The token is that of `hf auth login` or HF_TOKEN. Raises BadInput, and StorageFailure where the hub is not reached.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ModuleNotFoundError as error:
        raise BadInput(f"mtrl push needs {error.name}; pip install 'mtrl-suite[hub]'") from error
    api = HfApi(library_name="mtrl-suite")
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, allow_patterns=list(FILES), commit_message=message
        )
    except LocalTokenNotFoundError as error:
        raise BadInput("no token for the hub: hf auth login, or the environment variable HF_TOKEN") from error
    except HFValidationError as error:
        raise BadInput(
            f"--repo-id {repo_id!r} is no name of a repository, such as you/mt10-policy: {_line(error)}"
        ) from error
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        hint = "; is the token that of hf auth login, with the right to write?" if code in (401, 403) else ""
        raise BadInput(f"the hub refuses {repo_id!r}: {_line(error)}{hint}") from error
    except Exception as error:  # of whatever library speaks HTTP
        raise StorageFailure(
            f"the hub {api.endpoint} cannot be reached: {type(error).__name__}: {_line(error)}"
        ) from error
    return str(address)


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
